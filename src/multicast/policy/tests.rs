use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::multicast::policy::*;

fn rules(list: &[&str]) -> Vec<GroupRule> {
    list.iter().map(|rule| rule.parse().unwrap()).collect()
}

fn policy(deny: &[&str], allow: &[&str]) -> GroupPolicy {
    GroupPolicy { deny: rules(deny), allow: rules(allow), ..GroupPolicy::default() }
}

fn include(sources: &[&str]) -> SourceFilter {
    SourceFilter::include(sources.iter().map(|s| s.parse().unwrap()))
}

fn exclude(sources: &[&str]) -> SourceFilter {
    SourceFilter::exclude(sources.iter().map(|s| s.parse().unwrap()))
}

fn apply(policy: &GroupPolicy, group: &str, wish: SourceFilter) -> Result<SourceFilter, String> {
    policy.apply(group.parse().unwrap(), &wish)
}

fn denied(text: &str) -> Result<SourceFilter, String> {
    Err(text.into())
}

#[test]
fn rules_are_read_and_shown() {
    for text in [
        "239.0.0.0/8",
        "224.0.0.0/4",
        "239.1.1.1",
        "232.1.1.1@10.0.0.5",
        "ff00::/8",
        "ff00::/12",
        "ff05::1:3",
        "ff3e::/32@2001:db8::/32",
        "ff3e::8000:1@fe80::1",
    ] {
        assert_eq!(text.parse::<GroupRule>().unwrap().to_string(), text);
    }
    let shown = |text: &str| text.parse::<GroupRule>().unwrap().to_string();
    assert_eq!(shown("239.1.2.3/16"), "239.1.0.0/16", "host bits are cleared");
    assert_eq!(shown("239.1.2.3/32"), "239.1.2.3");
    assert_eq!(shown("FF05:0::1/16"), "ff05::/16");
    assert_eq!(shown("232.0.0.0/8@10.1.2.3/8"), "232.0.0.0/8@10.0.0.0/8");
}

#[test]
fn bad_rules_are_refused_in_one_line_that_names_the_value() {
    let hint = "a rule is GROUP[/PREFIX][@SOURCE[/PREFIX]], such as 239.1.0.0/16, \
                232.1.1.1@10.0.0.5 or ff05::1:3, or one of mdns, ssdp, matter, ros2, ptp, sap";
    let no_address = |text: &str, what| format!("{text:?} is not the address of a {what}; {hint}");
    let no_prefix = |text: &str, most| {
        format!("{text:?} is not a prefix length; it is a number from 0 to {most}")
    };
    let unicast = |net| format!("{net} is not within 224.0.0.0/4, where multicast groups are");
    let unicast_v6 = |net| format!("{net} is not within ff00::/8, where multicast groups are");
    let families = |group, source| {
        format!(
            "{group} and {source} are of different address families; a group and its source are of \
             one"
        )
    };
    let zone = |text: &str| {
        format!(
            "{text:?} has a zone; a rule is about the interface of its attachment and names none"
        )
    };
    let reserved =
        |net, scope| format!("{net}: groups of scope {scope} are reserved (RFC 4291 section 2.7)");
    let cases = [
        ("", no_address("", "group")),
        ("239.1", no_address("239.1", "group")),
        ("ff3e::x", no_address("ff3e::x", "group")),
        ("239.1.1.1@", no_address("", "source")),
        ("239.1.1.1@x", no_address("x", "source")),
        ("239.1.1.1@10.0.0.1@10.0.0.2", no_address("10.0.0.1@10.0.0.2", "source")),
        ("239.0.0.0/33", no_prefix("33", 32)),
        ("239.0.0.0/", no_prefix("", 32)),
        ("239.0.0.0/+8", no_prefix("+8", 32)),
        ("ff05::/129", no_prefix("129", 128)),
        ("10.0.0.0/8", unicast("10.0.0.0/8")),
        ("224.0.0.0/3", unicast("224.0.0.0/3")),
        ("2001:db8::1", unicast_v6("2001:db8::1/128")),
        ("fe00::/7", unicast_v6("fe00::/7")),
        ("239.1.1.1@239.1.1.1", "239.1.1.1/32 is not a unicast source".into()),
        ("239.1.1.1@0.0.0.0", "0.0.0.0/32 is not a unicast source".into()),
        ("ff3e::1@ff0e::1", "ff0e::1/128 is not a unicast source".into()),
        ("ff3e::1@::", "::/128 is not a unicast source".into()),
        ("ff3e::1@10.0.0.1", families("ff3e::1/128", "10.0.0.1/32")),
        ("232.1.1.1@2001:db8::1", families("232.1.1.1/32", "2001:db8::1/128")),
        ("ff02::fb%eth0", zone("ff02::fb%eth0")),
        ("ff3e::1@fe80::1%2", zone("fe80::1%2")),
        ("ff00::1", reserved("ff00::1/128", "0")),
        ("ff3f::/16", reserved("ff3f::/16", "f")),
        (
            "ff01::fb",
            "ff01::fb/128: groups of scope 1 never leave the container, so that no rule is about them"
                .into(),
        ),
    ];
    for (text, error) in cases {
        assert_eq!(text.parse::<GroupRule>().unwrap_err().to_string(), error);
        assert!(!error.contains('\n'));
    }
}

#[test]
fn deny_goes_before_allow_and_any_allow_denies_the_rest() {
    let policy = policy(&["239.1.1.0/24"], &["239.1.0.0/16"]);
    assert_eq!(apply(&policy, "239.1.2.3", SourceFilter::any()), Ok(SourceFilter::any()));
    assert_eq!(apply(&policy, "239.1.1.3", SourceFilter::any()), denied("deny=239.1.1.0/24"));
    assert_eq!(apply(&policy, "239.2.0.1", SourceFilter::any()), denied("no allow rule names it"));
    assert_eq!(apply(&policy, "239.1.2.3", include(&["10.0.0.1"])), Ok(include(&["10.0.0.1"])));
    assert_eq!(apply(&policy, "239.1.1.3", include(&["10.0.0.1"])), denied("deny=239.1.1.0/24"));
}

#[test]
fn a_rule_is_about_its_family_and_any_allow_completes_the_list_of_both() {
    let of = |policy: &GroupPolicy, group: &str| match group.parse().unwrap() {
        std::net::IpAddr::V4(group) => policy.apply(group, &SourceFilter::any()).map(|_| ()),
        std::net::IpAddr::V6(group) => policy.apply(group, &SourceFilter::any()).map(|_| ()),
    };
    let none = || Err("no allow rule names it".to_owned());
    let v4 = policy(&["224.0.0.0/4"], &[]);
    assert_eq!(of(&v4, "ff0e::1"), Ok(()));
    let v4 = policy(&[], &["239.1.0.0/16"]);
    assert_eq!(of(&v4, "239.1.0.1"), Ok(()));
    assert_eq!(of(&v4, "ff0e::1"), none());
    // Neighbour discovery, mDNS and PTP go on.
    for group in ["ff02::1:ff00:1", "ff02::fb", "ff05::181", "224.0.1.129"] {
        assert_eq!(of(&v4, group), Ok(()), "{group}");
    }
    let v6 = policy(&["ff05::181"], &["ff05::/16"]);
    assert_eq!(of(&v6, "ff05::1"), Ok(()));
    assert_eq!(of(&v6, "ff05::181"), Err("deny=ff05::181".into()));
    assert_eq!(of(&v6, "ff0e::1"), none());
    assert_eq!(of(&v6, "239.1.0.1"), none());
}

#[test]
fn no_rules_let_everything_through() {
    for wish in
        [SourceFilter::any(), SourceFilter::none(), include(&["10.0.0.1"]), exclude(&["10.0.0.1"])]
    {
        assert_eq!(apply(&GroupPolicy::default(), "239.1.1.1", wish.clone()), Ok(wish));
    }
}

#[test]
fn an_allow_with_a_source_turns_any_source_into_it() {
    let policy = policy(&[], &["232.1.1.1@10.0.0.5", "232.1.1.1@10.0.0.6"]);
    let group = "232.1.1.1";
    assert_eq!(apply(&policy, group, SourceFilter::any()), Ok(include(&["10.0.0.5", "10.0.0.6"])));
    assert_eq!(apply(&policy, group, exclude(&["10.0.0.5"])), Ok(include(&["10.0.0.6"])));
    assert_eq!(
        apply(&policy, group, include(&["10.0.0.5", "10.0.0.9"])),
        Ok(include(&["10.0.0.5"]))
    );
    assert_eq!(apply(&policy, group, include(&["10.0.0.9"])), denied("no allow rule names it"));
}

#[test]
fn ssm_strict_denies_what_names_no_source_and_nothing_else() {
    let rules = policy(&[], &["232.1.1.1@10.0.0.5", "232.2.0.0/16", "239.0.0.0/8"]);
    let strict = GroupPolicy { ssm_strict: true, ..rules };
    let any = |group| apply(&strict, group, SourceFilter::any());
    assert_eq!(any("232.1.1.1"), Ok(include(&["10.0.0.5"])));
    assert_eq!(any("232.2.1.1"), denied("ssm-strict=true"));
    assert_eq!(any("232.3.1.1"), denied("no allow rule names it"));
    assert_eq!(any("239.1.1.1"), Ok(SourceFilter::any()));
    assert_eq!(apply(&strict, "232.2.1.1", include(&["10.0.0.9"])), Ok(include(&["10.0.0.9"])));
    let denies = |group: &str| strict.denies_any_source::<Ipv4Addr>(group.parse().unwrap());
    assert!(denies("232.2.1.1") && !denies("232.1.1.1") && !denies("239.1.1.1"));
}

#[test]
fn an_allow_without_a_source_is_wider_than_one_with() {
    let policy = policy(&[], &["239.0.0.0/8@10.0.0.5", "239.1.0.0/16"]);
    assert_eq!(apply(&policy, "239.1.1.1", SourceFilter::any()), Ok(SourceFilter::any()));
    assert_eq!(apply(&policy, "239.2.1.1", SourceFilter::any()), Ok(include(&["10.0.0.5"])));
}

#[test]
fn a_deny_with_a_source_takes_it_out() {
    let policy = policy(&["239.0.0.0/8@10.0.0.9"], &[]);
    let group = "239.1.1.1";
    assert_eq!(apply(&policy, group, SourceFilter::any()), Ok(exclude(&["10.0.0.9"])));
    assert_eq!(
        apply(&policy, group, exclude(&["10.0.0.1"])),
        Ok(exclude(&["10.0.0.1", "10.0.0.9"]))
    );
    assert_eq!(
        apply(&policy, group, include(&["10.0.0.1", "10.0.0.9"])),
        Ok(include(&["10.0.0.1"]))
    );
    assert_eq!(apply(&policy, group, include(&["10.0.0.9"])), denied("deny=239.0.0.0/8@10.0.0.9"));
}

#[test]
fn a_denied_source_is_taken_out_of_the_allowed_ones() {
    let policy = policy(&["239.0.0.0/8@10.0.0.5"], &["239.1.1.1@10.0.0.5", "239.1.1.1@10.0.0.6"]);
    assert_eq!(apply(&policy, "239.1.1.1", SourceFilter::any()), Ok(include(&["10.0.0.6"])));
}

#[test]
fn source_prefixes_judge_named_sources_and_never_widen_any_source() {
    let allow = policy(&[], &["239.1.1.1@10.0.0.0/24"]);
    assert_eq!(
        apply(&allow, "239.1.1.1", include(&["10.0.0.1", "10.0.1.1"])),
        Ok(include(&["10.0.0.1"]))
    );
    assert_eq!(
        apply(&allow, "239.1.1.1", SourceFilter::any()),
        denied("allow=239.1.1.1@10.0.0.0/24 is for joins that name their sources")
    );
    let deny = policy(&["239.1.1.1@10.0.0.0/24"], &[]);
    assert_eq!(
        apply(&deny, "239.1.1.1", SourceFilter::any()),
        denied("deny=239.1.1.1@10.0.0.0/24: a join from any source can't leave it out")
    );
    assert_eq!(
        apply(&deny, "239.1.1.1", include(&["10.0.0.1", "10.0.1.1"])),
        Ok(include(&["10.0.1.1"]))
    );
}

#[test]
fn groups_of_link_scope_are_always_allowed_and_ptp_unless_denied() {
    let closed = policy(&["224.0.0.0/4"], &[]);
    assert_eq!(apply(&closed, "224.0.0.107", SourceFilter::any()), Ok(SourceFilter::any()));
    assert_eq!(apply(&closed, "224.0.1.129", SourceFilter::any()), denied("deny=224.0.0.0/4"));
    let other = policy(&[], &["239.0.0.0/8"]);
    assert_eq!(apply(&other, "224.0.1.129", SourceFilter::any()), Ok(SourceFilter::any()));
    assert_eq!(apply(&other, "224.0.1.130", SourceFilter::any()), denied("no allow rule names it"));
    let grandmaster = policy(&[], &["224.0.1.129@10.0.0.1"]);
    assert_eq!(apply(&grandmaster, "224.0.1.129", SourceFilter::any()), Ok(include(&["10.0.0.1"])));
}

/// A rule about one group, or all groups, from one source or from any.
fn rule<A: Address>(group: Option<A>, source: Option<A>) -> GroupRule {
    let single = |address: A| IpNet::from(address.into());
    GroupRule { groups: group.map_or(A::GROUPS, single), sources: source.map(single) }
}

fn rules_apply_to_both_families_alike<A: Address, Other: Address>() {
    let group = |n: u128| A::from_number(A::PTP_PRIMARY[0].to_number() + n);
    let source = |n: u128| A::from_number(A::DOCUMENTATION.to_number() + n);
    let allow = |rules: &[GroupRule]| GroupPolicy { allow: rules.into(), ..GroupPolicy::default() };
    let deny = |rules: &[GroupRule]| GroupPolicy { deny: rules.into(), ..GroupPolicy::default() };
    let any = SourceFilter::any;

    let one = rule(Some(group(1)), None);
    assert_eq!(allow(&[one]).apply(group(1), &any()), Ok(any()));
    assert_eq!(allow(&[one]).apply(group(2), &any()), Err("no allow rule names it".to_owned()));
    assert_eq!(allow(&[one]).apply(A::PTP_PRIMARY[0], &any()), Ok(any()), "PTP goes on");
    assert_eq!(deny(&[one]).apply(group(1), &any()), Err(format!("deny={}", group(1))));
    assert_eq!(deny(&[one]).apply(group(2), &any()), Ok(any()));

    let from_one = rule(Some(group(1)), Some(source(1)));
    let named = SourceFilter::include([source(1)]);
    assert_eq!(allow(&[from_one]).apply(group(1), &any()), Ok(named.clone()));
    let both = SourceFilter::include([source(1), source(2)]);
    assert_eq!(allow(&[from_one]).apply(group(1), &both), Ok(named));
    let without = SourceFilter::exclude([source(1)]);
    assert_eq!(deny(&[from_one]).apply(group(1), &any()), Ok(without));

    let everything = rule::<A>(None, None);
    assert_eq!(deny(&[everything]).apply(A::ALL_SYSTEMS, &any()), Ok(any()), "link scope");
    assert!(!deny(&[everything]).data_filter::<A>().is_empty());
    let other = rule::<Other>(None, None);
    assert_eq!(deny(&[other]).apply(group(1), &any()), Ok(any()), "a rule of the other family");
    assert!(deny(&[other]).data_filter::<A>().is_empty());
    assert_eq!(
        allow(&[other]).apply(group(1), &any()),
        Err("no allow rule names it".to_owned()),
        "any allow rule denies the rest"
    );
}

#[test]
fn rules_apply_to_both_families() {
    rules_apply_to_both_families_alike::<Ipv4Addr, Ipv6Addr>();
    rules_apply_to_both_families_alike::<Ipv6Addr, Ipv4Addr>();
}

#[test]
fn rules_are_stored_as_their_text() {
    let policy = policy(&["239.1.0.0/16"], &["232.1.1.1@10.0.0.5"]);
    let text = serde_json::to_string(&policy).unwrap();
    assert!(text.contains(r#""deny":[{"groups":"239.1.0.0/16"}]"#), "{text}");
    assert!(text.contains(r#"{"groups":"232.1.1.1/32","sources":"10.0.0.5/32"}"#), "{text}");
    assert_eq!(serde_json::from_str::<GroupPolicy>(&text).unwrap(), policy);
}
