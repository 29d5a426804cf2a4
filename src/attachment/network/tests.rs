use std::net::IpAddr;
use std::path::Path;

use super::*;
use crate::attachment::{Attachment, IgmpMode, IpAssignment, file_text, parse_all};

const MEDIA: &str = "description = \"studio 1\"\nparent = \"lan0\"\nvlan = 7\nl2 = \"open\"\n\
    allow = [\"239.1.0.0/16\", \"239.2.0.0/16\"]\nmax-groups = 1000\n\
    subnet = [\"192.0.2.0/24\", \"fd00::/64\"]\n\
    exclude = [\"192.0.2.150\", \"192.0.2.160/30\"]\ngateway = \"192.0.2.1\"\n";

fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("networks")).unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn parse(dir: &Path, text: &str) -> Result<Attachment, String> {
    let parsed = parse_all([text], &Networks::of(dir));
    parsed.map(|mut list| list.swap_remove(0)).map_err(|error| error.to_string())
}

#[test]
fn a_network_stands_for_its_keys_and_what_is_written_beside_it_comes_first() {
    let dir = directory(&[("networks/media.toml", MEDIA)]);
    let plain = parse(dir.path(), "net=media").unwrap();
    assert_eq!(plain.parent_link().as_str(), "lan0.7");
    assert!(!plain.l2.is_closed());
    assert_eq!((plain.policy.max_groups, plain.policy.allow.len()), (1000, 2));
    assert!(plain.gateways.is_empty(), "without an address there is no way to the gateway");
    assert_eq!(plain.network.as_ref().unwrap().own, [""; 0]);

    let own = "net=media,ip=192.0.2.9/24,igmp=native,vlan=8";
    let error = parse(dir.path(), own).unwrap_err();
    assert!(error.starts_with("allow=239.1.0.0/16 (of network media): "), "{error}");
    let own = parse(dir.path(), "net=media,ip=192.0.2.9/24,l2=closed,mtu=1400").unwrap();
    assert_eq!(own.gateways, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
    assert!(own.l2.is_closed() && own.igmp == IgmpMode::Proxy);
    assert!(own.is_own("ip") && own.is_own("mtu") && !own.is_own("vlan") && !own.is_own("parent"));
    // Another LAN is not the network's.
    let elsewhere = parse(dir.path(), "net=media,parent=lan1").unwrap();
    assert!(elsewhere.is_own("l2") && elsewhere.is_own("vlan"));
}

#[test]
fn what_a_network_allows_can_be_narrowed_and_not_widened() {
    let dir = directory(&[("networks/media.toml", MEDIA)]);
    let narrow = parse(dir.path(), "net=media,allow=239.1.7.0/24,max-groups=5").unwrap();
    assert_eq!(narrow.policy.allow, ["239.1.7.0/24".parse().unwrap()]);
    assert_eq!(narrow.policy.max_groups, 5);
    let wide = parse(dir.path(), "net=media,allow=224.0.0.0/4,max-groups=60000").unwrap();
    assert_eq!(wide.policy.allow.len(), 2);
    assert_eq!(wide.policy.max_groups, 1000);
    let error = parse(dir.path(), "net=media,allow=239.9.0.0/16").unwrap_err();
    assert_eq!(error, "allow=239.9.0.0/16: the network allows 239.1.0.0/16, 239.2.0.0/16");
}

#[test]
fn an_address_beside_a_network_is_one_of_its_own() {
    let dir = directory(&[("networks/media.toml", MEDIA)]);
    for (ip, words) in [
        ("192.0.3.9/24", "the subnet is 192.0.2.0/24"),
        ("192.0.2.9/16", "the subnet is 192.0.2.0/24"),
        ("fd01::9/64", "the subnet is fd00::/64"),
        ("192.0.2.1/24", "this is its gateway"),
        ("192.0.2.150/24", "exclude = \"192.0.2.150\" keeps it"),
        ("192.0.2.163/24", "exclude = \"192.0.2.160-192.0.2.163\" keeps it"),
    ] {
        let error = parse(dir.path(), &format!("net=media,ip={ip}")).unwrap_err();
        assert!(error.contains(words), "{ip}: {error}");
    }
    parse(dir.path(), "net=media,ip=192.0.2.9/24,ip=fd00::9/64").unwrap();
}

#[test]
fn a_pool_is_that_of_a_network_with_a_subnet() {
    let bare = "parent = \"lan0\"\n";
    let always = "parent = \"lan0\"\nip = \"pool\"\nsubnet = \"192.0.2.0/24\"\n";
    let files = [("media", MEDIA), ("bare", bare), ("always", always)];
    let files = files.map(|(name, text)| (format!("networks/{name}.toml"), text));
    let files: Vec<_> = files.iter().map(|(name, text)| (name.as_str(), *text)).collect();
    let dir = directory(&files);
    let asked = parse(dir.path(), "net=media,ip=pool").unwrap();
    assert_eq!(asked.ip, IpAssignment::Pool(Vec::new()));
    assert_eq!(asked.pool.as_ref().unwrap().subnets.len(), 2);
    assert_eq!(asked.gateways, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
    // What was chosen is as asked, and nothing else is.
    let mut chosen = asked.clone();
    chosen.ip = IpAssignment::Pool(vec!["192.0.2.9/24".parse().unwrap()]);
    let recorded: Attachment =
        serde_json::from_str(&serde_json::to_string(&chosen).unwrap()).unwrap();
    assert_eq!((recorded.ip.addresses().len(), &recorded.pool), (1, &None));
    assert!(recorded.is_as_asked(&asked));
    assert!(!recorded.is_as_asked(&parse(dir.path(), "net=media,ip=pool,mtu=1400").unwrap()));
    assert!(!recorded.is_as_asked(&parse(dir.path(), "net=media,ip=192.0.2.9/24").unwrap()));
    let from_file = parse(dir.path(), "net=always").unwrap();
    assert_eq!(from_file.ip, IpAssignment::Pool(Vec::new()));
    assert_eq!(parse(dir.path(), "net=always,ip=none").unwrap().ip, IpAssignment::None);
    for (text, words) in [
        ("parent=lan0,ip=pool", "those of a network whose file has a subnet"),
        ("net=bare,ip=pool", "those of a network whose file has a subnet"),
        ("net=media,ip=pool,ip=192.0.2.9/24", "ip=pool contradicts ip=192.0.2.9/24"),
        ("net=media,ip=none,ip=pool", "ip=pool contradicts ip=none"),
        ("net=media,ip=pool,parent=lan1", "leave parent= to the network"),
        ("net=always,vlan=8", "leave vlan= to the network"),
    ] {
        let error = parse(dir.path(), text).unwrap_err();
        assert!(error.contains(words), "{text}: {error}");
    }
}

#[test]
fn without_a_parent_the_default_network_counts() {
    let dir = directory(&[("networks/media.toml", MEDIA)]);
    let error = parse(dir.path(), "mtu=1400").unwrap_err();
    assert!(error.contains("net=NAME"), "{error}");
    fs::write(dir.path().join("mcrun.toml"), "[attach]\ndefault-network = \"media\"\n").unwrap();
    let attachment = parse(dir.path(), "mtu=1400").unwrap();
    assert_eq!(attachment.network.unwrap().name.as_str(), "media");
    assert_eq!(parse(dir.path(), "parent=lan1").unwrap().network, None);
    fs::write(dir.path().join("mcrun.toml"), "[attach]\ndefault-network = \"../x\"\n").unwrap();
    let error = parse(dir.path(), "mtu=1400").unwrap_err();
    assert!(error.contains("mcrun.toml: line 2: default-network: "), "{error}");
}

#[test]
fn a_network_that_is_not_there_or_has_a_mistake_is_named() {
    let dir = directory(&[("networks/media.toml", "parent = \"lan0\"\nmtu = 5\n")]);
    let path = dir.path().join("networks/media.toml");
    let error = parse(dir.path(), "net=media").unwrap_err();
    let path = path.display();
    let wanted = format!("net=media: {path}: line 2: mtu: \"5\": not a number from 68 to 65535");
    assert_eq!(error, wanted);
    let error = parse(dir.path(), "net=medai").unwrap_err();
    assert_eq!(error, "net=medai: there is no such network; did you mean media?");
    let error = parse(dir.path(), "net=../media").unwrap_err();
    assert!(error.starts_with("net=../media: not the name of a network"), "{error}");
}

#[test]
fn each_mistake_of_a_file_is_named_with_its_line() {
    let problems = |text: &str| -> Vec<(usize, String)> {
        let problems = Network::parse(text).unwrap_err();
        problems.into_iter().map(|problem| (problem.line, problem.message)).collect()
    };
    let cases: [(&str, usize, &str); 23] = [
        ("mtu = 1400\n", 1, "parent is missing"),
        ("parent = \"lan0\"\nparnt = \"lan1\"\n", 2, "unknown key parnt; did you mean parent?"),
        ("parent = \"lan0\"\nnet = \"x\"\n", 2, "unknown key net; there are"),
        ("parent = \"lan0\"\n[x]\n", 2, "unknown key x;"),
        ("parent = [\"lan0\"]\n", 1, "parent: a list; the key has one value"),
        ("parent = true\n", 1, "parent: the value is neither a text nor a number"),
        ("parent = \"lan0,mtu=1\"\n", 1, "parent: \"lan0,mtu=1\": write INTERFACE"),
        ("parent = \"lan0\"\nmode = \"l2\"\n", 2, "mode=l2: unknown macvlan mode"),
        ("parent = \"lan0\"\ninterface = \"eth0\"\n", 2, "interface=eth0: interface is for relay"),
        ("parent = \"lan0\"\nmac = \"02:00:00:00:00:01\"\n", 2, "that of one container"),
        ("parent = \"lan0\"\nip = \"192.0.2.1/24\"\n", 2, "that of one container"),
        ("parent = \"lan0\"\nsubnet = \"192.0.2.1/24\"\n", 2, "did you mean 192.0.2.0/24?"),
        ("parent = \"lan0\"\nsubnet = \"239.0.0.0/8\"\n", 2, "no host of a LAN"),
        (
            "parent = \"lan0\"\nsubnet = [\"192.0.2.0/24\",\n\"198.51.100.0/24\"]\n",
            3,
            "192.0.2.0/24 is of this address family too",
        ),
        (
            "parent = \"lan0\"\nsubnet = \"192.0.2.0/24\"\n\nexclude = \"192.0.2.250-192.0.3.9\"\n",
            4,
            "exclude: 192.0.2.250-192.0.3.9 is in no subnet",
        ),
        ("parent = \"lan0\"\ngateway = \"192.0.2.1\"\n", 2, "gateway: 192.0.2.1 is in no subnet"),
        ("parent = \"lan0\"\nexclude = \"192.0.2.9\"\n", 2, "exclude: 192.0.2.9 is in no subnet"),
        ("parent = \"lan0\"\nrange = \"192.0.2.9\"\n", 2, "range: 192.0.2.9 is in no subnet"),
        ("parent = \"lan0\"\nip = \"pool\"\n", 2, "ip=pool: the addresses are those of a network"),
        ("parent = \"lan0\"\ndns = \"lan0\"\n", 2, "not the address of a name server"),
        (
            "parent = \"lan0\"\ndns = [\"192.0.2.1\", \"192.0.2.2\", \"192.0.2.3\",\n\"192.0.2.4\"]\n",
            3,
            "there can be 3 name servers",
        ),
        ("parent = \"lan0\"\ndescription = \"a\\u001bb\"\n", 2, "control characters"),
        ("parent = \"lan0\"\nvlan = \n", 2, ""),
    ];
    for (text, line, words) in cases {
        let found = problems(text);
        let hit = found.iter().any(|(at, message)| *at == line && message.contains(words));
        assert!(hit, "{text}: {found:?}");
    }
    assert_eq!(problems("mtu = 5\nparent = 7\nvlna = 1\n").len(), 2);
}

#[test]
fn what_create_writes_is_read_as_the_same() {
    let keys =
        [("parent", "lan0"), ("vlan", "7"), ("allow", "239.1.0.0/16"), ("allow", "239.2.1.1")];
    let keys = keys.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let text = file_text(&keys);
    assert_eq!(text, "parent = \"lan0\"\nvlan = 7\nallow = [\"239.1.0.0/16\", \"239.2.1.1\"]\n");
    let network = Network::parse(&text).unwrap();
    assert_eq!(network.key("vlan"), Some("7"));
    assert_eq!(network.keys.len(), 4);
}
