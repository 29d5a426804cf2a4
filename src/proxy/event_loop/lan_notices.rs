//! What is wrong with a LAN now.

use std::net::IpAddr;
use std::time::Duration;

use crate::notice::Notice;
use crate::proxy::config::InterfaceTask;
use crate::proxy::control::status::QuerierStatus;

/// The notice of a LAN whose querier has been silent for `timeout`, or where none was heard for so long.
pub(super) fn no_querier_notice(config: &InterfaceTask, timeout: Duration) -> Notice {
    let (interface, upstream) = (config.name.clone(), config.upstream.clone());
    Notice::NoQuerier { interface, upstream, silent_s: timeout.as_secs() }
}

/// The same of the MLD querier.
pub(super) fn no_mld_querier_notice(config: &InterfaceTask, timeout: Duration) -> Notice {
    let (interface, upstream) = (config.name.clone(), config.upstream.clone());
    Notice::NoMldQuerier { interface, upstream, silent_s: timeout.as_secs() }
}

/// A notice when the querier of the LAN speaks a version without source lists while groups are joined
/// with one, which `with_sources` are. The first version with source lists is `with_lists`.
pub(super) fn querier_notice(
    config: &InterfaceTask,
    querier: &QuerierStatus,
    with_lists: u8,
    with_sources: &[IpAddr],
) -> Option<Notice> {
    let (interface, upstream) = (config.name.clone(), config.upstream.clone());
    if with_sources.is_empty() || querier.version >= with_lists {
        return None;
    }
    Some(Notice::QuerierWithoutSourceLists {
        interface,
        upstream,
        querier: querier.address,
        querier_version: querier.version,
        groups: with_sources.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::attachment::IgmpMode;
    use crate::multicast::GroupPolicy;

    const GROUP: IpAddr = IpAddr::V4(Ipv4Addr::new(232, 1, 1, 1));

    fn config() -> InterfaceTask {
        InterfaceTask {
            name: "mc0".into(),
            index: 7,
            mac: None,
            announce: Vec::new(),
            parent: "eth1".into(),
            upstream: "eth2".into(),
            upstream_index: 3,
            igmp: IgmpMode::Proxy,
            mld: false,
            policy: GroupPolicy::default(),
            egress: None,
            remade: false,
            query_interval: None,
            relay: None,
        }
    }

    fn querier(version: u8) -> QuerierStatus {
        let address = Ipv4Addr::new(10, 0, 0, 1).into();
        QuerierStatus { address, version, interval_s: None, last_query_s: 3 }
    }

    #[test]
    fn an_old_querier_matters_only_where_sources_are_named() {
        let with =
            |version, groups: &[IpAddr]| querier_notice(&config(), &querier(version), 3, groups);
        for version in [1, 2] {
            assert_eq!(with(version, &[]), None);
            assert_eq!(
                with(version, &[GROUP]).expect("a notice").to_string(),
                format!(
                    "mc0: the querier 10.0.0.1 on eth2 speaks IGMPv{version}, which has no source \
                     lists: the LAN forwards 232.1.1.1 from any source"
                )
            );
        }
        let many = with(2, &[GROUP; 3]).expect("a notice").to_string();
        assert!(many.ends_with("the LAN forwards 232.1.1.1 and 2 more from any source"), "{many}");
        assert_eq!(with(3, &[GROUP]), None);
    }
}
