//! What is wrong with a LAN now.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::igmp::Timing;
use crate::igmp::wire::Version;
use crate::notice::Notice;
use crate::proxy::config::InterfaceTask;
use crate::proxy::control::status::QuerierStatus;

/// How long an interface listens before the LAN counts as one without a querier: as long as after the
/// last query of one that was there (RFC 9776 §8.5).
pub(super) fn no_querier_after() -> Duration {
    Timing::default().other_querier_present_interval()
}

/// A notice when the LAN has no querier, or when its querier speaks a version without source lists
/// while groups are joined with one.
///
/// `listening_since` is when a proxy of the container began to listen, `querier` the querier that is
/// present, `with_sources` the groups that are joined with a source list.
pub(super) fn querier_notice(
    now: Instant,
    config: &InterfaceTask,
    listening_since: Option<Instant>,
    querier: Option<&QuerierStatus>,
    with_sources: &[IpAddr],
) -> Option<Notice> {
    let (interface, upstream) = (config.name.clone(), config.upstream.clone());
    let Some(querier) = querier else {
        let interval = no_querier_after();
        let listened = listening_since.map(|since| now.saturating_duration_since(since));
        return listened.filter(|time| *time >= interval).map(|_| Notice::NoQuerier {
            interface,
            upstream,
            silent_s: interval.as_secs(),
        });
    };
    if with_sources.is_empty() || querier.version >= Version::V3.number() {
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
    fn a_querier_is_missing_when_the_link_was_up_for_255_seconds() {
        let up = Instant::now();
        let after = |seconds, up_since| {
            querier_notice(up + Duration::from_secs(seconds), &config(), up_since, None, &[])
        };
        assert_eq!(after(254, Some(up)), None);
        let (interface, upstream) = ("mc0".to_owned(), "eth2".to_owned());
        let missing = Notice::NoQuerier { interface, upstream, silent_s: 255 };
        assert_eq!(after(255, Some(up)), Some(missing));
        assert_eq!(after(1000, None), None, "a link that is down is silent");
        let present = querier(3);
        assert_eq!(querier_notice(up, &config(), Some(up), Some(&present), &[GROUP]), None);
    }

    #[test]
    fn an_old_querier_matters_only_where_sources_are_named() {
        let now = Instant::now();
        let with = |version, groups: &[IpAddr]| {
            querier_notice(now, &config(), Some(now), Some(&querier(version)), groups)
        };
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
