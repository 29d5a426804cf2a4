//! Arbitrary sequences of events: whatever the container and the LAN do, what upstream is
//! told stays within the policy and the limits.

use proptest::prelude::*;

use crate::igmp::RouterConfig;
use crate::igmp::router::Status;
use crate::igmp::router::tests::lab::*;
use crate::igmp::wire::{GroupRecord, Message, Query, RecordType, Version};
use crate::multicast::GroupPolicy;
use crate::multicast::{FilterMode, SourceFilter};

#[derive(Debug, Clone)]
enum Event {
    Pass(u64),
    Message(Message),
    LanQuery(usize, Query),
    LinkUp,
    Requery,
    Membership(usize, SourceFilter),
    Policy(usize),
    Noise(Vec<u8>),
}

const GROUPS: [&str; 9] = [
    "239.1.1.1",
    "239.1.1.2",
    "239.2.2.2",
    "239.3.3.3",
    "232.1.1.1",
    "232.2.2.2",
    "224.0.0.251",
    "224.0.1.129",
    "10.0.0.1",
];
const QUERIERS: [&str; 3] = ["0.0.0.0", "192.0.2.1", "192.0.2.2"];

fn policies() -> Vec<GroupPolicy> {
    let small = GroupPolicy { max_groups: 2, max_sources: 2, ..GroupPolicy::default() };
    vec![
        GroupPolicy::default(),
        small.clone(),
        GroupPolicy { max_groups: 0, ..small },
        policy(&["239.1.0.0/16", "239.2.0.0/16@10.0.0.0/8"], &[]),
        GroupPolicy { ssm_strict: true, ..GroupPolicy::default() },
        GroupPolicy { max_groups: 2, ..policy(&["239.0.0.0/8@10.0.0.1"], &[]) },
        GroupPolicy { max_sources: 1, ..policy(&["239.0.0.0/8@10.0.0.4"], &[]) },
        policy(&["239.0.0.0/8@10.0.0.1"], &["239.0.0.0/8", "232.0.0.0/8@10.0.0.0/30"]),
        policy(&[], &["232.1.1.1@10.0.0.2", "239.3.3.3@10.0.0.1", "239.3.3.3@10.0.0.3"]),
    ]
}

fn sources() -> impl Strategy<Value = Vec<std::net::Ipv4Addr>> {
    let source = (0..5u32).prop_map(|n| std::net::Ipv4Addr::from(0x0a00_0000 + n));
    prop::collection::vec(source, 0..4)
}

fn group() -> impl Strategy<Value = usize> {
    0..GROUPS.len()
}

fn multicast() -> impl Strategy<Value = std::net::Ipv4Addr> {
    (0..GROUPS.len() - 1).prop_map(|n| ip(GROUPS[n]))
}

fn a_record() -> impl Strategy<Value = GroupRecord> {
    (0..8u8, group(), sources()).prop_map(|(kind, group, sources)| GroupRecord {
        kind: RecordType::from(kind),
        group: ip(GROUPS[group]),
        sources,
    })
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        6 => prop::collection::vec(a_record(), 0..4).prop_map(Message::ReportV3),
        1 => multicast().prop_map(|group| Message::ReportV1 { group }),
        1 => multicast().prop_map(|group| Message::ReportV2 { group }),
        1 => multicast().prop_map(|group| Message::LeaveV2 { group }),
    ]
}

fn query() -> impl Strategy<Value = Query> {
    let version = prop::sample::select(vec![Version::V1, Version::V2, Version::V3]);
    prop_oneof![
        version.prop_map(general),
        (multicast(), sources()).prop_map(|(group, sources)| Query {
            group: Some(group),
            sources,
            ..Query::general(seconds(1))
        }),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let exclude = any::<bool>();
    prop_oneof![
        3 => prop::sample::select(vec![0, 1, 500, 999, 2000, 30_000, 126_000, 280_000])
            .prop_map(Event::Pass),
        8 => message().prop_map(Event::Message),
        2 => (0..QUERIERS.len(), query()).prop_map(|(src, query)| Event::LanQuery(src, query)),
        1 => Just(Event::LinkUp),
        1 => Just(Event::Requery),
        1 => (group(), exclude, sources()).prop_map(|(group, exclude, list)| {
            let make = if exclude { SourceFilter::exclude } else { SourceFilter::include };
            Event::Membership(group, make(list))
        }),
        1 => (0..policies().len()).prop_map(Event::Policy),
        1 => prop::collection::vec(any::<u8>(), 0..60).prop_map(Event::Noise),
    ]
}

/// What holds after each event, once everything was polled.
fn check(lab: &Lab, policy: &GroupPolicy, config: &RouterConfig) -> Result<(), TestCaseError> {
    let max_groups = policy.max_groups as usize;
    let mut admitted = 0;
    let mut refused = 0;
    for view in lab.router.groups() {
        let group = view.group;
        prop_assert!(group.is_multicast() && group.octets()[..3] != [224, 0, 0]);
        prop_assert!(!view.wanted.is_none());
        let told = lab.upstream.get(&group).cloned().unwrap_or_else(SourceFilter::none);
        prop_assert_eq!(&told, &view.upstream, "upstream was told all of {}", group);
        match &view.status {
            Status::Allowed => {
                admitted += 1;
                prop_assert!(!told.is_none());
            }
            Status::Denied(_) => {
                refused += 1;
                prop_assert!(told.is_none());
            }
            Status::Limited(limit) if limit.starts_with("max-groups") => {
                refused += 1;
                prop_assert!(told.is_none());
                prop_assert!(lab.upstream.len() >= max_groups, "{} waits, with room", group);
            }
            Status::Limited(_) => admitted += 1,
        }
        // Nothing wider than the wish, whatever the policy makes of it.
        if view.wanted.mode == FilterMode::Include {
            prop_assert_eq!(told.mode, FilterMode::Include);
            prop_assert!(told.sources.is_subset(&view.wanted.sources));
        }
        let rules = policy.deny.len() + policy.allow.len();
        prop_assert!(told.sources.len() <= policy.max_sources as usize + rules);
    }
    prop_assert_eq!(lab.upstream.len(), admitted, "nothing is joined that is not shown");
    prop_assert!(admitted <= max_groups);
    prop_assert!(refused <= config.max_refused + 256);
    for (group, filter) in &lab.upstream {
        let ssm = group.octets()[0] == 232;
        let any_source = filter.mode == FilterMode::Exclude;
        prop_assert!(!(ssm && any_source && policy.ssm_strict), "{} from any source", group);
        let again = policy.apply(*group, filter);
        prop_assert_eq!(again.as_ref(), Ok(filter), "upstream holds what is denied");
    }
    Ok(())
}

proptest! {
    #[test]
    fn whatever_happens_upstream_stays_within_policy_and_limits(
        fast_leave in any::<bool>(),
        events in prop::collection::vec(event(), 1..60),
    ) {
        let config = RouterConfig { fast_leave, max_refused: 3, ..RouterConfig::default() };
        let policies = policies();
        let mut policy = policies[0].clone();
        let mut lab = Lab::with(config.clone(), policy.clone());
        for event in events {
            match event {
                Event::Pass(time) => lab.pass(ms(time)),
                Event::Message(message) => lab.send(message),
                Event::LanQuery(src, query) => lab.lan_query(ip(QUERIERS[src]), &query),
                Event::LinkUp => lab.event(|router, now| router.handle_link_up(now)),
                Event::Requery => lab.event(|router, now| router.requery(now)),
                Event::Membership(group, filter) => {
                    let group = ip(GROUPS[group]);
                    let known = lab.router.groups().any(|view| view.group == group);
                    let predicted = lab.router.predict_join(lab.now, group, &filter);
                    lab.event(|router, now| router.handle_membership(now, group, &filter));
                    let told = lab.upstream.get(&group);
                    prop_assert!(predicted.is_none() || predicted.as_ref() == told);
                    let is_cut = filter.sources.len() > policy.max_sources as usize
                        || filter.sources.contains(&ip("0.0.0.0"));
                    prop_assert!(known || is_cut || predicted.as_ref() == told);
                }
                Event::Policy(n) => {
                    policy = policies[n].clone();
                    lab.event(|router, now| router.set_policy(now, policy.clone()));
                }
                Event::Noise(bytes) => lab.packet(&bytes),
            }
            check(&lab, &policy, &config)?;
        }
        // In silence everything ends.
        lab.pass(seconds(600));
        prop_assert_eq!(lab.upstream.len(), 0);
        prop_assert_eq!(lab.router.groups().count(), 0);
    }
}
