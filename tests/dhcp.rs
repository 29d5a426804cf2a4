//! Addresses that a server on the LAN leases (`ip=dhcp`), with dnsmasq, and with a server that does what
//! dnsmasq does not.

mod server;
mod v6;

use std::fs;
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::dhcp::server::{Reply, Server};
use crate::lab::{
    Background, Container, Lab, PARENT, PATIENCE, alive, json, kill, run, wait_until,
};

const SOON: Duration = Duration::from_secs(5);

/// dnsmasq in the sender's namespace, with addresses from 10.99.0.100 on.
struct Dnsmasq {
    process: Background,
    log: PathBuf,
}

impl Dnsmasq {
    fn start(lab: &Lab, options: &[&str]) -> Dnsmasq {
        let log = lab.directory().join("dnsmasq.log");
        let leases = lab.directory().join("dnsmasq.leases");
        let output = File::options().create(true).append(true).open(&log).expect("log");
        let mut command = lab.enter("src", "dnsmasq");
        command
            .args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--no-ping"])
            .args(["--user=root", "--log-dhcp", "--log-facility=-", "--bind-interfaces"])
            .args([&format!("--interface={PARENT}"), "--except-interface=lo", "--pid-file="])
            .args([
                "--dhcp-range=10.99.0.100,10.99.0.199,255.255.255.0,120",
                "--dhcp-authoritative",
            ])
            .args([
                "--dhcp-option=3,10.99.0.254",
                &format!("--dhcp-leasefile={}", leases.display()),
            ])
            .args(options)
            .stdout(Stdio::null())
            .stderr(output);
        let before = fs::read_to_string(&log).unwrap_or_default().len();
        let process = Background::start(&mut command);
        let server = Dnsmasq { process, log };
        server.wait_for(before, "DHCP, sockets bound");
        server
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until the log has this behind a position.
    fn wait_for(&self, from: usize, words: &str) {
        wait_until(&format!("dnsmasq says {words}"), PATIENCE, || {
            self.text().get(from..)?.contains(words).then_some(())
        });
    }

    fn stop(mut self) {
        self.process.signal(libc::SIGTERM);
        self.process.wait(SOON);
    }
}

/// The only IPv4 address of a container's interface, with its remaining lifetime in seconds.
fn address(container: &Container) -> Option<(String, u64)> {
    let shown = container.ip("-4 addr show dev mc0");
    let all = shown[0]["addr_info"].as_array()?;
    assert!(all.len() <= 1, "{shown}");
    let first = all.first()?;
    Some((first["local"].as_str()?.to_owned(), first["valid_life_time"].as_u64()?))
}

/// The processes that hold leases on the container host.
fn holders(lab: &Lab) -> Vec<i32> {
    let is_holder = |pid: &i32| {
        fs::read_to_string(format!("/proc/{pid}/comm"))
            .is_ok_and(|name| name.trim() == "mcrun-dhcp")
    };
    lab.host_processes().into_iter().map(|(pid, _)| pid).filter(is_holder).collect()
}

/// The process that the record names.
fn holder(lab: &Lab, container: &Container) -> i32 {
    let record = lab.state_dir().join("containers").join(&container.id).join("record.json");
    let record: Value = serde_json::from_slice(&fs::read(record).expect("record")).expect("JSON");
    record["interfaces"][0]["lease_holder"]["pid"].as_i64().expect("a pid") as i32
}

fn assert_nothing_left(lab: &Lab) {
    lab.assert_clean(SOON);
    assert!(holders(lab).is_empty());
    for directory in ["addresses", "dhcp"] {
        let left: Vec<_> =
            fs::read_dir(lab.state_dir().join(directory)).into_iter().flatten().collect();
        assert!(left.is_empty(), "{directory}: {left:?}");
    }
}

/// The interface of a network of CNI.
#[test]
fn the_result_of_the_cni_plugin_has_the_leased_address_and_its_routes() {
    let lab = Lab::new(2);
    let dnsmasq = Dnsmasq::start(&lab, &[]);
    lab.empty_namespace("blue");
    let id = lab.name("pod");
    let input = lab.directory().join("network.json");
    fs::write(
        &input,
        r#"{"cniVersion":"1.0.0","name":"media","type":"mcrun-cni","parent":"lan0","ip":"dhcp"}"#,
    )
    .expect("a file");
    let plugin = |verb: &str| {
        let mut command = lab.enter("host", "/bin/sh");
        command
            .args(["-c", "exec \"$1\" <\"$2\"", "sh"])
            .args([&lab.program("mcrun-cni"), &input])
            .envs([("CNI_COMMAND", verb), ("CNI_CONTAINERID", &id), ("CNI_IFNAME", "eth0")])
            .env("CNI_NETNS", format!("/run/netns/{}", lab.namespace("blue")));
        command
    };
    let result = json(&mut plugin("ADD"));
    let address = result["ips"][0]["address"].as_str().expect("an address");
    assert!(address.starts_with("10.99.0.1") && address.ends_with("/24"), "{result}");
    let gateway = serde_json::json!([{"dst": "0.0.0.0/0", "gw": "10.99.0.254"}]);
    assert_eq!(result["routes"], gateway, "{result}");
    run(&mut plugin("DEL"));
    let leased = address.trim_end_matches("/24");
    dnsmasq.wait_for(0, &format!("DHCPRELEASE(lan0) {leased}"));
    dnsmasq.stop();
    assert_nothing_left(&lab);
}

#[test]
fn a_container_gets_an_address_keeps_it_over_a_restart_and_gives_it_back() {
    let lab = Lab::new(2);
    let dnsmasq =
        Dnsmasq::start(&lab, &["--dhcp-option=121,10.9.0.0/16,10.99.0.253,0.0.0.0/0,10.99.0.254"]);
    // dnsmasq chooses by the MAC address once an address was given back.
    let attachment = "parent=lan0,ip=dhcp,mac=02:00:00:00:77:09";
    let container = lab.start_with("c", &[attachment], &[]);
    let (leased, lifetime) = address(&container).expect("an address");
    assert!(
        leased.starts_with("10.99.0.1") && (100..=120).contains(&lifetime),
        "{leased} {lifetime}"
    );
    // The default route does not replace an engine's.
    let routes = container.ip("route show dev mc0").to_string();
    for route in [
        "\"dst\":\"default\",\"flags\":[],\"gateway\":\"10.99.0.254\",\"metric\":500",
        "10.9.0.0/16",
    ] {
        assert!(routes.contains(route), "{route} {routes}");
    }
    // What is shown, and what is claimed.
    let shown = lab.ps(&container).expect("it runs");
    assert_eq!(shown["interfaces"][0]["addresses"][0], format!("{leased}/24"));
    let inspected = json(&mut lab.mcrun(["inspect", "--json", &container.id])).to_string();
    assert!(inspected.contains(&leased), "{inspected}");
    let host = run(&mut lab.mcrun(["host"]));
    assert!(host.contains("mcrun-dhcp, pid "), "{host}");
    let other = lab.try_start("other", &[&format!("parent=lan0,ip={leased}/24")], &[]);
    let errors = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(errors.contains(&format!("{leased} is the address of container")), "{errors}");
    // It is a container like any other.
    lab.assert_stream_arrives(&container, Ipv4Addr::new(239, 9, 3, 1));
    let mac = container.ip("link show dev mc0")[0]["address"].clone();
    run(lab.enter("src", "bash").args(["-c", &format!("echo > /dev/udp/{leased}/40001")]));
    wait_until("the LAN reaches it", PATIENCE, || {
        let known = json(lab.enter("src", "ip").args(["-j", "neigh", "show", &leased]));
        (known[0]["lladdr"] == mac).then_some(())
    });
    let before = dnsmasq.text().len();
    lab.delete(&container);
    dnsmasq.wait_for(before, &format!("DHCPRELEASE(lan0) {leased}"));
    assert_nothing_left(&lab);
    let again = lab.start_with("c", &[attachment], &[]);
    assert_eq!(address(&again).expect("an address").0, leased);
    lab.delete(&again);
    dnsmasq.stop();
    assert_nothing_left(&lab);
}

#[test]
fn a_container_that_ends_by_itself_gives_its_address_back() {
    let lab = Lab::new(2);
    let dnsmasq = Dnsmasq::start(&lab, &[]);
    for options in ["", ",igmp=off"] {
        let container = lab.start_with("c", &[&format!("parent=lan0,ip=dhcp{options}")], &[]);
        let (leased, _) = address(&container).expect("an address");
        let before = dnsmasq.text().len();
        kill(container.pid);
        dnsmasq.wait_for(before, &format!("DHCPRELEASE(lan0) {leased}"));
        lab.delete(&container);
        assert_nothing_left(&lab);
    }
}

#[test]
fn without_a_server_the_container_does_not_start_and_nothing_is_left() {
    let lab = Lab::new(2);
    let refused = lab.try_start("c", &["parent=lan0,ip=dhcp"], &[]);
    let errors = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success());
    assert!(
        errors.contains("ip=dhcp: no server on lan0 has given mc0 an address within 10 s"),
        "{errors}"
    );
    assert_eq!(errors.trim().lines().count(), 1, "{errors}");
    assert_nothing_left(&lab);
}

#[test]
fn the_holder_has_one_capability_and_the_speaker_none() {
    let lab = Lab::new(2);
    let _dnsmasq = Dnsmasq::start(&lab, &[]);
    let container = lab.start_with("c", &["parent=lan0,ip=dhcp"], &[]);
    let main = holder(&lab, &container);
    let all = holders(&lab);
    assert_eq!(all.len(), 2, "{all:?}");
    for pid in all {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).expect("field");
            line.split_whitespace().nth(1).expect("value").to_owned()
        };
        let expected = if pid == main { (1 << 12, "0", "0") } else { (0, "65534", "2") };
        for set in ["CapPrm:", "CapEff:"] {
            assert_eq!(u64::from_str_radix(&field(set), 16).unwrap(), expected.0, "{status}");
        }
        for set in ["CapInh:", "CapAmb:"] {
            assert_eq!(field(set), "0000000000000000");
        }
        assert_eq!((field("Uid:").as_str(), field("Seccomp:").as_str()), (expected.1, expected.2));
        assert_eq!(field("NoNewPrivs:"), "1");
    }
    lab.delete(&container);
}

#[test]
fn a_holder_that_was_killed_costs_nothing_and_reload_starts_another() {
    let lab = Lab::new(2);
    let dnsmasq = Dnsmasq::start(&lab, &[]);
    let container = lab.start_with("c", &["parent=lan0,ip=dhcp"], &[]);
    let (leased, _) = address(&container).expect("an address");
    let speaker =
        |main: i32| holders(&lab).into_iter().find(|pid| *pid != main).expect("a speaker");
    for victim_is_holder in [true, false] {
        let main = holder(&lab, &container);
        let victim = if victim_is_holder { main } else { speaker(main) };
        let before = dnsmasq.text().len();
        kill(victim);
        wait_until("both have ended", PATIENCE, || holders(&lab).is_empty().then_some(()));
        assert_eq!(address(&container).expect("still there").0, leased);
        run(&mut lab.mcrun(["reload"]));
        dnsmasq.wait_for(before, &format!("DHCPACK(lan0) {leased}"));
        assert!(!dnsmasq.text()[before..].contains("RELEASE"));
        let now = holder(&lab, &container);
        assert!(now != main && alive(now));
    }
    // It does nothing when there is nothing to do.
    let now = holder(&lab, &container);
    run(&mut lab.mcrun(["reload"]));
    run(&mut lab.mcrun(["gc"]));
    assert_eq!(holder(&lab, &container), now);
    run(&mut lab.mcrun(["detach", &container.id]));
    dnsmasq.wait_for(0, "DHCPRELEASE");
    assert!(holders(&lab).is_empty());
    lab.delete(&container);
    assert_nothing_left(&lab);
}

#[test]
fn an_address_that_a_station_has_is_declined_and_another_one_is_asked_for() {
    const TAKEN: &str = "10.99.0.150";
    let lab = Lab::new(2);
    lab.ip("sw", &format!("addr add {TAKEN}/24 dev br0"));
    let station = json(lab.enter("sw", "ip").args(["-j", "link", "show", "br0"]));
    let station = station[0]["address"].as_str().expect("a MAC address").to_owned();
    let options = [&format!("--dhcp-host=02:00:00:00:77:09,{TAKEN}")[..]];
    let dnsmasq = Dnsmasq::start(&lab, &options);
    let attachment = "parent=lan0,ip=dhcp,mac=02:00:00:00:77:09";
    let container = lab.start_with("c", &[attachment], &[]);
    let (leased, _) = address(&container).expect("an address");
    assert!(leased.starts_with("10.99.0.1") && leased != TAKEN, "{leased}");
    let log = dnsmasq.text();
    assert!(log.contains(&format!("DHCPACK(lan0) {TAKEN}")), "{log}");
    assert!(log.contains(&format!("DHCPDECLINE(lan0) {TAKEN} 02:00:00:00:77:09")), "{log}");
    // The station keeps its neighbours.
    let known = json(lab.enter("src", "ip").args(["-j", "neigh", "show", TAKEN]));
    let known = known[0]["lladdr"].as_str();
    assert!(known.is_none_or(|mac| mac == station), "{known:?}");
    lab.delete(&container);
    dnsmasq.stop();
    // Whoever says so takes it.
    let dnsmasq = Dnsmasq::start(&lab, &options);
    let container = lab.start_with("c", &[&format!("{attachment},conflict=off")], &[]);
    assert_eq!(address(&container).expect("an address").0, TAKEN);
    lab.delete(&container);
    dnsmasq.stop();
    assert_nothing_left(&lab);
}

#[test]
fn a_server_that_gives_taken_addresses_alone_is_named_with_the_station() {
    let lab = Lab::new(2);
    lab.ip("sw", &format!("addr add {FIRST}/24 dev br0"));
    let server = Server::start(&lab, Reply::Lease { address: FIRST, seconds: 600, gateway: 254 });
    let refused = lab.try_start("c", &["parent=lan0,ip=dhcp"], &[]);
    let errors = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success());
    let words =
        "ip=dhcp: the server on lan0 gave mc0 the address 10.99.0.60, which is in use there, by ";
    assert!(errors.contains(words), "{errors}");
    assert_eq!(errors.trim().lines().count(), 1, "{errors}");
    assert_eq!(server.declined(), 3);
    assert_nothing_left(&lab);
}

#[test]
fn the_hosts_own_leg_follows_a_change_of_address_at_once() {
    let lab = Lab::new(2);
    run(&mut lab.mcrun(["shim", "add", PARENT]));
    let routes = || {
        let shown =
            json(lab.enter("host", "ip").args(["-j", "route", "show", "dev", "mcshim-lan0"]));
        let all = shown.as_array().into_iter().flatten().map(|route| route["dst"].clone());
        all.collect::<Vec<_>>()
    };
    let wait_routes = |expected: &[Ipv4Addr]| {
        let expected: Vec<_> = expected.iter().map(|a| Value::from(a.to_string())).collect();
        wait_until("the route follows", PATIENCE, || (routes() == expected).then_some(()));
    };
    let server = Server::start(&lab, Reply::Lease { address: FIRST, seconds: 8, gateway: 254 });
    let container = lab.start_with("c", &["parent=lan0,ip=dhcp"], &[]);
    wait_routes(&[FIRST]);
    server.set(Reply::Refuse);
    wait_routes(&[]);
    server.set(Reply::Lease { address: SECOND, seconds: 600, gateway: 254 });
    wait_routes(&[SECOND]);
    let ping = ["ping", "-c", "1", "-W", "5", "10.99.0.61"];
    run(lab.enter("host", crate::lab::busybox()).args(ping));
    lab.delete(&container);
    assert_eq!(routes(), Vec::<Value>::new());
    run(&mut lab.mcrun(["shim", "rm", PARENT]));
    drop(server);
    assert_nothing_left(&lab);
}

#[test]
fn an_interface_more_gets_an_address_and_gives_it_back_alone() {
    let lab = Lab::new(2);
    let dnsmasq = Dnsmasq::start(&lab, &[]);
    let container = lab.start("c", "10.99.0.11");
    run(&mut lab.mcrun(["attach", &container.id, "--mcast", "parent=lan0,ip=dhcp,gw=10.99.0.77"]));
    let shown = container.ip("-4 addr show dev mc1");
    assert!(shown[0]["addr_info"][0]["local"].as_str().is_some_and(|a| a.starts_with("10.99.0.1")));
    let routes = container.ip("route show default");
    assert_eq!(
        (routes.as_array().unwrap().len(), &routes[0]["gateway"]),
        (1, &"10.99.0.77".into())
    );
    run(&mut lab.mcrun(["detach", &container.id, "mc1"]));
    dnsmasq.wait_for(0, "DHCPRELEASE");
    assert!(holders(&lab).is_empty());
    lab.delete(&container);
    assert_nothing_left(&lab);
}

#[test]
fn a_server_that_restarts_is_asked_again_and_twenty_containers_get_twenty_addresses() {
    let lab = Lab::new(2);
    let options = ["--dhcp-option=option:T1,3", "--dhcp-option=option:T2,60"];
    let dnsmasq = Dnsmasq::start(&lab, &options);
    let rootfs = lab.rootfs().display().to_string();
    let starts: Vec<_> = (0..20)
        .map(|n| {
            let name = lab.name(&format!("c{n}"));
            let words = [
                "run",
                "-d",
                "--name",
                &name,
                "--rootfs",
                &rootfs,
                "--mcast",
                "parent=lan0,ip=dhcp",
            ];
            let mut command = lab.mcrun(words.into_iter().chain(["sleep", "1000"]));
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().expect("mcrun starts")
        })
        .collect();
    let outputs: Vec<_> =
        starts.into_iter().map(|s| s.wait_with_output().expect("it ends")).collect();
    let containers: Vec<_> = outputs
        .iter()
        .enumerate()
        .map(|(n, output)| lab.started(&format!("c{n}"), output))
        .collect();
    let addresses: std::collections::BTreeSet<_> =
        containers.iter().map(|c| address(c).expect("an address").0).collect();
    assert_eq!(addresses.len(), 20);
    let first = address(&containers[0]).expect("an address").0;
    dnsmasq.stop();
    let dnsmasq = Dnsmasq::start(&lab, &options);
    let before = dnsmasq.text().len();
    dnsmasq.wait_for(before, &format!("DHCPACK(lan0) {first}"));
    assert_eq!(address(&containers[0]).expect("an address").0, first);
    for container in &containers {
        lab.delete(container);
    }
    assert_nothing_left(&lab);
}

/// What the test's own server gives.
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 60);
const SECOND: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 61);

/// dnsmasq gives no lease of less than two minutes.
#[test]
fn a_lease_of_ten_seconds_is_renewed_by_its_server_for_most_of_a_minute() {
    const SECONDS: u32 = 10;
    const RENEWALS: usize = 22;
    let lab = Lab::new(2);
    let reply = Reply::Lease { address: FIRST, seconds: SECONDS, gateway: 254 };
    let server = Server::start(&lab, reply);
    let container = lab.start_with("c", &["parent=lan0,ip=dhcp"], &[]);
    let changes = lab.directory().join("changes");
    let mut monitor = container.enter("ip");
    monitor.args(["-4", "monitor", "address"]).stdout(File::create(&changes).expect("a file"));
    let mut monitor = Background::start(&mut monitor);
    // The first requests are those for the address.
    let first = server.requests().len();
    let requests = wait_until("the lease is renewed", Duration::from_secs(100), || {
        let requests = server.requests();
        (requests.len() >= first + RENEWALS).then_some(requests)
    });
    let (asked, renewals) = requests.split_at(first);
    assert!(asked.iter().all(|request| !request.is_unicast), "{asked:?}");
    for renewal in renewals {
        assert_eq!((renewal.own, renewal.is_unicast), (FIRST, true), "{renewals:?}");
    }
    // T1 is a quarter of the lease in whole seconds, up to a 64th of the lease earlier. T2 is at seven
    // eighths: from there on everybody would be asked.
    for pair in requests[first - 1..].windows(2) {
        let between = pair[1].at - pair[0].at;
        let earliest = Duration::from_secs((SECONDS / 4).into()) - Duration::from_millis(160);
        assert!(between >= earliest, "{between:?}: {requests:?}");
    }
    let watched = renewals[RENEWALS - 1].at - renewals[0].at;
    assert!(watched >= 3 * Duration::from_secs(SECONDS.into()), "{watched:?}");
    let (leased, left) = address(&container).expect("it is still there");
    assert!(leased == FIRST.to_string() && left <= SECONDS.into(), "{leased} {left}");
    monitor.signal(libc::SIGTERM);
    monitor.wait(SOON);
    let changes = fs::read_to_string(&changes).expect("a file");
    let set = changes.lines().filter(|line| line.contains(&format!("{FIRST}/24"))).count();
    assert!(!changes.contains("Deleted") && set >= RENEWALS / 2, "{changes}");
    lab.delete(&container);
    assert!(server.released(), "it was given back");
    assert_nothing_left(&lab);
}

#[test]
fn an_address_that_is_refused_goes_and_another_one_comes() {
    let lab = Lab::new(2);
    let server = Server::start(&lab, Reply::Lease { address: FIRST, seconds: 8, gateway: 254 });
    let container = lab.start_with("c", &["parent=lan0,ip=dhcp"], &[]);
    assert_eq!(address(&container).expect("an address").0, FIRST.to_string());
    // The next renewal is refused, and the question that follows gets another address.
    server.set(Reply::Refuse);
    wait_until("the address is taken away", PATIENCE, || {
        address(&container).is_none().then_some(())
    });
    server.set(Reply::Lease { address: SECOND, seconds: 8, gateway: 253 });
    wait_until("another one is there", PATIENCE, || {
        (address(&container)?.0 == SECOND.to_string()).then_some(())
    });
    let gateway = || container.ip("route show default")[0]["gateway"].clone();
    wait_until("with its gateway", PATIENCE, || (gateway() == "10.99.0.253").then_some(()));
    assert_eq!(lab.ps(&container).unwrap()["interfaces"][0]["addresses"][0], "10.99.0.61/24");
    // A renewal with another gateway.
    server.set(Reply::Lease { address: SECOND, seconds: 8, gateway: 252 });
    wait_until("the gateway changes", PATIENCE, || (gateway() == "10.99.0.252").then_some(()));
    assert_eq!(container.ip("route show default").as_array().unwrap().len(), 1);
    // Silence: the lease ends.
    server.set(Reply::Silence);
    wait_until("the address is taken away", PATIENCE, || {
        address(&container).is_none().then_some(())
    });
    assert_eq!(lab.ps(&container).unwrap()["interfaces"][0]["addresses"], serde_json::json!([]));
    server.set(Reply::Lease { address: FIRST, seconds: 600, gateway: 254 });
    wait_until("the first one is there", PATIENCE, || {
        (address(&container)?.0 == FIRST.to_string()).then_some(())
    });
    lab.delete(&container);
    assert!(server.released(), "it was given back");
    assert_nothing_left(&lab);
}

#[test]
fn a_lease_whose_processes_are_dead_ends_in_time_all_the_same() {
    let lab = Lab::new(2);
    let server = Server::start(&lab, Reply::Lease { address: FIRST, seconds: 4, gateway: 254 });
    let container = lab.start_with("c", &["parent=lan0,ip=dhcp"], &[]);
    kill(holder(&lab, &container));
    wait_until("the kernel takes it away", PATIENCE, || {
        address(&container).is_none().then_some(())
    });
    lab.delete(&container);
    drop(server);
    assert_nothing_left(&lab);
}

#[test]
fn noise_from_the_lan_harms_nobody() {
    let lab = Lab::new(2);
    let server = Server::start(&lab, Reply::Noise);
    server.set_after_noise(Reply::Lease { address: FIRST, seconds: 600, gateway: 254 });
    let container = lab.start_with("c", &["parent=lan0,ip=dhcp"], &[]);
    assert_eq!(address(&container).expect("an address").0, FIRST.to_string());
    assert_eq!(holders(&lab).len(), 2);
    lab.delete(&container);
    assert_nothing_left(&lab);
}

#[test]
fn an_interface_that_is_made_anew_gets_an_address_too() {
    let lab = Lab::new(2);
    let _dnsmasq = Dnsmasq::start(&lab, &[]);
    let host = lab.namespace("host");
    let plug = || {
        lab.ip("sw", &format!("link add p-more type veth peer name more0 netns {host}"));
        lab.ip("sw", "link set p-more master br0 up");
        lab.ip("host", "link set more0 up");
    };
    plug();
    let container = lab.start_with("c", &["parent=more0,ip=dhcp"], &[]);
    let before = holder(&lab, &container);
    lab.ip("sw", "link del p-more");
    wait_until("the processes end with the interface", PATIENCE, || {
        holders(&lab).is_empty().then_some(())
    });
    plug();
    run(&mut lab.mcrun(["reload"]));
    wait_until("it has an address", PATIENCE, || address(&container));
    assert!(holder(&lab, &container) != before && holders(&lab).len() == 2);
    // Its link is down and up: the address stays.
    run(container.enter("ip").args(["link", "set", "mc0", "down"]));
    run(container.enter("ip").args(["link", "set", "mc0", "up"]));
    assert_eq!(holders(&lab).len(), 2);
    lab.delete(&container);
    lab.ip("sw", "link del p-more");
    assert!(holders(&lab).is_empty());
}

#[test]
fn what_a_hook_that_was_killed_has_started_ends_by_itself() {
    let lab = Lab::new(2);
    let _server = Server::start(&lab, Reply::Silence);
    let name = lab.name("c");
    let rootfs = lab.rootfs().display().to_string();
    let words = [
        "run",
        "-d",
        "--name",
        &name,
        "--rootfs",
        &rootfs,
        "--mcast",
        "parent=lan0,ip=dhcp",
        "true",
    ];
    let mut start = lab.mcrun(words);
    start.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut start = Background::start(&mut start);
    wait_until("a lease is asked for", PATIENCE, || (holders(&lab).len() == 2).then_some(()));
    let hook = lab.host_processes().into_iter().find(|(_, line)| line.contains("mcrun-hook"));
    kill(hook.expect("a hook").0);
    wait_until("they end", PATIENCE, || holders(&lab).is_empty().then_some(()));
    start.wait(PATIENCE);
    run(&mut lab.mcrun(["gc"]));
    let _ = lab.mcrun(["rm", "--force", &name]).output();
    assert_nothing_left(&lab);
}
