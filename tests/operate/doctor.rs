//! `mcrun doctor` names the cause.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use serde_json::Value;

use crate::lab::frames::{FrameSender, IPV4, Ipv4, Way, ethernet, mac, multicast_mac};
use crate::lab::{self, Container, Lab, PATIENCE, SOURCES, SWITCH, output, run, wait_until};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 20, 5, 1);
const LIMITED: Ipv4Addr = Ipv4Addr::new(239, 20, 5, 2);
const DENIED: Ipv4Addr = Ipv4Addr::new(239, 20, 5, 3);
/// A stream that nobody has joined.
const FOREIGN: Ipv4Addr = Ipv4Addr::new(239, 20, 5, 4);
const CHANNEL: Ipv4Addr = Ipv4Addr::new(232, 20, 5, 1);
/// A second querier, which loses the election.
const RIVAL: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 200);
const PORT: u16 = 6000;
/// What differs from machine to machine.
const OF_THE_MACHINE: [&str; 4] =
    ["engine", "kernel", "kernel-ipvlan", "kernel-join-notifications"];

/// The exit status, and the findings of a kind of subject.
pub(crate) fn doctor(lab: &Lab, arguments: &[&str]) -> (i32, Vec<Value>) {
    let begin = Instant::now();
    let told = output(lab.mcrun(["doctor", "--json"]).args(arguments));
    let errors = String::from_utf8_lossy(&told.stderr).into_owned();
    let findings: Vec<Value> =
        serde_json::from_slice(&told.stdout).unwrap_or_else(|e| panic!("{e}: {errors}"));
    assert_eq!(errors, "");
    assert!(begin.elapsed() < PATIENCE, "{:?}", begin.elapsed());
    (told.status.code().expect("a status"), findings)
}

/// What is not `ok`, as `ABOUT: LEVEL CHECK`.
fn wrong(findings: &[Value]) -> BTreeSet<String> {
    let text = |finding: &Value, field: &str| finding[field].as_str().unwrap_or("").to_owned();
    let wrong = findings.iter().filter(|finding| {
        finding["level"] != "ok" && !OF_THE_MACHINE.contains(&text(finding, "check").as_str())
    });
    wrong
        .map(|f| format!("{}: {} {}", text(f, "about"), text(f, "level"), text(f, "check")))
        .collect()
}

/// The text of a check.
pub(super) fn text(findings: &[Value], check: &str) -> String {
    let found = findings.iter().find(|finding| finding["check"] == check);
    let found = found.unwrap_or_else(|| panic!("no {check}: {findings:?}"));
    format!("{} -> {}", found["text"], found["advice"]).replace('"', "")
}

fn wait_querier(lab: &Lab, container: &Container) {
    lab.query();
    wait_until("the querier is known", PATIENCE, || {
        let querier = lab.ps(container)?["interfaces"][0]["querier"]["address"].clone();
        (querier == SWITCH.to_string()).then_some(())
    });
}

pub(super) fn wait_status(lab: &Lab, container: &Container, group: Ipv4Addr, status: &str) {
    wait_until(&format!("{group} is {status}"), PATIENCE, || {
        let groups = lab.groups(container);
        let entry = groups.iter().find(|entry| entry["group"] == group.to_string())?;
        (entry["status"] == status).then_some(())
    });
}

/// The switch takes the host for a router, and sends it what nobody has joined. It floods that to no
/// other port as soon as there is a querier.
pub(super) fn flood_unasked(lab: &Lab) {
    lab.flood();
    lab.ip("sw", "link set dev p-host type bridge_slave mcast_router 2");
}

/// A second querier asks twice, although it hears the first.
fn second_querier(lab: &Lab, container: &Container) {
    let everybody = Ipv4Addr::new(224, 0, 0, 1);
    let query = [0x11, 100, 0xee, 0x9b, 0, 0, 0, 0];
    let packet = Ipv4 {
        protocol: 2,
        from: RIVAL,
        to: everybody,
        options: &[],
        fragment: 0,
        payload: &query,
    };
    let from = mac("02:00:00:00:00:c8");
    let frame = ethernet(multicast_mac(everybody), from, IPV4, &packet.bytes());
    let sender = FrameSender::open(&lab.net("src"), lab::PARENT);
    let directory = lab.state_dir().join("containers").join(&container.id);
    wait_until("the second querier is heard", PATIENCE, || {
        sender.send(&frame, Way::Ordinary);
        let status = mcrun::proxy::query_all(&[&directory]).pop()?.ok()?;
        let rival = status.interfaces.first()?.rival.as_ref()?;
        (rival.address == RIVAL).then_some(())
    });
}

#[test]
fn doctor_names_the_causes_of_the_host_and_of_its_parents() {
    let lab = Lab::new(2);
    let attachment = format!("parent=lan0,ip=10.99.0.11/24,deny={DENIED},max-groups=2");
    let container = lab.start_with("c", &[&attachment], &[]);
    wait_querier(&lab, &container);
    let before = lab.leftovers();
    let (status, findings) = doctor(&lab, &[]);
    assert_eq!(wrong(&findings), BTreeSet::from(["host: warning keeper".to_owned()]));
    assert_eq!(status, 0);
    assert!(text(&findings, "querier").starts_with(&format!("querier {SWITCH} (IGMPv2)")));
    assert!(text(&findings, "link").contains("up, carrier, MTU 1500"), "{findings:?}");
    assert_eq!(lab.leftovers(), before, "doctor changes nothing");

    // Many causes at once.
    let socket = container.socket_on("mc0", PORT);
    socket.join_source(CHANNEL, SOURCES[0]);
    wait_status(&lab, &container, CHANNEL, "joined");
    socket.join(GROUP);
    wait_status(&lab, &container, GROUP, "joined");
    for (group, status) in [(LIMITED, "limited"), (DENIED, "denied")] {
        socket.join(group);
        wait_status(&lab, &container, group, status);
    }
    let orphan = lab.start("orphan", "10.99.0.12");
    let gone = lab.start("gone", "10.99.0.13");
    let directory = lab.state_dir().join("containers").join(&gone.id);
    let record = fs::read(directory.join("record.json")).expect("a record");
    lab.delete(&gone);
    wait_until("its directory goes", PATIENCE, || (!directory.exists()).then_some(()));
    // As where the poststop hook was never run.
    fs::create_dir(&directory).expect("made");
    fs::write(directory.join("record.json"), record).expect("written");
    lab::kill(lab.proxy_pid(&orphan));
    wait_until("the proxy is dead", PATIENCE, || {
        (lab.ps(&orphan)?["proxy"]["state"] == "dead").then_some(())
    });
    flood_unasked(&lab);
    second_querier(&lab, &container);
    let _foreign = lab.send(FOREIGN, SOURCES[0], 200);
    lab.ip("src", "addr add 10.99.0.11/24 dev lan0");
    run(lab.enter("host", "sysctl").args(["-qw", "net.ipv4.conf.lan0.rp_filter=1"]));
    lab.ip("host", &format!("route add {SWITCH} dev lo"));
    let rules = lab.directory().join("rules.nft");
    let text_of_rules = "table ip t {
        chain in { type filter hook input priority 0; ip protocol igmp drop; }
        chain out { type filter hook output priority 0; ip protocol igmp drop; }; }";
    fs::write(&rules, text_of_rules).expect("rules");
    run(lab.enter("host", "nft").arg("-f").arg(&rules));

    let (status, findings) = doctor(&lab, &[]);
    let expected = [
        "host: warning keeper",
        "host: warning stale-state",
        "host: warning groups",
        "host: failure proxy",
        // What cannot get out cannot come back.
        "parent: unknown firewall-in",
        "parent: failure firewall-out",
        "parent: failure rp-filter",
        "parent: warning two-queriers",
        "parent: warning querier-version",
        "parent: failure duplicate-address",
        "parent: warning snooping",
    ];
    assert_eq!(wrong(&findings), expected.map(str::to_owned).into());
    assert_eq!(status, 1);
    for (check, part) in [
        ("stale-state", gone.id.as_str()),
        ("proxy", &format!("{}: the proxy is dead", orphan.name)),
        // The firewall fails the others.
        ("groups", "groups not joined, such as "),
        ("two-queriers", &format!("querier {RIVAL} (IGMPv2)")),
        ("querier-version", &format!("1 group joined with named sources, such as {CHANNEL}")),
        ("duplicate-address", &format!("10.99.0.11, the address of {}", container.name)),
        ("snooping", &FOREIGN.to_string()),
        ("rp-filter", &format!("has its route to {SWITCH} by lo")),
    ] {
        assert!(text(&findings, check).contains(part), "{check}: {}", text(&findings, check));
    }

    run(lab.enter("host", "nft").args(["flush", "chain", "ip", "t", "out"]));
    let (_, findings) = doctor(&lab, &[]);
    let wrong_now = wrong(&findings);
    assert!(wrong_now.contains("parent: warning firewall-in"), "{wrong_now:?}");
    assert!(!wrong_now.contains("parent: failure firewall-out"), "{wrong_now:?}");

    // The link itself is the cause: what follows from it is not told.
    run(lab.enter("host", "nft").args(["flush", "ruleset"]));
    lab.ip("host", "link set lan0 down");
    let (status, findings) = doctor(&lab, &["--parent", "nothing0"]);
    let of_parents: Vec<_> =
        wrong(&findings).into_iter().filter(|w| w.starts_with("parent")).collect();
    assert_eq!(status, 1);
    let of_parents: Vec<&str> = of_parents.iter().map(String::as_str).collect();
    assert!(of_parents.contains(&"parent: failure link"), "{of_parents:?}");
    assert!(of_parents.contains(&"parent: failure exists"), "{of_parents:?}");
    assert!(!of_parents.iter().any(|w| w.contains("querier")), "{of_parents:?}");
}

#[test]
fn a_lan_without_a_querier_is_named_as_soon_as_that_can_be_known() {
    let lab = Lab::new(3);
    lab.ip("sw", "link set br0 type bridge mcast_querier 0 mcast_query_interval 200");
    lab.ip("sw", "link set br0 type bridge mcast_query_response_interval 100");
    let container = lab.start("c", "10.99.0.11");
    let (status, findings) = doctor(&lab, &[]);
    assert!(wrong(&findings).contains("parent: unknown querier"), "{findings:?}");
    assert_eq!(status, 0);
    // One that asks every 2 s, and does not ask any more.
    lab.query();
    wait_querier(&lab, &container);
    lab.ip("sw", "link set br0 type bridge mcast_querier 0");
    wait_until("it is missed", PATIENCE * 2, || {
        lab.ps(&container)?["interfaces"][0]["querier"].is_null().then_some(())
    });
    let (status, findings) = doctor(&lab, &[]);
    let expected = ["host: warning keeper", "parent: failure querier"];
    assert_eq!((status, wrong(&findings)), (1, expected.map(str::to_owned).into()));
    let told = text(&findings, "querier");
    assert!(told.starts_with("no IGMP querier for 10 s or longer"), "{told}");
}

#[test]
fn an_ordinary_user_is_told_what_cannot_be_known_and_a_person_gets_lines() {
    let lab = Lab::new(3);
    let _container = lab.start("c", "10.99.0.11");
    let directory = tempfile::Builder::new().prefix("mcrun-lab-").tempdir().expect("tempdir");
    fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).expect("mode");
    let program = directory.path().join("mcrun");
    lab::install(&lab.program("mcrun"), &program);
    let user = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let told = output(
        lab.enter("host", "setpriv").args(user).arg(&program).args(["doctor", "--parent", "lan0"]),
    );
    let shown = String::from_utf8_lossy(&told.stdout).into_owned();
    assert_eq!(String::from_utf8_lossy(&told.stderr), "");
    assert_eq!(told.status.code(), Some(0), "{shown}");
    for line in [
        "host\n",
        "  unknown  without root neither mcrun's state nor",
        "  unknown  mcrun's state: state directory: cannot",
        "parent lan0\n",
        "  ok       up, carrier, MTU 1500, veth; 0 container interfaces",
        "  unknown  whether IGMP gets in: run it as root",
        "  unknown  what arrives, and whose addresses are: run it as root",
        " unknown, ",
    ] {
        assert!(shown.contains(line), "{line:?} is missing:\n{shown}");
    }
    for (arguments, expected) in [
        (["doctor", "--parent", "a/b"], "interface name"),
        (["doctor", "--json", "--sned"], "--sned"),
    ] {
        let refused = output(&mut lab.mcrun(arguments));
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(2), "{told}");
        assert!(told.lines().count() == 1 && told.contains(expected), "{told}");
    }
}

#[test]
fn doctor_tells_of_the_last_attachment_that_was_refused() {
    let lab = Lab::new(3);
    let has = |findings: &[Value]| findings.iter().any(|f| f["check"] == "refused-attachments");
    assert!(!has(&doctor(&lab, &[]).1));
    let refused = lab.try_start("c", &["parent=absent0,ip=10.99.0.11/24"], &[]);
    assert!(!refused.status.success());
    let (status, findings) = doctor(&lab, &[]);
    assert_eq!(status, 0);
    let told = text(&findings, "refused-attachments");
    assert!(told.starts_with("1 refused attachment in the last hour; the last, "), "{told}");
    assert!(told.contains(&format!("container {}: ", lab.name("c"))), "{told}");
    assert!(told.contains("parent=absent0: "), "{told}");
    // A container that starts writes nothing there.
    let container = lab.start("d", "10.99.0.12");
    assert_eq!(
        text(&doctor(&lab, &[]).1, "refused-attachments").split(';').next(),
        told.split(';').next()
    );
    lab.delete(&container);
}

/// A second port of the switch in the host's namespace.
fn second_port(lab: &Lab) {
    let host = lab.namespace("host");
    lab.ip("sw", &format!("link add p-second type veth peer name lan1 netns {host}"));
    lab.ip("sw", "link set p-second master br0 up");
    lab.ip("host", "link set lan1 up");
    wait_until("the second port forwards", PATIENCE, || {
        let link =
            lab::json(lab.enter("sw", "bridge").args(["-j", "link", "show", "dev", "p-second"]));
        (link[0]["state"] == "forwarding").then_some(())
    });
}

/// The findings of `--send`, as `LEVEL CHECK`.
fn sent(lab: &Lab, arguments: &[&str]) -> (i32, Vec<String>, Vec<Value>) {
    let (status, findings) = doctor(lab, &[&["--parent", "lan0", "--send"], arguments].concat());
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let of_send = findings.iter().filter(|f| text(&f["check"]).starts_with("send"));
    let lines = of_send.map(|f| format!("{} {}", text(&f["level"]), text(&f["check"]))).collect();
    (status, lines, findings)
}

#[test]
fn a_test_stream_proves_what_the_switch_forwards() {
    let lab = Lab::new(3);
    let (status, lines, findings) = sent(&lab, &[]);
    assert_eq!((status, lines), (0, vec!["unknown send".to_owned()]));
    let told = text(&findings, "send");
    assert!(told.contains("no other interface of this host is on the LAN of lan0"), "{told}");
    assert!(told.contains("mcrun probe send on another machine"), "{told}");

    second_port(&lab);
    // An interface that is on no LAN is not taken for one.
    lab.ip("host", "link add aside0 type veth peer name aside1");
    lab.ip("host", "link set aside0 up");
    lab.ip("host", "link set aside1 up");
    let before = lab.leftovers();
    for arguments in [&[][..], &["--send-from", "lan1"]] {
        let (status, lines, findings) = sent(&lab, arguments);
        assert_eq!(lines, ["ok send-joined", "ok send-other"], "{findings:?}");
        assert_eq!(status, 0, "{findings:?}");
        let told = text(&findings, "send-joined");
        assert!(told.starts_with("25 of 25 packets from lan1 to 239.255."), "{told}");
    }
    assert_eq!(lab.leftovers(), before, "nothing is left behind");

    let (_, lines, findings) = sent(&lab, &["--send-from", "aside0"]);
    assert_eq!(lines, ["unknown send"]);
    assert!(
        text(&findings, "send").contains("a frame of aside0 does not reach it"),
        "{findings:?}"
    );
}

#[test]
fn a_test_stream_tells_a_switch_that_floods_and_one_that_withholds() {
    let lab = Lab::new(3);
    second_port(&lab);
    flood_unasked(&lab);
    let (status, lines, findings) = sent(&lab, &[]);
    assert_eq!(lines, ["ok send-joined", "warning send-other"], "{findings:?}");
    assert_eq!(status, 0, "{findings:?}");
    assert!(text(&findings, "send-other").contains("the switch floods"), "{findings:?}");
    // It takes no reports from the host's port any more.
    lab.ip("sw", "link set dev p-host type bridge_slave mcast_router 0");
    run(lab.enter("sw", "bridge").args(["link", "set", "dev", "p-host", "mcast_flood", "off"]));
    let rules = lab.directory().join("switch.nft");
    let withheld = "table bridge t { chain in { type filter hook prerouting priority 0;
        iifname p-host ether type ip ip protocol igmp drop; }; }";
    fs::write(&rules, withheld).expect("rules");
    run(lab.enter("sw", "nft").arg("-f").arg(&rules));
    let (status, lines, findings) = sent(&lab, &[]);
    assert_eq!(lines, ["failure send-joined", "ok send-other"], "{findings:?}");
    assert_eq!(status, 1);
}
