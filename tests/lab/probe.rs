//! `mcrun probe` as the lab's sender and receivers.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::facts::has_joined;
use super::family::Family;
use super::process::{Background, wait_until};
use super::{Container, Lab, PARENT, PATIENCE};

/// UDP port of every stream.
const PORT: u16 = 5004;

/// How many packets show that a stream arrives whole: half a second of one.
const SHOWN: u32 = 500;

/// A stream that runs until it is dropped, but not longer than a test.
pub struct Sender(#[expect(dead_code, reason = "ends when dropped")] Background);

/// A running receiver.
pub struct Receiver(Background);

/// A stream to a container, from the first packet to [`Stream::assert_whole`].
pub struct Stream {
    sender: Background,
    receiver: Receiver,
}

/// What a receiver reports at its end.
#[derive(Debug, Clone)]
pub struct Reception {
    pub packets: u64,
    pub lost: u64,
    pub duplicated: u64,
    #[expect(dead_code, reason = "shown where an assertion on the rest fails")]
    pub longest_gap_ms: f64,
    /// Who sent what came.
    pub sources: BTreeSet<IpAddr>,
}

impl Lab {
    /// Sends a stream of packets per second to a group from one of the sender's addresses.
    pub fn send<A: Family>(&self, group: A, source: A, rate: u32) -> Sender {
        let mut command = self.enter("src", env!("CARGO_BIN_EXE_mcrun"));
        command
            .args(["probe", "send", &to(group), "--interface", PARENT])
            .args(["--source", &source.to_string(), "--rate", &rate.to_string()])
            .args(["--duration", "120s"])
            .stdout(Stdio::null());
        Sender(Background::start(&mut command))
    }

    /// A stream of packets per second that a container receives from its first packet on, whatever
    /// happens until [`Stream::assert_whole`].
    pub fn stream<A: Family>(&self, container: &Container, group: A, rate: u32) -> Stream {
        let mut command = container.enter(env!("CARGO_BIN_EXE_mcrun"));
        let receiver = receive(&mut command, group, None, Duration::from_secs(120));
        self.wait_joined(container, group);
        self.wait_forwarded(group);
        let mut command = self.enter("src", env!("CARGO_BIN_EXE_mcrun"));
        command
            .args(["probe", "send", &to(group), "--interface", PARENT, "--json"])
            .args(["--source", &A::station(3).to_string(), "--rate", &rate.to_string()])
            .args(["--duration", "120s"])
            .stdout(Stdio::piped());
        Stream { sender: Background::start(&mut command), receiver }
    }

    /// Sends the same stream from the network behind the router.
    pub fn send_from_far(&self, group: Ipv4Addr, rate: u32) -> Sender {
        let mut command = self.enter("far", env!("CARGO_BIN_EXE_mcrun"));
        command
            .args(["probe", "send", &to(group), "--interface", PARENT])
            .args(["--rate", &rate.to_string(), "--ttl", "8", "--duration", "120s"])
            .stdout(Stdio::null());
        Sender(Background::start(&mut command))
    }

    /// Sends so many packets to a group from the network namespace of a container, and
    /// returns when all are sent.
    pub fn send_from(&self, container: &Container, group: Ipv4Addr, rate: u32, count: u32) {
        let command = container.enter(env!("CARGO_BIN_EXE_mcrun"));
        let output = send_count(command, group, rate, count, &[]).finish(Duration::from_secs(60));
        assert!(output.status.success(), "probe send: {output:?}");
    }

    /// Sends so many packets to a group from one of the sender's addresses; ended by
    /// [`Background::finish`].
    pub fn send_count<A: Family>(&self, group: A, source: A, rate: u32, count: u32) -> Background {
        let command = self.enter("src", env!("CARGO_BIN_EXE_mcrun"));
        send_count(command, group, rate, count, &["--source", &source.to_string()])
    }

    /// A stream to a group arrives in a container, each packet once.
    pub fn assert_stream_arrives(&self, container: &Container, group: impl Family) {
        let mcrun = self.exec_command(container, &["mcrun"]);
        self.assert_stream_arrives_by(mcrun, container, group, || {});
    }

    /// The same, where a prepared command runs mcrun; `while_joined` runs before the first packet.
    pub fn assert_stream_arrives_by<A: Family>(
        &self,
        mcrun: Command,
        container: &Container,
        group: A,
        while_joined: impl FnOnce(),
    ) {
        let receiver = receive_count(mcrun, group, None, SHOWN, &[]);
        self.wait_joined(container, group);
        self.wait_forwarded(group);
        while_joined();
        let sender = self.send_count(group, A::station(3), 1000, SHOWN);
        receiver.assert_each_once(SHOWN);
        let sent = sender.finish(PATIENCE);
        assert!(sent.status.success(), "probe send: {sent:?}");
    }

    /// Receives so many packets in the network namespace of a container, however long that takes.
    pub fn receive_count<A: Family>(
        &self,
        container: &Container,
        group: A,
        source: Option<A>,
        count: u32,
    ) -> Receiver {
        let command = container.enter(env!("CARGO_BIN_EXE_mcrun"));
        receive_count(command, group, source, count, &[])
    }

    /// The same in a namespace of the lab.
    pub fn receive_in_count(&self, node: &str, group: Ipv4Addr, count: u32) -> Receiver {
        receive_count(self.enter(node, env!("CARGO_BIN_EXE_mcrun")), group, None, count, &[])
    }

    /// The same on the LAN, where the sender is.
    pub fn receive_count_on_lan(&self, group: Ipv4Addr, count: u32) -> Receiver {
        let command = self.enter("src", env!("CARGO_BIN_EXE_mcrun"));
        receive_count(command, group, None, count, &["--interface", PARENT])
    }

    /// The same in a namespace of the lab.
    pub fn receive_count_in(&self, node: &str, group: Ipv4Addr, count: u32) -> Receiver {
        receive_count(self.enter(node, env!("CARGO_BIN_EXE_mcrun")), group, None, count, &[])
    }

    /// Receives in a container for a time, from any source or from one.
    pub fn receive<A: Family>(
        &self,
        container: &Container,
        group: A,
        source: Option<A>,
        time: Duration,
    ) -> Receiver {
        let mut command = self.exec_command(container, &["mcrun"]);
        receive(&mut command, group, source, time)
    }

    /// Receives for a time where a prepared command runs mcrun.
    pub fn receive_by(&self, mut command: Command, group: Ipv4Addr, time: Duration) -> Receiver {
        receive(&mut command, group, None, time)
    }

    /// Receives in a namespace of the lab for a time.
    pub fn receive_in(&self, node: &str, group: Ipv4Addr, time: Duration) -> Receiver {
        receive(&mut self.enter(node, env!("CARGO_BIN_EXE_mcrun")), group, None, time)
    }

    /// Waits until the container's kernel has joined and mcrun has joined for it.
    pub fn wait_joined(&self, container: &Container, group: impl Family) {
        wait_until("the container joins", PATIENCE, || {
            has_joined(container.pid, group).then_some(())
        });
        wait_until("mcrun reports the group as joined", PATIENCE, || {
            let groups = self.groups(container);
            let entry = groups.iter().find(|entry| entry["group"] == group.to_string())?;
            (entry["status"] == "joined").then_some(())
        });
    }

    /// Waits until mcrun knows of no membership of the group.
    pub fn wait_left(&self, container: &Container, group: impl Family) {
        wait_until("mcrun drops the group", PATIENCE, || {
            let groups = self.groups(container);
            (!groups.iter().any(|entry| entry["group"] == group.to_string())).then_some(())
        });
    }

    /// What `mcrun groups --json` says of one container.
    pub fn groups(&self, container: &Container) -> Vec<Value> {
        let answer = super::json(&mut self.mcrun(["groups", "--json"]));
        let entries = answer.as_array().expect("an array");
        entries.iter().filter(|e| e["container"] == container.id).cloned().collect()
    }
}

/// A group as `mcrun probe` is told of it.
fn to(group: impl Family) -> String {
    SocketAddr::new(group.into(), PORT).to_string()
}

fn send_count(
    mut command: Command,
    group: impl Family,
    rate: u32,
    count: u32,
    options: &[&str],
) -> Background {
    command
        .args(["probe", "send", &to(group), "--rate", &rate.to_string()])
        .args(["--count", &count.to_string(), "--size", "200"])
        .args(options);
    Background::start(command.stdout(Stdio::piped()).stderr(Stdio::piped()))
}

fn receive_count<A: Family>(
    mut command: Command,
    group: A,
    source: Option<A>,
    count: u32,
    options: &[&str],
) -> Receiver {
    command
        .args(["probe", "recv", &to(group), "--json", "--duration", "45s"])
        .args(["--count", &count.to_string()])
        .args(options);
    if let Some(source) = source {
        command.args(["--source", &source.to_string()]);
    }
    Receiver(Background::start(command.stdout(Stdio::piped()).stderr(Stdio::piped())))
}

fn receive<A: Family>(
    command: &mut Command,
    group: A,
    source: Option<A>,
    time: Duration,
) -> Receiver {
    command.args(["probe", "recv", &to(group), "--json"]);
    command.args(["--duration", &format!("{}ms", time.as_millis())]);
    if let Some(source) = source {
        command.args(["--source", &source.to_string()]);
    }
    Receiver(Background::start(command.stdout(Stdio::piped()).stderr(Stdio::piped())))
}

impl Stream {
    /// Ends the stream. Each packet that was sent has been received once.
    pub fn assert_whole(self) {
        self.sender.signal(libc::SIGINT);
        let output = self.sender.finish(PATIENCE);
        let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
        let sent = report["groups"][0]["packets"].as_u64().expect("a number");
        // What was sent is in the receiver's socket, or has been read, or was lost.
        wait_until("the receiver has read its socket", PATIENCE, || {
            self.receiver.is_drained().then_some(())
        });
        let reception = self.receiver.stop();
        let seen = (reception.packets, reception.lost, reception.duplicated);
        assert_eq!(seen, (sent, 0, 0), "packets, lost, duplicated: {reception:?}");
    }
}

impl Receiver {
    /// Process id.
    pub fn pid(&self) -> i32 {
        self.0.pid()
    }

    /// Whether no socket of a stream in its network namespace has anything that is not read.
    fn is_drained(&self) -> bool {
        let read = |name| fs::read_to_string(format!("/proc/{}/net/{name}", self.pid()));
        let sockets = ["udp", "udp6"].map(|name| read(name).expect("sockets"));
        sockets.iter().flat_map(|text| text.lines().skip(1)).all(|line| {
            // sl local_address rem_address st tx_queue:rx_queue
            let columns: Vec<_> = line.split_whitespace().collect();
            !columns[1].ends_with(&format!(":{PORT:04X}")) || columns[4].ends_with(":00000000")
        })
    }

    /// It has received each of so many packets once, all from one source.
    pub fn assert_each_once(self, packets: u32) {
        let reception = self.finish();
        let seen = (reception.packets, reception.lost, reception.duplicated);
        assert_eq!(seen, (packets.into(), 0, 0), "packets, lost, duplicated: {reception:?}");
    }

    /// Of a stream that runs it has received at least so many packets, without a gap and each once.
    /// It reads several at a time, and so may have read more.
    pub fn assert_none_lost(self, at_least: u32) {
        let reception = self.finish();
        assert!(reception.packets >= at_least.into(), "{reception:?}");
        assert_eq!((reception.lost, reception.duplicated), (0, 0), "{reception:?}");
    }

    /// Ends it now; what it received.
    pub fn stop(self) -> Reception {
        self.0.signal(libc::SIGINT);
        self.finish()
    }

    /// Waits for its end; what it received.
    pub fn finish(self) -> Reception {
        let output = self.0.finish(Duration::from_secs(60));
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        let report: Value = serde_json::from_str(&text)
            .unwrap_or_else(|e| panic!("probe recv: {e}: {text:?} {errors}"));
        let of_group = &report["groups"][0];
        let number = |key: &str| match &of_group[key] {
            // Nothing came: nothing is known to be lost.
            Value::Null if of_group["packets"] == 0 => 0.0,
            value => value.as_f64().unwrap_or_else(|| panic!("probe recv: {key}: {report}")),
        };
        Reception {
            packets: number("packets") as u64,
            lost: number("lost") as u64,
            duplicated: number("duplicated") as u64,
            longest_gap_ms: number("longest_gap_ms"),
            sources: of_group["sources"]
                .as_array()
                .expect("an array")
                .iter()
                .map(|s| s["source"].as_str().and_then(|a| a.parse().ok()).expect("an address"))
                .map(|from: SocketAddr| from.ip())
                .collect(),
        }
    }
}
