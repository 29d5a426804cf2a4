//! The syntax, value by value.

use crate::attachment::syntax::*;
use crate::attachment::{IgmpMode, IpAssignment};
use crate::primitives::MacvlanMode;

fn error(text: &str) -> String {
    parse_spec(text).unwrap_err().to_string()
}

#[test]
fn defaults() {
    let a = parse_spec("parent=eth0").unwrap();
    assert_eq!(a.parent.as_str(), "eth0");
    assert_eq!(a.driver, Driver::Macvlan(MacvlanMode::Bridge));
    assert_eq!(a.ip, IpAssignment::None);
    assert_eq!((a.igmp, a.metric), (IgmpMode::Proxy, 500));
    assert_eq!((a.policy.max_groups, a.policy.max_sources), (256, 64));
}

#[test]
fn every_supported_key() {
    let a = parse_spec(
        " parent=eth0, driver=macvlan,mode=vepa,ip=10.0.0.5/24,ip=2001:db8::5/64,gw=10.0.0.1,\
         gw=fe80::1,metric=7,route=10.1.0.0/16@10.0.0.2,route=10.2.0.0/16,\
         mac=02:00:00:00:00:01,mtu=9000,name=red,igmp=proxy,upstream=eth1,allow=239.0.0.0/8,\
         deny=239.1.1.1,max-groups=10,max-sources=3,bcqueuelen=5000,bclim=-1 ",
    )
    .unwrap();
    assert_eq!(a.ip.addresses().len(), 2);
    assert_eq!(a.gateways.len(), 2);
    assert_eq!(a.routes[0].to_string(), "10.1.0.0/16@10.0.0.2");
    assert_eq!(a.mac.unwrap().to_string(), "02:00:00:00:00:01");
    assert_eq!((a.mtu, a.bclim, a.bcqueuelen), (Some(9000), Some(-1), Some(5000)));
    assert_eq!(a.interface_name(3).as_str(), "red");
    let json = serde_json::to_string(&a).unwrap();
    assert_eq!(serde_json::from_str::<Attachment>(&json).unwrap(), a);
}

#[test]
fn every_wrong_value_is_named_with_its_key() {
    for (text, expected) in [
        ("", "empty part"),
        ("eth0", "did you mean parent=eth0?"),
        ("parnet=eth0", "did you mean parent?"),
        ("xyzzyxyzzy=1", "there are net, parent, vlan, driver"),
        ("parent=", "parent= has no value; write parent=INTERFACE"),
        ("parent=a/b", "parent=a/b: has '/'"),
        ("parent=sixteencharacter", "parent=sixteencharacter: 16 characters long"),
        ("parent=a,parent=b", "given twice"),
        ("ip=10.0.0.5/24", "parent= is missing"),
        ("parent=a,driver=macvlam", "did you mean macvlan?"),
        ("parent=a,driver=ipvlan,mode=bridge", "there are l2, l3, l3s"),
        ("parent=a,driver=ipvlan,flag=passthru", "there are bridge, private, vepa"),
        (
            "parent=a,driver=ipvlan,mac=02:00:00:00:00:01",
            "mac=02:00:00:00:00:01: mac is for macvlan, not for driver=ipvlan,mode=l2",
        ),
        (
            "parent=a,driver=ipvlan,max-pps=5",
            "max-pps=5: max-pps is for relay and ipvlan with mode=l3 or mode=l3s, not for driver=ipvlan,mode=l2",
        ),
        (
            "parent=a,driver=ipvlan,mode=l3,igmp=native",
            "with driver=ipvlan,mode=l3, which needs igmp=proxy",
        ),
        (
            "parent=a,driver=relay,ip=10.0.0.1/8",
            "ip=10.0.0.1/8: ip is for macvlan and ipvlan, not for driver=relay",
        ),
        ("parent=a,driver=relay,igmp=off", "with driver=relay, which needs igmp=proxy"),
        ("parent=a,flag=bridge", "flag=bridge: flag is for ipvlan, not for driver=macvlan"),
        (
            "parent=a,interface=eth0",
            "interface=eth0: interface is for relay, not for driver=macvlan",
        ),
        ("parent=a,mode=brige", "did you mean bridge?"),
        ("parent=a,vlan=0", "vlan=0: not a number from 1 to 4094"),
        ("parent=a,vlan=4095", "vlan=4095: not a number from 1 to 4094"),
        ("parent=a,vlan=ten", "vlan=ten: not a number from 1 to 4094"),
        (
            "parent=enp130s0f0np0,vlan=1000",
            "vlan=1000: its link would be called enp130s0f0np0.1000, of 18 characters; an interface name has at most 15",
        ),
        ("parent=a,net=red", "net=red: networks are not known here"),
        ("parent=a,net=a/b", "net=a/b: not the name of a network"),
        ("parent=a,ip=10.0.0.5", "prefix length is missing"),
        ("parent=a,ip=10.0.0.0/24", "network's own"),
        ("parent=a,ip=10.0.0.255/24", "broadcast"),
        ("parent=a,ip=239.1.1.1/24", "multicast address"),
        ("parent=a,ip=10.0.0.999/24", "ip=10.0.0.999/24: not ADDRESS/PREFIX"),
        ("parent=a,ip=dhcp,ip=10.0.0.5/24", "ip=dhcp contradicts ip=10.0.0.5/24"),
        ("parent=a,ip=dhcp,ip=none", "ip=dhcp contradicts ip=none"),
        ("parent=a,ip=dhcp,ip=pool", "ip=dhcp contradicts ip=pool"),
        (
            "parent=a,ip=dhcp,driver=ipvlan,mode=l3",
            "ip=dhcp: a link of ipvlan mode l3 hears no broadcast",
        ),
        ("parent=a,ip=dhcp,gw=fd00::1", "in no subnet"),
        ("parent=a,ip=none,ip=slaac", "ip=slaac contradicts ip=none"),
        ("parent=a,ip=dhcp,ip=dhcp6", "ip=dhcp contradicts ip=dhcp6"),
        ("parent=a,ip=dhcp6,ip=fd00::7/64", "ip=dhcp6 contradicts ip=fd00::7/64"),
        ("parent=a,ip=dhcp6,driver=ipvlan", "ip=dhcp6: links of ipvlan share one MAC address"),
        ("parent=a,ip=dhcp6,ipv6=off", "ipv6=off contradicts ip=dhcp6"),
        (
            "parent=a,ip=slaac,driver=ipvlan,mode=l3s",
            "ip=slaac: a link of ipvlan mode l3s hears no router; give mode=l2",
        ),
        ("parent=a,driver=relay,ipv6=on,ip=fd00::5/64", "ip is for macvlan and ipvlan"),
        ("parent=a,ipv6=yes", "ipv6=yes: on or off is needed"),
        ("parent=a,ipv6=off,ip=fd00::5/64", "ipv6=off contradicts ip=fd00::5/64"),
        ("parent=a,ipv6=off,ip=slaac", "ipv6=off contradicts ip=slaac"),
        ("parent=a,ipv6=off,gw=fe80::1", "ipv6=off contradicts gw=fe80::1"),
        ("parent=a,ipv6=off,route=fd00::/8", "ipv6=off contradicts route=fd00::/8"),
        ("parent=a,gw=fe80::1", "in no subnet"),
        ("parent=a,ip=slaac,gw=fd00::1", "in no subnet"),
        ("parent=a,ipv6=on,mtu=1279", "mtu=1279: IPv6 needs 1280"),
        ("parent=a,ip=none,ip=10.0.0.5/24", "contradicts"),
        ("parent=a,ip=10.0.0.5/24,ip=10.0.0.5/16", "given twice"),
        ("parent=a,gw=10.0.0.1", "in no subnet"),
        ("parent=a,ip=10.0.0.5/24,gw=10.0.1.1", "in no subnet"),
        ("parent=a,ip=10.0.0.5/24,gw=10.0.0.1,gw=10.0.0.2", "given already"),
        ("parent=a,gw=x", "gw=x: \"x\" is not an IP address"),
        ("parent=a,metric=5", "needs gw="),
        ("parent=a,ip=10.0.0.5/24,gw=10.0.0.1,metric=0", "metric=0: not a number from 1"),
        ("parent=a,route=10.0.0.5/24", "did you mean 10.0.0.0/24?"),
        ("parent=a,route=ten", "not a network"),
        ("parent=a,route=10.0.0.0/8@fe80::1", "different address families"),
        ("parent=a,mac=01:00:5e:00:00:01", "multicast address"),
        ("parent=a,mac=02:00", "too short"),
        ("parent=a,mac=02:00:00:00:00:zz", "\"zz\" is not a byte"),
        ("parent=a,mtu=67", "mtu=67: not a number from 68 to 65535"),
        ("parent=a,name=lo", "reserved"),
        ("parent=a,name=..", "not a name"),
        ("parent=a,igmp=prox", "did you mean proxy?"),
        (
            "parent=a,igmp=native,deny=239.0.0.0/8",
            "deny=239.0.0.0/8: the proxy enforces deny, which needs igmp=proxy",
        ),
        ("parent=a,max-groups=5,igmp=off", "needs igmp=proxy"),
        ("parent=a,upstream=a b", "has ' '"),
        ("parent=a,allow=10.0.0.0/8", "allow=10.0.0.0/8"),
        ("parent=a,deny=239.0.0.0/33", "deny=239.0.0.0/33"),
        ("parent=a,max-groups=0", "max-groups=0: not a number from 1 to 65535"),
        ("parent=a,max-sources=many", "max-sources=many: not a number"),
        ("parent=a,bcqueuelen=0", "bcqueuelen=0: not a number"),
        ("parent=a,bclim=-2", "bclim=-2: not a number"),
    ] {
        let message = error(text);
        assert!(message.contains(expected), "{text:?} gave {message:?}, not {expected:?}");
        assert!(!message.contains('\n'), "{text:?} gave more than a line");
    }
}

#[test]
fn what_is_quoted_cannot_break_the_line() {
    assert!(error("parent=b\n\u{1b}[2J=").starts_with("parent=b\\n\\u{1b}[2J=: "));
    assert!(error(&format!("parent={}", "x".repeat(10_000))).len() < 600);
}

#[test]
fn several_attachments() {
    let list = parse_list("parent=red ; parent=blue").unwrap();
    let names: Vec<_> =
        list.iter().enumerate().map(|(i, a)| a.interface_name(i).to_string()).collect();
    assert_eq!(names, ["mc0", "mc1"]);
    assert_eq!(parse_list(" \n").unwrap(), []);
    let error = |text: &str| parse_list(text).unwrap_err().to_string();
    let same_vlan = error("parent=a,vlan=7,driver=ipvlan;parent=a,vlan=7");
    assert!(same_vlan.contains("to a.7 has driver=ipvlan"), "{same_vlan}");
    parse_list("parent=a,vlan=7,driver=ipvlan;parent=a,vlan=8").unwrap();
    assert!(error("parent=a;parent=b,name=mc0").contains("name=mc0: two attachments"));
    assert!(error("parent=a;").contains("empty part"));
    for (one, other, expected) in [
        ("driver=ipvlan", "driver=ipvlan,mode=l3", "mode=l3: another attachment"),
        ("driver=ipvlan", "driver=ipvlan,flag=vepa", "to a has flag=bridge"),
        ("driver=macvlan", "driver=ipvlan", "driver=ipvlan: another"),
        ("driver=ipvlan", "driver=macvlan", "has driver=ipvlan"),
    ] {
        let message = error(&format!("parent=a,{one};parent=a,{other}"));
        assert!(message.contains(expected), "{message:?}, not {expected:?}");
        parse_list(&format!("parent=a,{one};parent=b,{other}")).unwrap();
    }
    assert!(error(&vec!["parent=a"; 17].join(";")).contains("17 attachments"));
    assert!(error(&" ".repeat(70_000)).contains("70000 bytes"));
}

#[test]
fn attachments_of_one_container_are_checked_together_whatever_holds_them() {
    let networks = Networks::of("/nonexistent");
    let bad = "name=mc0: two attachments of the container have this interface name";
    // Repeated flags, one flag with several, an annotation or a variable.
    for texts in [
        &["parent=a", "parent=b,name=mc0"][..],
        &["parent=a;parent=b,name=mc0"],
        &["parent=a", "", "parent=b;parent=c,name=mc0"],
    ] {
        let error = parse_all(texts.iter().copied(), &networks).unwrap_err().to_string();
        assert!(error.starts_with(bad), "{texts:?}: {error}");
        assert!(parse_each(texts.iter().copied(), &networks).is_ok());
    }
    let both = parse_all(["parent=a;parent=b"], &networks).unwrap();
    assert_eq!(both.iter().map(|a| a.parent.as_str()).collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn a_vlan_link_is_called_by_its_parent_and_its_id() {
    let a = parse_spec("parent=eth0,vlan=4094").unwrap();
    assert_eq!(a.parent_link().as_str(), "eth0.4094");
    assert_eq!(a.upstream(), a.parent_link());
    assert_eq!(parse_spec("parent=eth0,vlan=1,upstream=eth1").unwrap().upstream().as_str(), "eth1");
    assert_eq!(parse_spec("parent=eth0").unwrap().host_link(), None);
}

#[test]
fn ipv6_is_on_where_there_is_an_address_of_it_unless_somebody_says_so() {
    for (text, on) in [
        ("parent=a", false),
        ("parent=a,ip=10.0.0.5/24", false),
        ("parent=a,ip=dhcp", false),
        ("parent=a,driver=relay", false),
        ("parent=a,ip=10.0.0.5/24,ip=fd00::5/64", true),
        ("parent=a,ip=slaac", true),
        ("parent=a,ip=dhcp,ip=slaac,metric=7", true),
        ("parent=a,ip=slaac,gw=fe80::1", true),
        ("parent=a,ip=none,ipv6=on", true),
        ("parent=a,ipv6=on,gw=fe80::1,ip=10.0.0.5/24", true),
        ("parent=a,ipv6=off,mtu=1000", false),
        ("parent=a,allow=matter", true),
        ("parent=a,allow=matter,ipv6=off", false),
        ("parent=a,allow=matter,driver=relay", true),
        ("parent=a,driver=relay,ipv6=on", true),
        ("parent=a,allow=matter,driver=relay,ipv6=off", false),
        ("parent=a,allow=mdns,deny=matter", false),
    ] {
        let attachment = parse_spec(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(attachment.speaks_ipv6(), on, "{text}");
        assert_eq!(attachment.is_mld_proxied(), on, "{text}");
    }
    let relayed = parse_spec("parent=a,driver=ipvlan,mode=l3,ip=fd00::5/64").unwrap();
    assert!(relayed.speaks_ipv6() && !relayed.is_mld_proxied());
    assert!(!parse_spec("parent=a,ip=fd00::5/64,igmp=native").unwrap().is_mld_proxied());
    // A record of an earlier version has neither.
    let six = parse_spec("parent=a,ip=fd00::5/64").unwrap();
    let recorded = serde_json::to_string(&six).unwrap();
    assert!(!recorded.contains("slaac") && !recorded.contains("ipv6"), "{recorded}");
    assert!(serde_json::from_str::<Attachment>(&recorded).unwrap().speaks_ipv6());
    let asked = parse_spec("parent=a,ip=slaac,ipv6=on").unwrap();
    let text = serde_json::to_string(&asked).unwrap();
    assert_eq!(serde_json::from_str::<Attachment>(&text).unwrap(), asked);
}
