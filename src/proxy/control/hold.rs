//! The keeper's side of `hold`, and what stands in for a proxy that is dead.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use socket2::{Domain, Socket, Type};

use crate::notice::Notice;
use crate::proxy::control::protocol::{
    ALIVE_QUESTION, ControlRequest, CountPayload, ErrorCode, Format, HeldKind, HoldPayload,
    MAX_LINE, Received, count_answer, error_answer, handover_answer, parse_answer, parse_request,
};
use crate::proxy::control::status::{InterfaceStatus, ProxyStatus};
use crate::sys::fd_passing::{MAX_FDS, receive_with_fds, send_with_fds};
use crate::sys::ifreq;

/// Most descriptors that are held for one proxy. A proxy that works has less than a quarter.
const MAX_HELD: usize = 2048;
/// Longest line. The status of 256 groups with 64 sources each has 300,000 bytes.
const MAX_BYTES: usize = 8 << 20;
/// Bytes of one read.
const READ_SIZE: usize = 16 << 10;
/// How long the stand-in waits for a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// What is held for one proxy.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// Owners of rules.
    pub(crate) rules: Vec<OwnedFd>,
    /// Join sockets.
    pub(crate) joins: Vec<OwnedFd>,
    // As text: a parsed value takes ten times as much memory.
    relays: Vec<Box<RawValue>>,
    relay_sockets: Vec<OwnedFd>,
    count: Option<CountPayload>,
    counting: Vec<OwnedFd>,
    status: Option<Box<RawValue>>,
    /// When the status came, in seconds of the host's monotonic clock.
    status_time: f64,
}

impl Held {
    fn push(&mut self, kind: HeldKind, descriptor: OwnedFd) {
        match kind {
            HeldKind::Rules => self.rules.push(descriptor),
            HeldKind::Join => self.joins.push(descriptor),
            HeldKind::Relay => self.relay_sockets.push(descriptor),
            HeldKind::Count => self.counting.push(descriptor),
            HeldKind::Unknown => {}
        }
    }

    fn len(&self) -> usize {
        self.rules.len() + self.joins.len() + self.relay_sockets.len() + self.counting.len()
    }
}

/// What [`HoldStream::status_text`] writes: relays, status, when the status came, count. An earlier
/// keeper did not write the last two.
#[derive(Debug, Default, Deserialize)]
struct StatusText(
    Vec<Box<RawValue>>,
    Option<Box<RawValue>>,
    #[serde(default)] Option<f64>,
    #[serde(default)] Option<CountPayload>,
);

/// The connection to one proxy, and what is held for it.
#[derive(Debug)]
pub(crate) struct HoldStream {
    stream: UnixStream,
    received: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
    /// What is being received in place of `held`.
    coming: Held,
    held: Held,
    is_complete: bool,
    generation: u64,
    status_version: u64,
}

/// A number that no other call gives.
fn unique() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

/// What was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HoldEvent {
    /// Lines of the proxy, which is alive.
    Lines,
    /// The proxy has closed the connection.
    Closed,
    /// The proxy does not know the request: it is of an earlier version.
    Refused,
}

impl HoldStream {
    /// Asks the proxy of this directory to hand over what must outlive it. Does not wait.
    ///
    /// # Errors
    /// Those of connect(2).
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        let dir = open_directory(dir)?;
        let mut stream = UnixStream::connect(socket_path(&dir))?;
        stream.set_nonblocking(true)?;
        stream.write_all(ControlRequest::Hold.to_line().as_bytes())?;
        Ok(HoldStream {
            stream,
            received: Vec::new(),
            descriptors: VecDeque::new(),
            coming: Held::default(),
            held: Held::default(),
            is_complete: false,
            generation: unique(),
            status_version: unique(),
        })
    }

    /// What another keeper held for a proxy, and that keeper's [`HoldStream::status_text`]. The proxy
    /// is not connected.
    ///
    /// # Errors
    /// Those of socketpair(2).
    pub(crate) fn restored(
        descriptors: Vec<(HeldKind, OwnedFd)>,
        status: &[u8],
    ) -> io::Result<Self> {
        let (stream, _) = UnixStream::pair()?;
        let mut held = Held::default();
        for (kind, descriptor) in descriptors {
            held.push(kind, descriptor);
        }
        // A text that was being written when the keeper died is none.
        let known: StatusText = serde_json::from_slice(status).unwrap_or_default();
        (held.relays, held.status, held.count) = (known.0, known.1, known.3);
        held.status_time = known.2.unwrap_or_else(monotonic_seconds);
        Ok(HoldStream {
            stream,
            received: Vec::new(),
            descriptors: VecDeque::new(),
            coming: Held::default(),
            held,
            is_complete: true,
            generation: unique(),
            status_version: unique(),
        })
    }

    /// Changes whenever descriptors are replaced. While it stays, they only become more.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// The descriptors of a kind.
    pub(crate) fn held(&self, kind: HeldKind) -> &[OwnedFd] {
        match kind {
            HeldKind::Rules => &self.held.rules,
            HeldKind::Join => &self.held.joins,
            HeldKind::Relay => &self.held.relay_sockets,
            HeldKind::Count => &self.held.counting,
            HeldKind::Unknown => &[],
        }
    }

    /// Changes whenever [`HoldStream::status_text`] does.
    pub(crate) fn status_version(&self) -> u64 {
        self.status_version
    }

    /// The status and the relays of the proxy, for [`HoldStream::restored`].
    pub(crate) fn status_text(&self) -> Vec<u8> {
        let Held { relays, status, status_time, count, .. } = &self.held;
        serde_json::to_vec(&(relays, status, status_time, count)).unwrap_or_default()
    }

    /// The interfaces and groups of the last status; none of one that cannot be understood.
    pub(crate) fn interfaces(&self) -> Vec<InterfaceStatus> {
        let status = self.held.status.as_ref();
        let status = status.and_then(|text| serde_json::from_str::<ProxyStatus>(text.get()).ok());
        status.map_or_else(Vec::new, |status| status.interfaces)
    }

    /// Whether everything is held that must outlive the proxy.
    pub(crate) fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Asks whether the proxy answers: a line follows.
    ///
    /// # Errors
    /// Those of write(2).
    pub(crate) fn ask(&mut self) -> io::Result<()> {
        self.stream.write_all(ALIVE_QUESTION.as_bytes())
    }

    /// Receives what waits.
    ///
    /// # Errors
    /// Those of recvmsg(2); `WouldBlock` if nothing waits; `InvalidData` for what no proxy sends.
    pub(crate) fn receive(&mut self) -> io::Result<HoldEvent> {
        let mut buffer = [0; READ_SIZE];
        let (length, descriptors) = receive_with_fds(&self.stream, &mut buffer, MAX_FDS)?;
        if length == 0 {
            return Ok(HoldEvent::Closed);
        }
        self.descriptors.extend(descriptors);
        self.received.extend_from_slice(&buffer[..length]);
        let held = self.descriptors.len() + self.coming.len() + self.held.len();
        if self.received.len() > MAX_BYTES || held > MAX_HELD {
            return Err(io::ErrorKind::InvalidData.into());
        }
        while let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.received.drain(..=end).collect();
            match parse_answer::<HoldPayload<Box<RawValue>, Box<RawValue>>>(&line) {
                Ok(payload) => self.take(payload)?,
                Err(_) => return Ok(HoldEvent::Refused),
            }
        }
        if self.received.is_empty() {
            // Some hundred streams wait for months.
            self.received = Vec::new();
        }
        Ok(HoldEvent::Lines)
    }

    fn take(&mut self, line: HoldPayload<Box<RawValue>, Box<RawValue>>) -> io::Result<()> {
        if line.begins {
            self.coming = Held::default();
        }
        // After the first complete set, lines add to it; a new set is gathered beside it.
        let is_addition = self.is_complete && !line.begins && self.coming.status.is_none();
        let held = if is_addition { &mut self.held } else { &mut self.coming };
        if let Some(relays) = line.relays {
            held.relays = relays;
            held.relay_sockets.clear();
            self.generation = unique();
            self.status_version = unique();
        }
        if let Some(count) = line.count {
            held.count = Some(count);
            held.counting.clear();
            self.generation = unique();
            self.status_version = unique();
        }
        for kind in line.held {
            let descriptor = self.descriptors.pop_front().ok_or(io::ErrorKind::InvalidData)?;
            held.push(kind, descriptor);
        }
        if line.status.is_some() {
            held.status = line.status;
            held.status_time = monotonic_seconds();
            self.status_version = unique();
        }
        if line.is_complete {
            self.held = std::mem::take(&mut self.coming);
            self.is_complete = true;
            self.generation = unique();
        }
        Ok(())
    }

    /// Lets go of the join sockets.
    pub(crate) fn release_joins(&mut self) {
        self.generation = unique();
        self.held.joins.clear();
        self.coming.joins.clear();
    }

    /// Lets go of everything except the rules.
    pub(crate) fn keep_rules_only(&mut self) {
        self.generation = unique();
        self.held.joins.clear();
        self.held.relay_sockets.clear();
        self.held.counting.clear();
        self.coming = Held::default();
    }
}

impl AsFd for HoldStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl AsRawFd for HoldStream {
    fn as_raw_fd(&self) -> i32 {
        self.stream.as_raw_fd()
    }
}

/// Answers at the control socket of a dead proxy what the proxy's successor asks: the last status,
/// and the relays. Dropping it ends that.
#[derive(Debug)]
pub(crate) struct StandIn {
    listener: UnixListener,
    dead: Arc<Dead>,
}

/// Where an interface of the container has joined its groups.
#[derive(Debug, Clone)]
pub(crate) struct JoinedOn {
    /// Its name in the container.
    pub(crate) interface: String,
    /// The host's interface, and its index.
    pub(crate) upstream: String,
    pub(crate) index: u32,
}

/// What a dead proxy has left.
#[derive(Debug, Default)]
struct Dead {
    upstreams: Vec<JoinedOn>,
    status: Option<Value>,
    relays: Vec<Box<RawValue>>,
    sockets: Vec<OwnedFd>,
    count: Option<CountPayload>,
    counting: Vec<OwnedFd>,
}

impl StandIn {
    /// A stand-in for the proxy that this connection was with. It does not listen yet.
    ///
    /// # Errors
    /// `EMFILE`.
    pub(crate) fn of(stream: &HoldStream, upstreams: Vec<JoinedOn>) -> io::Result<StandInPlan> {
        let held = &stream.held;
        // A status that is no JSON object is none.
        let status = held.status.as_ref();
        let mut status: Option<Value> =
            status.and_then(|text| serde_json::from_str(text.get()).ok());
        if let Some(status) = &mut status {
            if let Some(held) = status.get_mut("held") {
                *held = false.into();
            }
            // Rounded up: the times of the status are rounded down, and none goes back.
            let passed = (monotonic_seconds() - held.status_time).max(0.0).ceil();
            add_time(status, passed as u64);
        }
        let sockets = held.relay_sockets.iter().map(OwnedFd::try_clone);
        let counting = held.counting.iter().map(OwnedFd::try_clone);
        Ok(StandInPlan(Dead {
            status,
            relays: held.relays.clone(),
            sockets: sockets.collect::<io::Result<_>>()?,
            count: held.count.clone(),
            counting: counting.collect::<io::Result<_>>()?,
            upstreams,
        }))
    }
}

/// A stand-in that does not listen yet.
#[derive(Debug)]
pub(crate) struct StandInPlan(Dead);

impl StandInPlan {
    /// Listens in this directory of a container, in place of the dead proxy.
    ///
    /// # Errors
    /// Those of bind(2).
    pub(crate) fn listen(self, dir: &Path) -> io::Result<StandIn> {
        let dir = open_directory(dir)?;
        let path = socket_path(&dir);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let stand_in = StandIn { listener: UnixListener::bind(path)?, dead: Arc::new(self.0) };
        let (listener, dead) = (stand_in.listener.try_clone()?, Arc::clone(&stand_in.dead));
        thread::Builder::new().spawn(move || {
            // `Drop` ends the wait.
            while let Ok((client, _)) = listener.accept() {
                let dead = Arc::clone(&dead);
                // A client that is not served asks in vain, as at a dead proxy.
                let _ = thread::Builder::new().spawn(move || dead.serve(client));
            }
        })?;
        Ok(stand_in)
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        // If this fails, the thread waits for a client that never comes.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
    }
}

impl Dead {
    /// The last status. What was joined is joined no more where the upstream has gone since, and
    /// nothing arrives where it is down.
    fn status_now(&self, status: &Value) -> Value {
        let mut status = status.clone();
        let interfaces = status.get_mut("interfaces").and_then(Value::as_array_mut);
        for interface in interfaces.into_iter().flatten() {
            let is_own = |on: &&JoinedOn| interface["interface"] == on.interface.as_str();
            let Some(problem) = self.upstreams.iter().find(is_own).and_then(problem_of) else {
                continue;
            };
            let reason = problem.to_string();
            let groups = interface.get_mut("groups").and_then(Value::as_array_mut);
            for group in groups.into_iter().flatten().filter(|group| group["status"] == "joined") {
                group["status"] = "failed".into();
                group["reason"] = reason.as_str().into();
            }
        }
        status
    }

    fn serve(&self, client: UnixStream) {
        let answer = || -> io::Result<()> {
            client.set_read_timeout(Some(REQUEST_TIMEOUT))?;
            client.set_write_timeout(Some(REQUEST_TIMEOUT))?;
            let mut line = Vec::new();
            BufReader::new(&client).take(MAX_LINE as u64).read_until(b'\n', &mut line)?;
            let Received::Request(request, Format::Json) = parse_request(&line) else {
                return Ok(());
            };
            let none: &[BorrowedFd<'_>] = &[];
            let sockets: Vec<_> = self.sockets.iter().map(AsFd::as_fd).collect();
            let counting: Vec<_> = self.counting.iter().map(AsFd::as_fd).collect();
            let (bytes, descriptors) = match (request, &self.status) {
                (ControlRequest::Status, Some(status)) => {
                    let status = self.status_now(status);
                    let answer = serde_json::json!({ "version": 1, "status": status });
                    (format!("{answer}\n").into_bytes(), none)
                }
                (ControlRequest::Handover, _) => {
                    let relays = self.relays.clone();
                    (handover_answer(relays, sockets.len(), Format::Json), &sockets[..])
                }
                (ControlRequest::Count, _) => {
                    let count = self.count.clone().filter(|c| c.descriptors == counting.len());
                    let descriptors = if count.is_some() { &counting[..] } else { none };
                    (count_answer(&count.unwrap_or_default()), descriptors)
                }
                _ => (error_answer(ErrorCode::UnknownRequest, "the proxy has ended"), none),
            };
            let sent = send_with_fds(&client, &bytes, descriptors)?;
            (&client).write_all(&bytes[sent..])
        };
        // A client that has gone needs no answer.
        let _ = answer();
    }
}

/// What is wrong with an upstream of the caller's namespace now.
fn problem_of(on: &JoinedOn) -> Option<Notice> {
    const UP: u32 = (libc::IFF_UP | libc::IFF_RUNNING).cast_unsigned();
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).ok()?;
    let upstream = on.upstream.clone();
    let Ok(name) = ifreq::name(&socket, on.index) else {
        return Some(Notice::UpstreamGone { upstream });
    };
    let flags = ifreq::flags(&socket, &name).ok()?;
    (flags & UP != UP).then_some(Notice::UpstreamDown { upstream })
}

/// Seconds of a clock that all processes of the host share, and that nobody sets.
fn monotonic_seconds() -> f64 {
    // The clock cannot fail (clock_gettime(2)).
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0.0, |time| time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9)
}

/// Adds the seconds that have passed since a status to the times in it: a proxy that has nothing to
/// do sends none.
fn add_time(status: &mut Value, seconds: u64) {
    let add = |value: Option<&mut Value>| {
        if let Some(value) = value
            && let Some(before) = value.as_u64()
        {
            *value = before.saturating_add(seconds).into();
        }
    };
    let interfaces = status.get_mut("interfaces").and_then(Value::as_array_mut);
    for interface in interfaces.into_iter().flatten() {
        for querier in ["/querier", "/rival", "/mld/querier", "/mld/rival"] {
            add(interface.pointer_mut(&format!("{querier}/last_query_s")));
        }
        add(interface.get_mut("listening_s"));
        for (list, times) in
            [("groups", ["age_s"].as_slice()), ("streams", &["silent_s", "left_s"])]
        {
            for entry in interface.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten()
            {
                times.iter().for_each(|time| add(entry.get_mut(time)));
            }
        }
    }
}

fn open_directory(dir: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(dir)
}

/// By way of a descriptor: a socket's path has 107 bytes at most (unix(7)).
fn socket_path(dir: &File) -> PathBuf {
    format!("/proc/self/fd/{}/control.sock", dir.as_raw_fd()).into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_times_of_a_status_go_on() {
        let status = |query: u64, age: u64| {
            json!({"pid": 7, "interfaces": [
                {
                    "querier": {"version": 2, "last_query_s": query}, "listening_s": age,
                    "mld": {"querier": {"last_query_s": query}, "rival": {"last_query_s": query}},
                    "groups": [{"age_s": age}],
                    "streams": [{"silent_s": query}, {"silent_s": query, "left_s": age}],
                },
                {"groups": [], "mld": {}},
            ]})
        };
        let mut known = status(3, 40);
        add_time(&mut known, 120);
        assert_eq!(known, status(123, 160));
    }

    #[test]
    fn what_a_dead_proxy_had_joined_on_an_interface_that_has_gone_is_joined_no_more() {
        let groups = json!([{"status": "joined"}, {"status": "denied", "reason": "deny=ff0e::1"}]);
        let status = json!({"interfaces": [
            {"interface": "mc0", "groups": groups}, {"interface": "mc1", "groups": groups},
        ]});
        let on = |interface: &str, index| JoinedOn {
            interface: interface.into(),
            upstream: "eth1".into(),
            index,
        };
        // lo, which is down at first.
        let namespace = crate::net::netns::NetNs::create().unwrap();
        let ip = |words: &str| {
            let mut command = std::process::Command::new("ip");
            command.args(words.split(' '));
            assert!(namespace.run(|| command.status()).unwrap().unwrap().success(), "{words}");
        };
        let dead =
            Dead { upstreams: vec![on("mc0", 0x7fff_fff0), on("mc1", 1)], ..Dead::default() };
        let reasons = || {
            let shown = namespace.run(|| dead.status_now(&status)).unwrap();
            [0, 1].map(|at| {
                let groups = &shown["interfaces"][at]["groups"];
                assert_eq!(groups[1]["reason"], "deny=ff0e::1");
                (groups[0]["status"] == "joined", groups[0]["reason"].clone())
            })
        };
        let [gone, down] = reasons();
        assert!(!gone.0 && gone.1.as_str().unwrap().starts_with("eth1 is gone"), "{gone:?}");
        assert!(!down.0 && down.1.as_str().unwrap().starts_with("eth1 is down"), "{down:?}");
        ip("link set lo up");
        let [gone, up] = reasons();
        assert_eq!((gone.0, up), (false, (true, Value::Null)));
    }

    #[test]
    fn what_a_keeper_from_before_the_time_of_a_status_has_left_is_known() {
        let restored = |text: &[u8]| HoldStream::restored(Vec::new(), text).unwrap().held;
        let held = restored(br#"[[{"groups":[]}],{"pid":7}]"#);
        assert_eq!((held.relays.len(), held.status.unwrap().get()), (1, r#"{"pid":7}"#));
        let held = restored(br#"[[],{"pid":7},5]"#);
        assert_eq!((held.status.unwrap().get(), held.status_time), (r#"{"pid":7}"#, 5.0));
        let text = br#"[[],{"pid":7},5.25,{"descriptors":3,"layout":1,"links":["mc0"]}]"#;
        let held = restored(text);
        let count = CountPayload { descriptors: 3, layout: 1, links: vec!["mc0".into()] };
        assert_eq!((held.status_time, held.count), (5.25, Some(count)));
        assert!(restored(br#"[[],{"pi"#).status.is_none());
    }
}
