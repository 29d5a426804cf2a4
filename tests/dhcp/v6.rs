//! Addresses of IPv6 that a server on the LAN leases (`ip=dhcp6`), with dnsmasq, and with a server that
//! does what dnsmasq does not.

use std::fs;
use std::net::{Ipv6Addr, SocketAddrV6, UdpSocket};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::{assert_nothing_left, holder, holders};
use crate::lab::{Background, Container, Lab, PARENT, PATIENCE, json, kill, run, wait_until};

const ROUTER: &str = "fd00:99::1";
const FIRST: &str = "fd00:99::777";
const SECOND: &str = "fd00:99::778";
const SOON: Duration = Duration::from_secs(5);

const SOLICIT: u8 = 1;
const REQUEST: u8 = 3;
const RENEW: u8 = 5;
const REBIND: u8 = 6;
const RELEASE: u8 = 8;
const DECLINE: u8 = 9;

/// A laboratory whose sender has an address of IPv6.
fn lab() -> Lab {
    let lab = Lab::new(2);
    // A Linux bridge counts all nodes, and the groups of neighbour discovery, among those that nobody has
    // joined.
    lab.flood();
    run(lab.enter("src", "ip").args([
        "-6",
        "addr",
        "add",
        &format!("{ROUTER}/64"),
        "dev",
        PARENT,
        "nodad",
    ]));
    wait_until("the sender has a link-local address", PATIENCE, || {
        let shown = json(lab.enter("src", "ip").args(["-j", "-6", "addr", "show", "dev", PARENT]));
        let all = shown[0]["addr_info"].as_array()?.clone();
        let own = all.into_iter().find(|a| a["scope"] == "link")?;
        (own["tentative"] != true).then_some(())
    });
    lab
}

/// The leased address of a container's interface, with its remaining lifetime in seconds.
fn address(container: &Container) -> Option<(String, u64)> {
    let shown = container.ip("-6 addr show dev mc0");
    let all = shown[0]["addr_info"].as_array()?;
    let mut global = all.iter().filter(|a| a["scope"] == "global");
    let first = global.next()?;
    assert!(global.next().is_none(), "{shown}");
    assert_eq!(first["prefixlen"], 128);
    Some((first["local"].as_str()?.to_owned(), first["valid_life_time"].as_u64()?))
}

/// dnsmasq with addresses from fd00:99::100 on, which advertises itself as a router.
fn dnsmasq(lab: &Lab) -> (Background, std::path::PathBuf) {
    let log = lab.directory().join("dnsmasq6.log");
    let leases = lab.directory().join("dnsmasq6.leases");
    let output = fs::File::options().create(true).append(true).open(&log).expect("log");
    let mut command = lab.enter("src", "dnsmasq");
    command
        .args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root"])
        .args(["--log-dhcp", "--log-facility=-", "--bind-interfaces", "--enable-ra"])
        .args([&format!("--interface={PARENT}"), "--except-interface=lo", "--pid-file="])
        .args(["--dhcp-range=fd00:99::100,fd00:99::1ff,64,120", "--dhcp-authoritative"])
        .arg(format!("--dhcp-leasefile={}", leases.display()))
        .stdout(Stdio::null())
        .stderr(output);
    let before = fs::read_to_string(&log).unwrap_or_default().len();
    let process = Background::start(&mut command);
    wait_for(&log, before, "router advertisement on");
    (process, log)
}

fn wait_for(log: &std::path::Path, from: usize, words: &str) {
    wait_until(&format!("dnsmasq says {words}"), PATIENCE, || {
        fs::read_to_string(log).unwrap_or_default().get(from..)?.contains(words).then_some(())
    });
}

#[test]
fn a_container_gets_an_address_keeps_it_over_a_restart_and_gives_it_back() {
    let lab = lab();
    let (mut server, log) = dnsmasq(&lab);
    let capture = lab.capture_also("icmp6 and ip6[40] == 136");
    let container = lab.start_with("c", &["parent=lan0,ip=dhcp6"], &[]);
    let (leased, lifetime) = address(&container).expect("an address");
    let own: Ipv6Addr = leased.parse().expect("an address");
    wait_until("the LAN is told of the address", PATIENCE, || {
        let frames = capture.frames();
        let mut advertised = frames.iter().filter_map(|frame| frame.get(62..78));
        advertised.any(|target| target == own.octets()).then_some(())
    });
    assert!(leased.starts_with("fd00:99::1") && (100..=120).contains(&lifetime), "{leased}");
    let shown = lab.ps(&container).expect("it runs");
    assert_eq!(shown["interfaces"][0]["addresses"][0], format!("{leased}/128"));
    let inspected = run(&mut lab.mcrun(["inspect", &container.id]));
    assert!(inspected.contains("lease     of DHCPv6, for 1"), "{inspected}");
    // Routers tell the way out.
    wait_until("there is a default route", PATIENCE, || {
        container.ip("-6 route show default dev mc0").to_string().contains("fe80::").then_some(())
    });
    let mac = container.ip("link show dev mc0")[0]["address"].clone();
    run(lab.enter("src", "bash").args(["-c", &format!("echo > /dev/udp/{leased}/40001")]));
    wait_until("the LAN reaches it", PATIENCE, || {
        let known = json(lab.enter("src", "ip").args(["-j", "neigh", "show", &leased]));
        (known[0]["lladdr"] == mac).then_some(())
    });
    let other = lab.try_start("other", &[&format!("parent=lan0,ip={leased}/64")], &[]);
    let errors = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(errors.contains(&format!("{leased} is the address of container")), "{errors}");
    // Processes that were killed are started again, and ask a server that was started again.
    server.signal(libc::SIGTERM);
    server.wait(SOON);
    let (mut server, _) = dnsmasq(&lab);
    kill(holder(&lab, &container));
    wait_until("both have gone", PATIENCE, || holders(&lab).is_empty().then_some(()));
    let before = fs::read_to_string(&log).expect("log").len();
    run(&mut lab.mcrun(["reload"]));
    wait_for(&log, before, &format!("DHCPREPLY(lan0) {leased}"));
    assert_eq!(address(&container).expect("an address").0, leased);
    let before = fs::read_to_string(&log).expect("log").len();
    lab.delete(&container);
    wait_for(&log, before, "DHCPRELEASE(lan0)");
    assert_nothing_left(&lab);
    let again = lab.start_with("c", &["parent=lan0,ip=dhcp6"], &[]);
    assert_eq!(address(&again).expect("an address").0, leased);
    let before = fs::read_to_string(&log).expect("log").len();
    kill(again.pid);
    wait_for(&log, before, "DHCPRELEASE(lan0)");
    lab.delete(&again);
    server.signal(libc::SIGTERM);
    server.wait(SOON);
    assert_nothing_left(&lab);
}

#[test]
fn without_a_server_the_container_does_not_start_and_nothing_is_left() {
    let lab = lab();
    let refused = lab.try_start("c", &["parent=lan0,ip=dhcp6"], &[]);
    let errors = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success());
    assert!(
        errors.contains("ip=dhcp6: no server on lan0 has given mc0 an address within 10 s"),
        "{errors}"
    );
    assert_eq!(errors.trim().lines().count(), 1, "{errors}");
    assert_nothing_left(&lab);
}

#[test]
fn a_lease_is_renewed_rebound_and_bound_anew_and_noise_harms_nobody() {
    let lab = lab();
    let server = Server::start(&lab, Reply::Lease(FIRST));
    let container = lab.start_with("c", &["parent=lan0,ip=dhcp6"], &[]);
    assert_eq!(address(&container).expect("an address").0, FIRST);
    server.wait_heard(RENEW);
    // One that knows nothing of the address is asked for it anew.
    server.set(Reply::NoBinding);
    server.wait_heard(REQUEST);
    server.set(Reply::Lease(FIRST));
    server.forget();
    server.wait_heard(RENEW);
    assert_eq!(address(&container).expect("an address").0, FIRST);
    // Nobody answers the renewals: every server is asked, and one gives another address.
    server.set(Reply::ToRebind(SECOND));
    server.wait_heard(REBIND);
    wait_until("the address changes", PATIENCE, || {
        (address(&container)?.0 == SECOND).then_some(())
    });
    server.set(Reply::Lease(SECOND));
    server.forget();
    lab.delete(&container);
    server.wait_heard(RELEASE);
    assert_nothing_left(&lab);
}

#[test]
fn an_address_that_a_station_has_is_declined_and_another_one_is_asked_for() {
    let lab = lab();
    run(lab.enter("src", "ip").args([
        "-6",
        "addr",
        "add",
        &format!("{FIRST}/64"),
        "dev",
        PARENT,
        "nodad",
    ]));
    let server = Server::start(&lab, Reply::Lease(FIRST));
    server.set_after_decline(SECOND);
    let container = lab.start_with("c", &["parent=lan0,ip=dhcp6"], &[]);
    server.wait_heard(DECLINE);
    assert_eq!(address(&container).expect("an address").0, SECOND);
    lab.delete(&container);
    assert_nothing_left(&lab);
}

/// How the server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reply {
    /// With this address for 12 s, whose renewal is due after 1 s and rebinding after 3 s.
    Lease(&'static str),
    /// To a Renew that it does not know the address, which it gives to a Request.
    NoBinding,
    /// With this address, and to nothing but a Rebind.
    ToRebind(&'static str),
}

struct Shared {
    reply: Mutex<Reply>,
    after_decline: Mutex<Option<&'static str>>,
    heard: Mutex<Vec<u8>>,
    end: AtomicBool,
}

/// A server of DHCPv6, which answers each question also with noise.
struct Server {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(lab: &Lab, reply: Reply) -> Server {
        let socket = lab.run_in("src", || {
            let socket =
                Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP)).expect("socket");
            socket.set_only_v6(true).expect("option");
            socket.bind_device(Some(PARENT.as_bytes())).expect("device");
            let any = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 547, 0, 0);
            socket.bind(&any.into()).expect("bind");
            let index = nix::net::if_::if_nametoindex(PARENT).expect("index");
            let servers = "ff02::1:2".parse().expect("an address");
            socket.join_multicast_v6(&servers, index).expect("join");
            UdpSocket::from(socket)
        });
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("timeout");
        let shared = Arc::new(Shared {
            reply: Mutex::new(reply),
            after_decline: Mutex::new(None),
            heard: Mutex::new(Vec::new()),
            end: AtomicBool::new(false),
        });
        let own = Arc::clone(&shared);
        let thread = Some(std::thread::spawn(move || serve(&socket, &own)));
        Server { shared, thread }
    }

    fn set(&self, reply: Reply) {
        *self.shared.reply.lock().expect("lock") = reply;
    }

    fn set_after_decline(&self, address: &'static str) {
        *self.shared.after_decline.lock().expect("lock") = Some(address);
    }

    fn forget(&self) {
        self.shared.heard.lock().expect("lock").clear();
    }

    fn wait_heard(&self, kind: u8) {
        wait_until(&format!("a message of type {kind} arrives"), PATIENCE, || {
            self.shared.heard.lock().expect("lock").contains(&kind).then_some(())
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(socket: &UdpSocket, shared: &Shared) {
    let mut buffer = [0; 1500];
    while !shared.end.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        let question = &buffer[..length];
        let Some(kind) = question.first().copied() else { continue };
        shared.heard.lock().expect("lock").push(kind);
        let mut reply = shared.reply.lock().expect("lock");
        if kind == DECLINE
            && let Some(address) = *shared.after_decline.lock().expect("lock")
        {
            *reply = Reply::Lease(address);
        }
        let answered = match (kind, *reply) {
            (REBIND, Reply::ToRebind(address)) => answer(question, 7, Some(address)),
            (_, Reply::ToRebind(_)) => continue,
            (SOLICIT, Reply::Lease(address)) => answer(question, 2, Some(address)),
            (DECLINE | RELEASE, _) => answer(question, 7, None),
            (_, Reply::Lease(address)) => answer(question, 7, Some(address)),
            (REQUEST, Reply::NoBinding) => answer(question, 7, Some(FIRST)),
            (_, Reply::NoBinding) => answer(question, 7, None),
        };
        // What no client should believe comes first: cut, and with each byte changed.
        for at in 0..answered.len() {
            let _ = socket.send_to(&answered[..at], from);
            let mut changed = answered.clone();
            changed[at] ^= 0xff;
            // A changed address or time would be believed, as nothing protects it.
            if at < 4 {
                let _ = socket.send_to(&changed, from);
            }
        }
        let _ = socket.send_to(&vec![0xff; 1200], from);
        let _ = socket.send_to(&answered, from);
    }
}

/// An answer with an address, or with the status that there is no binding.
fn answer(question: &[u8], kind: u8, address: Option<&str>) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(&question[1..4]);
    put(&mut bytes, 1, option(question, 1).expect("a client"));
    put(&mut bytes, 2, b"\0\x04mcrun-test");
    // The client takes this server at once.
    put(&mut bytes, 7, &[255]);
    let association = option(question, 3).expect("an association");
    let mut value = association[..4].to_vec();
    value.extend([1u32, 3].map(u32::to_be_bytes).concat());
    match address {
        Some(address) => {
            let address: Ipv6Addr = address.parse().expect("an address");
            let lifetimes = [12u32, 12].map(u32::to_be_bytes).concat();
            put(&mut value, 5, &[&address.octets()[..], &lifetimes].concat());
        }
        None => put(&mut value, 13, &[0, 3]),
    }
    put(&mut bytes, 3, &value);
    bytes
}

fn put(bytes: &mut Vec<u8>, code: u16, value: &[u8]) {
    bytes.extend(code.to_be_bytes());
    bytes.extend((value.len() as u16).to_be_bytes());
    bytes.extend(value);
}

fn option(message: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut rest = message.get(4..)?;
    while let [a, b, c, d, behind @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*c, *d]));
        let (value, behind) = behind.split_at_checked(length)?;
        if u16::from_be_bytes([*a, *b]) == wanted {
            return Some(value);
        }
        rest = behind;
    }
    None
}
