//! `mcrun probe` on the loopback interface of network namespaces of its own.

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use mcrun::net::messages;
use mcrun::net::netlink::RouteSocket;
use mcrun::net::netns::NetNs;
use mcrun::probe::{Ended, HEADER, Header, Line, ReceiveResult, SendResult};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

mod ipv6;

const BINARY: &str = env!("CARGO_BIN_EXE_mcrun");
const GROUP: &str = "239.255.1.1";

/// A namespace whose loopback is up.
fn lab() -> NetNs {
    let ns = NetNs::create().expect("these tests need root");
    let mut route = RouteSocket::open_in(&ns).unwrap();
    route.request(messages::set_up(1), 0).unwrap();
    ns
}

fn probe(ns: &NetNs, arguments: &str) -> Command {
    let mut command = Command::new(BINARY);
    command.arg("probe").args(arguments.split_whitespace());
    ns.enter_on_exec(&mut command).unwrap();
    command
}

/// A running process that does not outlive the test.
struct Running(Child);

impl Running {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id() as i32), signal).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn sender(ns: &NetNs, arguments: &str) -> Running {
    let mut command = probe(ns, &format!("send --interface lo --loop {arguments}"));
    Running(command.stdout(Stdio::null()).spawn().unwrap())
}

/// A receiver that has joined.
struct Receiver {
    child: Running,
    stdout: BufReader<ChildStdout>,
}

impl Receiver {
    fn start(ns: &NetNs, arguments: &str) -> Self {
        Receiver::start_on(ns, "lo", arguments)
    }

    fn start_on(ns: &NetNs, interface: &str, arguments: &str) -> Self {
        let arguments = format!("recv --interface {interface} --json --interval 20ms {arguments}");
        let mut command = probe(ns, &arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut receiver = Receiver { child: Running(child), stdout };
        let first = receiver.line();
        assert!(matches!(first, Line::Interval(_)), "{first:?}");
        receiver
    }

    fn line(&mut self) -> Line {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// Waits until so many packets of the first group were shown.
    fn wait_for(&mut self, packets: u64) {
        let mut seen = 0;
        while seen < packets {
            match self.line() {
                Line::Interval(interval) => seen += interval.groups[0].report.packets,
                other => panic!("ended before {packets} packets: {other:?}"),
            }
        }
    }

    /// The result, the exit status and stderr.
    fn finish(mut self) -> (ReceiveResult, i32, String) {
        let result = loop {
            if let Line::Result(result) = self.line() {
                break result;
            }
        };
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "", "the result is the last line");
        let mut stderr = String::new();
        self.child.0.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        (result, self.child.0.wait().unwrap().code().unwrap(), stderr)
    }

    fn stop(self) -> (ReceiveResult, i32, String) {
        self.child.signal(Signal::SIGTERM);
        self.finish()
    }
}

fn receive(ns: &NetNs, arguments: &str) -> (ReceiveResult, i32) {
    receive_on(ns, "lo", arguments)
}

fn receive_on(ns: &NetNs, interface: &str, arguments: &str) -> (ReceiveResult, i32) {
    let arguments = format!("recv --interface {interface} --json {arguments}");
    let output = probe(ns, &arguments).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    match serde_json::from_str(&text) {
        Ok(Line::Result(result)) => (result, output.status.code().unwrap()),
        other => panic!("{other:?}: {text} {}", String::from_utf8_lossy(&output.stderr)),
    }
}

/// A socket in `ns` that sends to the group from `source`.
fn mouth(ns: &NetNs, source: Ipv4Addr) -> impl Fn(&[u8]) {
    let socket = ns
        .run(|| {
            let socket = UdpSocket::bind((source, 0)).unwrap();
            let lo = mcrun::sys::sockopt::set_multicast_interface;
            lo(&socket, 1, GROUP.parse().unwrap()).unwrap();
            socket
        })
        .unwrap();
    let to: SocketAddr = format!("{GROUP}:5004").parse().unwrap();
    move |bytes| assert_eq!(socket.send_to(bytes, to).unwrap(), bytes.len())
}

fn rtp(ssrc: u32, sequence: u16) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    Header { payload_type: 96, sequence, timestamp: 0, ssrc }.write(&mut bytes);
    bytes
}

#[test]
fn a_stream_arrives_whole_and_on_time() {
    let ns = lab();
    let receiver = Receiver::start(&ns, &format!("{GROUP} --count 2000 --timeout 10s"));
    let arguments = format!("send --interface lo --loop --rate 1000 --count 2000 --json {GROUP}");
    let output = probe(&ns, &arguments).output().unwrap();
    let Line::Sent(SendResult { groups: sent, elapsed, .. }) =
        serde_json::from_slice(&output.stdout).unwrap()
    else {
        panic!("{output:?}");
    };
    assert_eq!((sent[0].report.packets, sent[0].report.failed), (2000, 0));
    assert!((1.9..3.5).contains(&elapsed.as_secs_f64()), "1000 packets/s, not {elapsed:?}");

    let (result, status, stderr) = receiver.finish();
    assert_eq!((status, stderr.as_str()), (0, ""));
    assert_eq!(result.ended, Ended::Count);
    let report = &result.groups[0].report;
    assert_eq!((report.packets, report.bytes), (2000, 2000 * (12 + 1316)));
    assert_eq!((report.lost, report.duplicated, report.reordered), (Some(0), 0, 0));
    assert!(report.jitter.is_some() && report.join_to_first_packet.is_some());
    assert_eq!(report.sources.len(), 1);
    assert_eq!(report.sources[0].ssrc, Some(sent[0].report.ssrc));
}

#[test]
fn a_fast_stream_keeps_its_rate_and_arrives_whole() {
    let ns = lab();
    let receiver = Receiver::start(&ns, &format!("{GROUP} --count 50000 --timeout 10s"));
    let arguments = format!("send --interface lo --loop --rate 50k --count 50000 --json {GROUP}");
    let output = probe(&ns, &arguments).output().unwrap();
    let Line::Sent(sent) = serde_json::from_slice(&output.stdout).unwrap() else {
        panic!("{output:?}");
    };
    let packets = sent.groups[0].report.packets;
    assert_eq!(packets, 50_000);
    assert!((0.99..2.0).contains(&sent.elapsed.as_secs_f64()), "50000/s, not {sent:?}");
    let (result, status, _) = receiver.finish();
    let report = &result.groups[0].report;
    assert_eq!((status, report.packets, report.lost), (0, packets, Some(0)));
}

#[test]
fn several_groups_are_measured_apart() {
    let ns = lab();
    let _one = sender(&ns, "239.255.1.1 239.255.1.2:6000 --rate 500");
    let (result, status) = receive(&ns, "239.255.1.2:6000 239.255.1.1 --count 50 --timeout 10s");
    assert_eq!(status, 0);
    let names: Vec<_> = result.groups.iter().map(|g| (g.group.to_string(), g.port)).collect();
    assert_eq!(names, [("239.255.1.2".into(), 6000), ("239.255.1.1".into(), 5004)]);
    let ssrc = |index: usize| result.groups[index].report.sources[0].ssrc.unwrap();
    assert_ne!(ssrc(0), ssrc(1));
    for group in &result.groups {
        assert!(group.report.packets >= 50 && group.report.lost == Some(0), "{group:?}");
        assert_eq!(group.report.sources.len(), 1, "nothing of the other group");
    }
}

#[test]
fn a_source_that_was_not_asked_for_is_not_heard() {
    let ns = lab();
    let _wanted = sender(&ns, "232.1.1.1 --rate 500 --source 127.0.0.2");
    let _other = sender(&ns, "232.1.1.1 --rate 500 --source 127.0.0.3");
    let (both, _) =
        receive(&ns, "232.1.1.1 --duration 300ms --source 127.0.0.2 --source 127.0.0.3");
    assert_eq!(both.groups[0].report.sources.len(), 2);
    let (one, status) = receive(&ns, "232.1.1.1 --count 50 --timeout 10s --source 127.0.0.2");
    let sources = &one.groups[0].report.sources;
    assert_eq!((status, sources.len()), (0, 1));
    assert_eq!(sources[0].source.ip(), Ipv4Addr::new(127, 0, 0, 2));
}

#[test]
fn loss_duplicates_and_reordering_are_told_apart() {
    let ns = lab();
    let mut receiver = Receiver::start(&ns, &format!("{GROUP} --max-loss 2"));
    let send = mouth(&ns, Ipv4Addr::LOCALHOST);
    // Across the wrap: 2 and 3 missing, 0 late, 5 twice.
    for sequence in [65_534, 65_535, 1, 0, 4, 5, 5, 6] {
        send(&rtp(7, sequence));
    }
    // A second sender with numbers of its own, and one that started anew.
    for sequence in [30_000, 30_001] {
        send(&rtp(8, sequence));
    }
    receiver.wait_for(10);
    let (result, status, _) = receiver.stop();
    let report = &result.groups[0].report;
    assert_eq!((report.packets, report.expected, report.lost), (10, Some(11), Some(2)));
    assert_eq!((report.duplicated, report.reordered, report.sources.len()), (1, 1, 2));
    assert_eq!((status, result.ended), (0, Ended::Signal));
}

#[test]
fn a_broken_loss_limit_has_its_own_status_and_says_so() {
    let ns = lab();
    let mut receiver = Receiver::start(&ns, &format!("{GROUP} --max-loss 0.1%"));
    let send = mouth(&ns, Ipv4Addr::LOCALHOST);
    send(&rtp(7, 1));
    send(&rtp(7, 3));
    receiver.wait_for(2);
    let (result, status, stderr) = receiver.stop();
    assert_eq!((status, result.broken.len()), (3, 1));
    assert_eq!(stderr, "mcrun probe: 239.255.1.1:5004: 1 of 3 packets lost, --max-loss is 0.1%\n");
}

#[test]
fn a_blackout_up_to_the_end_breaks_the_gap_limit() {
    let ns = lab();
    let mut receiver = Receiver::start(&ns, &format!("{GROUP} --max-gap 200ms --duration 2s"));
    mouth(&ns, Ipv4Addr::LOCALHOST)(&rtp(7, 1));
    receiver.wait_for(1);
    let (result, status, stderr) = receiver.finish();
    assert_eq!((status, result.ended), (3, Ended::Duration));
    let gap = result.groups[0].report.longest_gap.unwrap();
    assert!((0.2..2.0).contains(&gap.as_secs_f64()), "{gap:?}");
    assert!(stderr.contains("--max-gap is 200ms"), "{stderr}");
}

#[test]
fn other_udp_counts_and_its_loss_is_unknown() {
    let ns = lab();
    let mut receiver = Receiver::start(&ns, GROUP);
    let send = mouth(&ns, Ipv4Addr::LOCALHOST);
    send(b"hello");
    send(b"");
    receiver.wait_for(2);
    let (result, status, _) = receiver.stop();
    let report = &result.groups[0].report;
    assert_eq!((report.packets, report.bytes, report.rtp, report.lost), (2, 5, false, None));
    assert_eq!(status, 0);

    let mut receiver = Receiver::start(&ns, &format!("{GROUP} --max-loss 0"));
    send(b"hello");
    receiver.wait_for(1);
    let (_, status, stderr) = receiver.stop();
    assert_eq!(status, 3, "a promise that cannot be checked is not kept");
    assert!(stderr.contains("loss unknown"), "{stderr}");
}

#[test]
fn silence_has_a_status_of_its_own() {
    let ns = lab();
    let (result, status) = receive(&ns, &format!("{GROUP} --timeout 100ms"));
    assert_eq!((status, result.ended), (1, Ended::Timeout));
    let (result, status) = receive(&ns, &format!("{GROUP} --duration 100ms"));
    assert_eq!((status, result.ended), (1, Ended::Duration));
    assert_eq!(result.broken, ["239.255.1.1:5004: nothing came"]);
    let report = &result.groups[0].report;
    assert_eq!((report.packets, report.lost, report.longest_gap), (0, None, None));

    // A stream that stops is told by --timeout too.
    let mut receiver = Receiver::start(&ns, &format!("{GROUP} --count 1000 --timeout 2s"));
    mouth(&ns, Ipv4Addr::LOCALHOST)(&rtp(7, 1));
    receiver.wait_for(1);
    let (result, status, _) = receiver.finish();
    assert_eq!((status, result.ended), (1, Ended::Timeout));
    assert_eq!(result.broken, ["nothing more came for 2s"]);
}

#[test]
fn the_text_output_says_the_same() {
    let ns = lab();
    let _sender = sender(&ns, &format!("{GROUP} --rate 1000"));
    let arguments = format!("recv -i lo {GROUP} --count 200 --timeout 10s --interval 100ms");
    let Output { status, stdout, .. } = probe(&ns, &arguments).output().unwrap();
    let text = String::from_utf8(stdout).unwrap();
    assert!(status.success(), "{text}");
    let live = text.lines().next().unwrap();
    assert!(live.contains("239.255.1.1:5004") && live.contains(" 0 lost"), "{live}");
    assert!(text.contains(" packets, 0 lost (0.000 %), 0 duplicated, 0 reordered\n"), "{text}");
    assert!(text.contains("after the join"), "{text}");
}

#[test]
fn the_binary_runs_as_the_only_file_of_a_container() {
    let ns = lab();
    let root = tempfile::tempdir().unwrap();
    crate::lab::install(std::path::Path::new(BINARY), &root.path().join("mcrun"));
    let _sender = sender(&ns, &format!("{GROUP} --rate 500"));
    let mut command = Command::new("/mcrun");
    command.args([
        "probe",
        "recv",
        "--interface",
        "lo",
        "--count",
        "20",
        "--timeout",
        "10s",
        GROUP,
    ]);
    ns.enter_on_exec(&mut command).unwrap();
    let path = root.path().to_owned();
    // SAFETY: between fork and exec, two system calls on a path that was allocated before.
    unsafe {
        command.pre_exec(move || {
            nix::unistd::chroot(&path)?;
            Ok(nix::unistd::chdir("/")?)
        })
    };
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains(" 0 lost"), "{output:?}");
}

#[test]
fn wrong_usage_is_named() {
    let ns = lab();
    for (arguments, status, says) in [
        ("recv", 2, "GROUP"),
        ("recv 10.0.0.1", 2, "10.0.0.1 is not a multicast group"),
        ("recv fe80::1", 2, "fe80::1 is not a multicast group (ff00::/8)"),
        ("recv ff00::1", 2, "ff00::1 is of a reserved scope"),
        ("recv [ff15::1]:0", 2, "port 0"),
        ("recv ff15::1%", 2, "the zone behind ff15::1% is missing"),
        ("recv 239.1.1.1%lo", 2, "239.1.1.1 is IPv4 and has no zone"),
        ("recv ff02::1", 125, "name the link with --interface or as ff02::1%IF"),
        ("send ff02::1", 125, "name the link with --interface or as ff02::1%IF"),
        ("recv ff02::1%none0", 125, "zone of ff02::1 \"none0\" does not exist; there are lo"),
        ("recv ff15::1", 125, "name the interface with --interface"),
        ("send ff15::1", 125, "name the interface with --interface"),
        ("recv ff15::1%lo [ff15::1]:5004 -i lo", 125, "[ff15::1]:5004 is named twice"),
        ("recv ff3e::1 -i lo --source 10.0.0.1", 125, "one is IPv4, the other is IPv6"),
        ("recv 232.1.1.1 -i lo --source fd00::1", 125, "one is IPv4, the other is IPv6"),
        ("recv ff3e::1 -i lo --source ff02::1", 125, "not a host's address"),
        ("send ff15::1 -i lo --source 10.0.0.1", 125, "one is IPv4, the other is IPv6"),
        ("send ff15::1 -i lo --source fd00::99", 125, "Cannot assign requested"),
        ("recv 239.1.1.1:0", 2, "port 0"),
        ("recv 239.1.1.1 --duration 5d", 2, "unknown unit"),
        ("recv 239.1.1.1 --duration 0s", 2, "must be more than 0"),
        ("recv 239.1.1.1 --max-loss 101%", 2, "0.1%"),
        ("recv 239.1.1.1 --count 0", 2, "0 is not in"),
        ("recv 239.1.1.1 --source 239.1.1.2", 125, "not a host's address"),
        ("recv 239.1.1.1 239.1.1.1:5004", 125, "239.1.1.1:5004 is named twice"),
        ("recv 239.1.1.1 --interface none0", 125, "\"none0\" does not exist; there are lo"),
        ("recv 239.1.1.1", 125, "name the interface with --interface"),
        ("send 239.1.1.1", 125, "name the interface with --interface"),
        ("send 239.1.1.1 --rate 0", 2, "packets per second"),
        ("send 239.1.1.1 --size 65516", 2, "65516 is not in"),
        (
            "send 239.1.1.1 -i lo --size 65496",
            125,
            "--size 65496 does not fit in a packet to 239.1",
        ),
        ("send 239.1.1.1 --interface lo --source 192.0.2.1", 125, "Cannot assign requested"),
    ] {
        let output = probe(&ns, arguments).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{arguments}: {stderr}");
        assert!(stderr.contains(says), "{arguments}: {stderr}");
        assert!(output.stdout.is_empty(), "{arguments}");
    }
}
