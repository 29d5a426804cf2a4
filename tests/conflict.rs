//! Addresses that a station of the LAN has: found before a container gets them (RFC 5227 §2.1).

use std::fs;
use std::net::Ipv4Addr;
use std::process::Output;
use std::time::Duration;

use serde_json::Value;

use crate::lab::frames::ARP;
use crate::lab::{Container, HOST, Lab, PARENT, SOURCES, SWITCH, json, run};

/// A container that was refused is gone by then.
const SOON: Duration = Duration::from_secs(2);
const ANYBODY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// The MAC address of a node's interface on the LAN.
fn mac_of(lab: &Lab, node: &str, link: &str) -> String {
    let links = json(lab.enter(node, "ip").args(["-j", "link", "show", link]));
    links[0]["address"].as_str().expect("a MAC address").to_owned()
}

/// Asserts that a start was refused with these words in one line, and that nothing is left of it.
fn assert_refused(lab: &Lab, refused: &Output, words: &str) {
    let errors = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success(), "{errors}");
    assert!(errors.contains(words), "{words}\n{errors}");
    assert_eq!(errors.trim().lines().count(), 1, "{errors}");
    lab.assert_clean(SOON);
    assert_eq!(claims(lab), [""; 0]);
}

/// The names of all claims on addresses.
fn claims(lab: &Lab) -> Vec<String> {
    let entries = fs::read_dir(lab.state_dir().join("addresses")).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().display().to_string()).collect()
}

/// The IPv4 addresses of a container's interface, as its kernel has them.
fn addresses(container: &Container, link: &str) -> Vec<Value> {
    let shown = container.ip(&format!("-4 addr show dev {link}"));
    let all = shown[0]["addr_info"].as_array().expect("addresses");
    all.iter().map(|address| address["local"].clone()).collect()
}

/// Sender and target of the ARP packets of a capture, without those of the host's own stack.
fn questions(frames: &[Vec<u8>]) -> Vec<(Ipv4Addr, Ipv4Addr)> {
    let address = |bytes: &[u8]| Ipv4Addr::from(<[u8; 4]>::try_from(bytes).expect("four bytes"));
    let arp = frames.iter().filter(|frame| frame[12..14] == ARP.to_be_bytes());
    let all = arp.map(|frame| (address(&frame[28..32]), address(&frame[38..42])));
    all.filter(|(sender, _)| *sender != HOST).collect()
}

/// Of those, the ones about an address of the container.
fn about(capture: &crate::lab::Capture, address: Ipv4Addr) -> Vec<(Ipv4Addr, Ipv4Addr)> {
    let all = questions(&capture.frames());
    all.into_iter().filter(|pair| pair.0 == address || pair.1 == address).collect()
}

/// The MAC address that the switch's own stack has for an address.
fn neighbour(lab: &Lab, address: Ipv4Addr) -> Value {
    let shown = json(lab.enter("sw", "ip").args(["-j", "neigh", "show", &address.to_string()]));
    shown[0]["lladdr"].clone()
}

#[test]
fn an_address_that_a_station_has_is_refused_and_the_station_keeps_it() {
    let lab = Lab::new(2);
    let station = mac_of(&lab, "src", PARENT);
    let address = SOURCES[0];
    // Somebody on the LAN knows the station.
    run(lab.enter("sw", "bash").args(["-c", &format!("echo > /dev/udp/{address}/40001")]));
    let known = neighbour(&lab, address);
    assert_eq!(known, station);
    let words =
        format!("ip={address}/24: {address} is in use on lan0, by {station}; give another address");
    for options in ["", ",igmp=off", ",mode=private", ",mode=vepa", ",mac=02:00:00:00:77:01"] {
        let capture = lab.capture_also("arp");
        let attachment = format!("parent=lan0,ip={address}/24{options}");
        assert_refused(&lab, &lab.try_start("c", &[&attachment], &[]), &words);
        capture.igmp();
        // One question, from nobody, and no announcement.
        assert_eq!(about(&capture, address), [(ANYBODY, address)], "{options}");
        assert_eq!(neighbour(&lab, address), known, "{options}");
    }
    // Of several interfaces one is enough, and nothing is left of the others.
    let two = ["parent=lan0,ip=10.99.0.11/24", &format!("parent=lan0,ip={address}/24,name=red")];
    assert_refused(&lab, &lab.try_start("c", &two, &[]), &words);
    let allowed = lab.start_with("c", &[&format!("parent=lan0,ip={address}/24,conflict=off")], &[]);
    assert_eq!(addresses(&allowed, "mc0"), [address.to_string()]);
    lab.delete(&allowed);
}

#[test]
fn an_address_that_nobody_has_is_asked_for_once_and_announced() {
    let lab = Lab::new(2);
    let address = Ipv4Addr::new(10, 99, 0, 11);
    let capture = lab.capture_also("arp");
    let container = lab.start("c", "10.99.0.11");
    capture.igmp();
    // The announcement is two packets: one for the LAN, and one for the host's other containers.
    let first = about(&capture, address);
    assert_eq!(first[0], (ANYBODY, address));
    assert!(
        first.len() > 1 && first[1..].iter().all(|pair| *pair == (address, address)),
        "{first:?}"
    );
    // What mcrun itself has given away needs no question.
    let sibling = lab.try_start("sibling", &["parent=lan0,ip=10.99.0.11/24"], &[]);
    let errors = String::from_utf8_lossy(&sibling.stderr);
    let words = format!("10.99.0.11 is the address of container {}", container.name);
    assert!(!sibling.status.success() && errors.contains(&words), "{errors}");
    // To a container that runs, too.
    let more = format!("parent=lan0,ip={}/24", SOURCES[1]);
    let refused = lab.mcrun(["attach", &container.id, "--mcast", &more]).output().expect("mcrun");
    let errors = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && errors.contains("is in use on lan0, by"), "{errors}");
    assert_eq!(claims(&lab), ["lan0@10.99.0.11"]);
    assert_eq!(lab.ps(&container).expect("it runs")["interfaces"].as_array().unwrap().len(), 1);
    capture.igmp();
    assert_eq!(about(&capture, address), first, "the sibling was refused without a packet");
    let stations = questions(&capture.frames());
    assert!(!stations.contains(&(SOURCES[1], SOURCES[1])), "{stations:?}");
    lab.delete(&container);
}

#[test]
fn of_a_pool_the_next_address_is_tried() {
    let lab = Lab::new(2);
    let directory = lab.config_dir().join("networks");
    fs::create_dir_all(&directory).expect("directory");
    let file = directory.join("media.toml");
    fs::write(&file, "parent = \"lan0\"\nsubnet = \"10.99.0.0/24\"\n").expect("network");
    // 1 is the switch, 2 the host, 3 and 4 are the sender's.
    let capture = lab.capture_also("arp");
    let first = lab.start_with("first", &["net=media,ip=pool"], &[]);
    assert_eq!(addresses(&first, "mc0"), ["10.99.0.5"]);
    assert_eq!(claims(&lab), ["lan0@10.99.0.5"]);
    capture.igmp();
    for taken in [SWITCH, SOURCES[0], SOURCES[1]] {
        assert_eq!(about(&capture, taken), [(ANYBODY, taken)]);
    }
    let second = lab.start_with("second", &["net=media,ip=pool"], &[]);
    assert_eq!(addresses(&second, "mc0"), ["10.99.0.6"]);
    run(&mut lab.mcrun(["attach", &second.id, "--mcast", "net=media,ip=pool"]));
    assert_eq!(addresses(&second, "mc1"), ["10.99.0.7"]);
    lab.delete(&first);
    lab.delete(&second);
    // So many others that something is wrong with the network.
    for last in 5..20 {
        lab.ip("src", &format!("addr add 10.99.0.{last}/24 dev {PARENT}"));
    }
    let station = mac_of(&lab, "src", PARENT);
    // Those that turned out to be others' before are tried last.
    let words = format!(
        "ip=pool: 8 addresses of network media are in use on lan0 by others, the last one, \
         10.99.0.15, by {station}; exclude in its file keeps addresses out of the pool"
    );
    assert_refused(&lab, &lab.try_start("third", &["net=media,ip=pool"], &[]), &words);
    fs::write(&file, "parent = \"lan0\"\nsubnet = \"10.99.0.0/24\"\nconflict = \"off\"\n")
        .expect("network");
    let third = lab.start_with("third", &["net=media,ip=pool"], &[]);
    lab.delete(&third);
}

#[test]
fn whoever_asks_for_the_same_address_at_the_same_time_is_in_the_way() {
    let lab = Lab::new(2);
    let address = Ipv4Addr::new(10, 99, 0, 12);
    // The switch returns the question at once, as if another station had asked it.
    let other = "02:00:00:00:99:07";
    let rules = format!(
        "table netdev echo {{\n chain port {{\n \
         type filter hook ingress device \"p-host\" priority 0; policy accept;\n \
         ether type arp arp operation request ether saddr set {other} arp saddr ether set {other} \
         fwd to \"p-host\"\n }}\n}}\n"
    );
    let file = lab.directory().join("echo.nft");
    fs::write(&file, rules).expect("rules");
    run(lab.enter("sw", "nft").arg("-f").arg(file));
    let refused = lab.try_start("c", &[&format!("parent=lan0,ip={address}/24")], &[]);
    assert_refused(&lab, &refused, &format!("{address} is in use on lan0, by {other}"));
}

#[test]
fn where_nobody_can_be_asked_a_container_starts_as_before() {
    let lab = Lab::new(2);
    // A link that is up and has no carrier.
    lab.ip("host", "link add dead0 type veth peer name dead1");
    lab.ip("host", "link set dead0 up");
    let container = lab.start_with("c", &["parent=dead0,ip=192.0.2.9/24"], &[]);
    assert_eq!(addresses(&container, "mc0"), ["192.0.2.9"]);
    lab.delete(&container);
    // And to whom nobody answers on a LAN of IPv6 alone.
    let six = lab.start_with("six", &["parent=lan0,ip=fd00:99::9/64"], &[]);
    lab.delete(&six);
}

#[test]
fn an_administrator_who_limits_attachments_has_to_allow_taking_addresses_unasked() {
    let lab = Lab::new(2);
    let limits = "[attach]\nparents = \"lan0\"\nip = \"10.99.0.0/24\"\n";
    lab.configure(limits);
    let wish = format!("parent=lan0,ip={}/24,conflict=off", SOURCES[0]);
    let words =
        "conflict=off: the administrator allows none ([attach] of mcrun.toml has no conflict)";
    assert_refused(&lab, &lab.try_start("c", &[&wish], &[]), words);
    lab.configure(&format!("{limits}conflict = [\"off\"]\n"));
    let container = lab.start_with("c", &[&wish], &[]);
    lab.delete(&container);
}
