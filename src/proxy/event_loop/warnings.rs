//! What is wrong with a LAN, in words.

use std::net::IpAddr;
use std::time::Instant;

use crate::igmp::Timing;
use crate::igmp::wire::Version;
use crate::proxy::config::InterfaceTask;
use crate::proxy::control::status::QuerierStatus;

/// What the kernel does on an upstream without an IPv4 address.
pub(super) fn unnumbered(upstream: &str) -> String {
    format!(
        "{upstream} has no IPv4 address: the host's IGMP reports come from 0.0.0.0, which some switches \
         ignore; an address of any kind on {upstream} helps"
    )
}

/// Says so when nobody asks the switches of the LAN who listens, or when who asks does it in a
/// version that has no source lists while some are wanted: as of the moment somebody asks.
///
/// `up_since` is when the interface came up, `querier` the querier that is present, `with_sources` the
/// groups that are joined with a source list.
pub(super) fn about_querier(
    now: Instant,
    config: &InterfaceTask,
    up_since: Option<Instant>,
    querier: Option<&QuerierStatus>,
    with_sources: &[IpAddr],
) -> Option<String> {
    let InterfaceTask { name, upstream, .. } = config;
    let Some(QuerierStatus { address, version, .. }) = querier else {
        // RFC 9776 §8.5: only then a querier that was there is taken for gone.
        let patience = Timing::default().other_querier_present_interval();
        let listened = up_since.map(|since| now.saturating_duration_since(since));
        return listened.filter(|time| *time >= patience).map(|_| {
            format!(
                "{name}: no IGMP querier on {upstream} for {} s: snooping switches forget what is \
                 joined; enable one on the LAN",
                patience.as_secs()
            )
        });
    };
    let (first, others) = with_sources.split_first()?;
    if *version >= Version::V3.number() {
        return None;
    }
    let more = match others.len() {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    Some(format!(
        "{name}: the querier {address} on {upstream} speaks IGMPv{version}, which has no source lists: \
         the LAN forwards {first}{more} from any source"
    ))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

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
            policy: GroupPolicy::default(),
            relay: None,
        }
    }

    fn querier(version: u8) -> QuerierStatus {
        let address = Ipv4Addr::new(10, 0, 0, 1).into();
        QuerierStatus { address, version, interval_s: None, last_query_s: 3 }
    }

    #[test]
    fn a_querier_is_missed_when_the_link_was_up_for_255_seconds() {
        let up = Instant::now();
        let after = |seconds, up_since| {
            about_querier(up + Duration::from_secs(seconds), &config(), up_since, None, &[])
        };
        assert_eq!(after(254, Some(up)), None);
        let warning = after(255, Some(up)).expect("a warning");
        assert!(warning.starts_with("mc0: no IGMP querier on eth2 for 255 s"), "{warning}");
        assert_eq!(after(1000, None), None, "a link that is down is silent");
        let present = querier(3);
        assert_eq!(about_querier(up, &config(), Some(up), Some(&present), &[GROUP]), None);
    }

    #[test]
    fn an_old_querier_is_told_of_only_where_sources_are_wanted() {
        let now = Instant::now();
        let with = |version, groups: &[IpAddr]| {
            about_querier(now, &config(), Some(now), Some(&querier(version)), groups)
        };
        for version in [1, 2] {
            assert_eq!(with(version, &[]), None);
            assert_eq!(
                with(version, &[GROUP]).expect("a warning"),
                format!(
                    "mc0: the querier 10.0.0.1 on eth2 speaks IGMPv{version}, which has no source \
                     lists: the LAN forwards 232.1.1.1 from any source"
                )
            );
        }
        let many = with(2, &[GROUP; 3]).expect("a warning");
        assert!(many.ends_with("the LAN forwards 232.1.1.1 and 2 more from any source"), "{many}");
        assert_eq!(with(3, &[GROUP]), None);
    }
}
