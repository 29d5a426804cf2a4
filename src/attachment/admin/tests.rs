//! Tests of the administrator's limits.

use super::*;
use crate::attachment::parse_spec;
use crate::multicast::GroupRule;

const FILE: &str = r#"
    [attach]
    parents = ["media0", "video*"]
    drivers = ["macvlan"]
    igmp = ["proxy"]
    [groups]
    allow = ["239.0.0.0/8", "232.1.0.0/16@10.0.0.0/8"]
    deny = ["239.255.0.0/16"]
    max-groups = 100
"#;

fn parse_whole(text: &str) -> Result<AdminConfig, String> {
    parse(text, None)
}

fn check(spec: &str) -> Result<GroupPolicy, String> {
    let config = parse_whole(FILE).unwrap();
    let limits = config.check(&parse_spec(spec).unwrap());
    limits.map(|limits| limits.policy).map_err(|e| e.to_string())
}

#[test]
fn without_a_file_everything_is_allowed() {
    let config = AdminConfig::read(Path::new("/nonexistent")).unwrap();
    let attachment = parse_spec("parent=eth0,allow=239.1.1.1").unwrap();
    assert_eq!(config.check(&attachment).unwrap().policy, attachment.policy);
}

#[test]
fn notifications_are_used_unless_they_are_turned_off() {
    let read = |text: &str| parse_whole(text).map(|config| config.notifications());
    assert_eq!(read(FILE), Ok(true));
    assert_eq!(read("[proxy]\nnotifications = false"), Ok(false));
    let error = read("[proxy]\nnotifications = \"off\"").unwrap_err();
    assert!(error.starts_with("line 2: ") && error.contains("boolean"), "{error}");
}

#[test]
fn the_user_ids_of_proxies_are_a_range() {
    let read = |text: &str| parse_whole(text).map(|config| config.proxy_uids());
    assert_eq!(read(FILE).unwrap().to_string(), "61184-65519");
    let own = read("[proxy]\nuids = \"900000-900999\"").unwrap();
    assert_eq!(own.to_string(), "900000-900999");
    let error = read("[proxy]\nuids = \"0-99\"").unwrap_err();
    assert!(error.starts_with("line 2: uids: \"0-99\": a range is FIRST-LAST"), "{error}");
}

#[test]
fn what_the_administrator_does_not_allow_is_named() {
    for (spec, expected) in [
        ("parent=eth0", "parent=eth0: the administrator allows media0, video* (mcrun.toml)"),
        ("parent=video7,upstream=eth0", "upstream=eth0: the administrator allows"),
        ("parent=media0,igmp=off", "igmp=off: the administrator allows proxy"),
        (
            "parent=media0,allow=238.0.0.0/8",
            "allow=238.0.0.0/8: the administrator allows 239.0.0.0/8",
        ),
    ] {
        let error = check(spec).unwrap_err();
        assert!(error.starts_with(expected), "{spec}: {error}");
    }
}

#[test]
fn group_rules_need_a_proxy_unless_the_administrator_says_otherwise() {
    let native = parse_spec("parent=media0,igmp=native").unwrap();
    let check = |text: &str| parse_whole(text).unwrap().check(&native);
    assert!(check("[groups]\ndeny = [\"239.0.0.0/8\"]").is_err());
    assert!(check("[attach]\nigmp = [\"native\"]\n[groups]\nmax-groups = 5").is_ok());
    assert!(check("[attach]\nparents = [\"media0\"]").is_ok());
}

#[test]
fn an_unknown_driver_is_named_with_its_line() {
    let error = parse_whole("[attach]\ndrivers = [\"macvlam\"]").unwrap_err();
    assert!(error.starts_with("line 2: drivers: \"macvlam\": unknown driver"), "{error}");
    assert!(error.ends_with("did you mean macvlan?"), "{error}");
    let config = parse_whole("[attach]\ndrivers = [\"relay\"]").unwrap();
    let error = config.check(&parse_spec("parent=a").unwrap()).unwrap_err().to_string();
    assert_eq!(error, "driver=macvlan: the administrator allows relay (mcrun.toml)");
}

#[test]
fn the_runtime_is_read_though_the_rules_are_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let write = |text: &str| fs::write(directory.path().join("mcrun.toml"), text).unwrap();
    write("[attach]\nparnets = []\n[runtime]\npath = \"/usr/bin/crun\"");
    let config = RuntimeConfig::read(directory.path()).unwrap();
    assert_eq!(config.path, Some("/usr/bin/crun".into()));
    write("[runtime]\npaht = \"/usr/bin/crun\"");
    let error = RuntimeConfig::read(directory.path()).unwrap_err().to_string();
    assert!(error.contains("line 2: unknown key paht in [runtime]; did you mean path?"), "{error}");
}

#[test]
fn an_open_interface_needs_the_administrators_word() {
    let open = parse_spec("parent=media0,l2=open").unwrap();
    let check = |text: &str| {
        let limits = parse_whole(text).unwrap().check(&open);
        limits.map(drop).map_err(|e| e.to_string())
    };
    let refusal = "l2=open: the administrator allows closed (mcrun.toml)";
    for text in ["", "[attach]\nparents = [\"media0\"]", "[attach]\nl2 = [\"closed\"]"] {
        assert_eq!(check(text), Err(refusal.into()), "{text}");
    }
    assert_eq!(check("[attach]\nl2 = [\"closed\", \"open\"]"), Ok(()));
}

#[test]
fn the_lower_rate_is_in_force() {
    let config = parse_whole("[relay]\nmax-pps = 100").unwrap();
    let rates = |spec: &str| config.check(&parse_spec(spec).unwrap()).unwrap().rates;
    let own = rates("parent=a,driver=relay,max-pps=50,max-byterate=9");
    assert_eq!(own, RateLimits { packets: Some(50), bytes: Some(9) });
    assert_eq!(rates("parent=a,driver=relay,max-pps=500").packets, Some(100));
    assert_eq!(rates("parent=a,driver=relay").packets, Some(100));
    assert!(rates("parent=a").is_none());
    assert!(parse_whole("[relay]\nmax-pps = 0").is_err());
}

#[test]
fn a_relay_may_take_the_ports_that_the_file_names() {
    let config = parse_whole("[relay]\nports = [5353, \"6000-6100\"]").unwrap();
    let ports = |spec: &str| config.check(&parse_spec(spec).unwrap()).unwrap().host_ports;
    assert_eq!(ports("parent=a,driver=relay").to_string(), "5353, 6000-6100");
    assert!(ports("parent=a").is_empty());
    let error = parse_whole("[relay]\nports = [5353, \"x\"]").unwrap_err();
    assert!(error.starts_with("line 2: ") && error.contains("\"x\" is no port"), "{error}");
}

#[test]
fn rules_of_both_are_in_force() {
    let texts = |rules: &[GroupRule]| rules.iter().map(ToString::to_string).collect::<Vec<_>>();
    let policy = check(
        "parent=video7,allow=239.1.0.0/16,allow=232.0.0.0/8@10.0.0.5,deny=239.1.1.1,max-groups=500",
    )
    .unwrap();
    assert_eq!(texts(&policy.allow), ["239.1.0.0/16", "232.1.0.0/16@10.0.0.5"]);
    assert_eq!(texts(&policy.deny), ["239.255.0.0/16", "239.1.1.1"]);
    assert_eq!((policy.max_groups, policy.max_sources), (100, 64));
    let policy = check("parent=media0").unwrap();
    assert_eq!(texts(&policy.allow), ["239.0.0.0/8", "232.1.0.0/16@10.0.0.0/8"]);
}

#[test]
fn ssm_strict_is_in_force_where_the_file_says_so() {
    let strict = |text: &str| {
        let limits = parse_whole(text).unwrap().check(&parse_spec("parent=a").unwrap());
        limits.unwrap().policy.ssm_strict
    };
    assert!(strict("[groups]\nssm-strict = true"));
    assert!(!strict("[groups]\nssm-strict = false") && !strict(""));
}

#[test]
fn a_file_that_cannot_be_understood_stops_everything() {
    for (text, expected) in [
        (
            "[attach]\nparnets = []",
            "line 2: unknown key parnets in [attach]; did you mean parents?",
        ),
        ("[groups]\n\nallow = [\"10.0.0.0/8\"]", "line 3: "),
        ("[attach", "line 1: "),
        ("[groups]\nmax-groups = -1", "line 2: "),
    ] {
        let error = parse_whole(text).unwrap_err();
        assert!(error.starts_with(expected) && !error.contains('\n'), "{text:?}: {error}");
    }
}

fn refusal(file: &str, spec: &str) -> Option<String> {
    let config = parse_whole(file).unwrap();
    config.check_all(&[parse_spec(spec).unwrap()], 0).err().map(|e| e.to_string())
}

#[test]
fn each_key_can_be_limited_to_a_list() {
    for (key, list, allowed, refused) in [
        ("parents", r#"["lan*"]"#, "parent=lan0", "parent=wan0"),
        ("upstream", r#"["lan*"]"#, "parent=a,upstream=lan0", "parent=a,upstream=wan0"),
        ("vlan", r#"[10, "20-29"]"#, "parent=a,vlan=25", "parent=a,vlan=30"),
        ("drivers", r#"["relay"]"#, "parent=a,driver=relay", "parent=a"),
        ("mode", r#"["passthru"]"#, "parent=a,mode=passthru", "parent=a"),
        ("flag", r#"["vepa"]"#, "parent=a,driver=ipvlan,flag=vepa", "parent=a,driver=ipvlan"),
        (
            "interface",
            r#"["net*"]"#,
            "parent=a,driver=relay,interface=net1",
            "parent=a,driver=relay",
        ),
        (
            "ip",
            r#"["10.9.0.0/24", "fd00::/64"]"#,
            "parent=a,ip=10.9.0.7/16,ip=fd00::7/64",
            "parent=a,ip=10.9.1.7/16",
        ),
        ("ip", r#"["10.9.0.0/24", "0.0.0.0/0"]"#, "parent=a,ip=dhcp", ""),
        ("ip", r#"["10.9.0.0/24"]"#, "parent=a,ip=10.9.0.7/24", "parent=a,ip=dhcp"),
        ("ip", r#"["::/0"]"#, "parent=a,ip=slaac", "parent=a,ip=dhcp"),
        ("ip", r#"["fd00::/8"]"#, "parent=a,ip=fd00::7/64", "parent=a,ip=slaac"),
        ("ipv6", r#"["off"]"#, "parent=a,ipv6=off", "parent=a,ipv6=on"),
        ("ipv6", r#"["on"]"#, "parent=a,ipv6=on", "parent=a,ipv6=off"),
        (
            "mac",
            r#"["02:AA:*"]"#,
            "parent=a,mac=02:aa:00:00:00:01",
            "parent=a,mac=02:ab:00:00:00:01",
        ),
        ("conflict", r#"["off"]"#, "parent=a,conflict=off", ""),
        ("route", r#"["10.0.0.0/8"]"#, "parent=a,route=10.1.0.0/16", "parent=a,route=0.0.0.0/0"),
        ("mtu", r#""1280-1500""#, "parent=a,mtu=1400", "parent=a,mtu=1000"),
        ("name", r#"["mc*"]"#, "parent=a,name=mc7", "parent=a,name=eth7"),
        ("igmp", r#"["off"]"#, "parent=a,igmp=off", "parent=a"),
        ("l2", r#"["open"]"#, "parent=a,l2=open", ""),
        ("bcqueuelen", "[500000]", "parent=a,bcqueuelen=500000", "parent=a,bcqueuelen=100"),
        ("bclim", r#"["-1-5"]"#, "parent=a,bclim=5", "parent=a,bclim=6"),
    ] {
        let file = format!("[attach]\n{key} = {list}");
        assert_eq!(refusal(&file, allowed), None, "{file}");
        if refused.is_empty() {
            continue;
        }
        let (name, value) = refused.rsplit(',').next().unwrap().split_once('=').unwrap();
        let error = refusal(&file, refused).expect(&file);
        if name != "parent" && name != "driver" {
            assert!(
                error.starts_with(&format!("{name}={value}: the administrator allows ")),
                "{error}"
            );
        }
        assert!(error.ends_with(" (mcrun.toml)"), "{error}");
    }
    let file = "[attach]\nip = [\"10.0.0.0/8\"]\ngw = [\"10.0.0.1\"]\nmetric = [600]";
    assert_eq!(refusal(file, "parent=a,ip=10.0.0.5/8,gw=10.0.0.1,metric=600"), None);
    let error = refusal(file, "parent=a,ip=10.0.0.5/8,gw=10.0.0.2,metric=600").unwrap();
    assert_eq!(error, "gw=10.0.0.2: the administrator allows 10.0.0.1/32 (mcrun.toml)");
    let error = refusal(file, "parent=a,ip=10.0.0.5/8,gw=10.0.0.1").unwrap();
    assert_eq!(error, "metric=500: the administrator allows 600 (mcrun.toml)");
}

#[test]
fn what_touches_others_is_refused_where_the_file_limits_attachments_and_does_not_name_it() {
    let keys = [
        ("ip", "ip=10.0.0.5/24"),
        ("ip", "ip=dhcp"),
        ("ip", "ip=slaac"),
        ("mac", "mac=02:00:00:00:00:07"),
        ("conflict", "conflict=off"),
        ("route", "route=10.7.0.0/16"),
        ("upstream", "upstream=b"),
        ("vlan", "vlan=7"),
    ];
    for (key, pair) in keys {
        let spec = format!("parent=a,{pair}");
        for open in ["", "[groups]\nmax-groups = 9", "[attach]\nenvironment = true"] {
            assert_eq!(refusal(open, &spec), None, "{open}");
        }
        let error = refusal("[attach]\ndrivers = [\"macvlan\"]", &spec).unwrap();
        let expected =
            format!("{pair}: the administrator allows none ([attach] of mcrun.toml has no {key})");
        assert_eq!(error, expected);
    }
    // `parents` is for upstream interfaces and for VLAN links too.
    let parents = "[attach]\nparents = [\"a\", \"b*\"]";
    assert_eq!(refusal(parents, "parent=a,upstream=b"), None);
    assert_eq!(refusal(parents, "parent=b,vlan=7"), None);
    assert!(refusal(parents, "parent=a,vlan=7").unwrap().starts_with("parent=a.7: "));
    assert_eq!(refusal("[attach]\nparents = [\"a\"]\nvlan = [7]", "parent=a,vlan=7"), None);
    // The harmless stays allowed.
    let harmless = "parent=a,mtu=1000,name=media,mode=private,bcqueuelen=1000,bclim=-1";
    assert_eq!(refusal(parents, harmless), None);
}

#[test]
fn what_harms_others_needs_the_administrators_word() {
    for (spec, expected) in [
        (
            "parent=a,mode=passthru",
            "mode=passthru: the administrator allows bridge, private, vepa, l2, l3, l3s (mcrun.toml)",
        ),
        (
            "parent=a,bcqueuelen=100001",
            "bcqueuelen=100001: the administrator allows 1-100000 (mcrun.toml)",
        ),
        ("parent=a,bclim=1", "bclim=1: the administrator allows -1 (mcrun.toml)"),
    ] {
        for file in ["", "[groups]\nmax-groups = 9", "[attach]\nparents = [\"a\"]"] {
            assert_eq!(refusal(file, spec).as_deref(), Some(expected));
        }
    }
}

#[test]
fn what_is_no_mac_address_and_no_beginning_of_one_is_wrong() {
    for good in ["*", "02:*", "02:0*", "02:00:00:00:00:0*", "02:00:5E:00:00:07"] {
        assert!(parse_whole(&format!("[attach]\nmac = [\"{good}\"]")).is_ok(), "{good}");
    }
    for bad in ["", "zz", "02", "02:00:00:00:00", "0200:*", "02:*:07", "02:00:00:00:00:07*"] {
        let error = parse_whole(&format!("[attach]\nmac = [\"{bad}\"]")).unwrap_err();
        let expected = "not a MAC address, as in 02:00:00:00:00:07, or its beginning and *";
        assert_eq!(error, format!("line 2: mac: \"{bad}\": {expected}"));
    }
}

#[test]
fn the_number_of_attachments_can_be_limited() {
    let config = parse_whole("[attach]\nmax-attachments = 2").unwrap();
    let one = [parse_spec("parent=a").unwrap()];
    assert!(config.check_all(&one, 1).is_ok());
    let error = config.check_all(&one, 2).unwrap_err().to_string();
    assert_eq!(error, "3 attachments: the administrator allows a container 2 (mcrun.toml)");
    let error = parse_whole("[attach]\nmax-attachments = 17").unwrap_err();
    assert_eq!(error, "line 2: max-attachments: 17: not a number from 0 to 16");
}

#[test]
fn every_problem_is_named_with_its_line_and_the_nearest_name() {
    let text = "[atach]\n[attach]\nmode = [\"brige\"]\nip = [\n  \"10.0.0.1/8\"]\nmtu = \"9-7\"\n\
                parents = [\"a*b\"]\nvlan = 5000\nnames = []\n[proxy]\nuids = 7\n[relay]\nx = 1\n";
    let found: Vec<_> = file::read(text, None)
        .problems
        .into_iter()
        .map(|problem| format!("{}: {}", problem.line, problem.message))
        .collect();
    assert_eq!(
        found,
        [
            "1: unknown section [atach]; did you mean attach?",
            "3: mode: \"brige\": unknown mode; did you mean bridge?",
            "5: ip: \"10.0.0.1/8\": bits are set behind the prefix; did you mean 10.0.0.0/8?",
            "6: mtu: \"9-7\": not a number from 68 to 65535, nor a range of them",
            "7: parents: \"a*b\": * can only be the last character",
            "8: vlan: 5000: not a number from 1 to 4094, nor a range of them",
            "9: unknown key names in [attach]; did you mean name?",
            "11: uids: invalid type: integer `7`, expected a string",
            "13: unknown key x in [relay]; there are max-pps, max-byterate, bpf, ports",
        ]
    );
}

#[test]
fn the_settings_in_force_are_a_file_that_says_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let path = AdminConfig::path(directory.path());
    for file in [FILE, "", "[attach]\nparents = [\"a\"]\nbclim = [-1, \"3-5\"]"] {
        fs::write(&path, file).unwrap();
        let (before, exists) = settings(&path).unwrap();
        assert!(exists);
        let mut text = String::new();
        for setting in before.iter().filter(|setting| !setting.value.is_null()) {
            text.push_str(&format!("{}.{} = {}\n", setting.section, setting.key, setting.value));
        }
        fs::write(&path, text).unwrap();
        let (after, _) = settings(&path).unwrap();
        let values = |settings: Vec<Setting>| {
            settings.into_iter().map(|s| (s.section, s.key, s.value)).collect::<Vec<_>>()
        };
        assert_eq!(values(before), values(after));
    }
}

#[test]
fn every_key_is_on_the_reference_pages() {
    let pages = [
        include_str!("../../../docs/reference/configuration.md").to_owned(),
        include_str!("../../../man/mcrun.toml.5").replace("\\-", "-"),
    ];
    for setting in settings(Path::new("/nonexistent/mcrun.toml")).unwrap().0 {
        assert!(pages[0].contains(&format!("`{}`", setting.key)), "{}", setting.key);
        assert!(pages[1].contains(&format!("\\fB{}\\fR", setting.key)), "{}", setting.key);
    }
}
