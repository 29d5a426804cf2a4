//! A kubelet's share of the CRI (k8s.io/cri-api, runtime/v1/api.proto), as far as a pod's life
//! needs it: gRPC with one call to a connection.

use std::io;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A client of a CRI socket.
pub struct Cri {
    socket: PathBuf,
}

/// What is asked of a pod.
#[derive(Debug, Clone, Default)]
pub struct Pod<'a> {
    pub name: &'a str,
    pub annotations: &'a [(&'a str, &'a str)],
    pub host_network: bool,
    /// The parent of its cgroups.
    pub cgroup: &'a str,
}

impl Cri {
    /// Nothing is sent yet.
    pub fn new(socket: &Path) -> Cri {
        Cri { socket: socket.to_owned() }
    }

    /// RunPodSandbox with the runtime handler `mcrun`; the id of the sandbox.
    pub fn run_pod(&self, pod: &Pod<'_>) -> io::Result<String> {
        self.run_pod_by("mcrun", pod)
    }

    /// RunPodSandbox with another runtime handler; none is the node's default.
    pub fn run_pod_by(&self, handler: &str, pod: &Pod<'_>) -> io::Result<String> {
        let request = Message::new().message(1, pod.config()).text(2, handler);
        self.call("RunPodSandbox", request)
    }

    /// CreateContainer and StartContainer of a container that sleeps; its id.
    pub fn start_container(&self, pod: &Pod<'_>, sandbox: &str, image: &str) -> io::Result<String> {
        let config = Message::new()
            .message(1, Message::new().text(1, "app"))
            .message(2, Message::new().text(1, image))
            .text(3, "sleep")
            .text(4, "1000")
            // containerd does not take it for absent.
            .message(15, Message::new().message(2, Message::new()));
        let request = Message::new().text(1, sandbox).message(2, config).message(3, pod.config());
        let id = self.call("CreateContainer", request)?;
        self.call("StartContainer", Message::new().text(1, &id))?;
        Ok(id)
    }

    /// StopPodSandbox and RemovePodSandbox.
    pub fn remove_pod(&self, sandbox: &str) -> io::Result<()> {
        self.call("StopPodSandbox", Message::new().text(1, sandbox))?;
        self.call("RemovePodSandbox", Message::new().text(1, sandbox))?;
        Ok(())
    }

    /// A call; the text in field 1 of the answer.
    fn call(&self, method: &str, request: Message) -> io::Result<String> {
        let answer =
            unary(&self.socket, &format!("/runtime.v1.RuntimeService/{method}"), &request.0)?;
        // The field's tag, and a length below 128, as ids have.
        match answer.as_slice() {
            [] => Ok(String::new()),
            [0x0a, length, text @ ..] if text.len() >= usize::from(*length) => {
                Ok(String::from_utf8_lossy(&text[..usize::from(*length)]).into_owned())
            }
            other => Err(io::Error::other(format!("{method}: an answer of {other:x?}"))),
        }
    }
}

impl Pod<'_> {
    fn config(&self) -> Message {
        let metadata = Message::new().text(1, self.name).text(2, self.name).text(3, "studio");
        let mut config = Message::new().message(1, metadata).text(2, self.name);
        for (key, value) in self.annotations {
            config = config.message(7, Message::new().text(1, key).text(2, value));
        }
        // Network, pid and ipc; 0 is a pod's own, 2 is the node's.
        let network = if self.host_network { 2 } else { 0 };
        let namespaces = Message::new().number(1, network);
        config.message(
            8,
            Message::new().text(1, self.cgroup).message(2, Message::new().message(1, namespaces)),
        )
    }
}

/// A protocol buffer (protobuf.dev, "Encoding").
#[derive(Debug, Default)]
struct Message(Vec<u8>);

impl Message {
    fn new() -> Message {
        Message::default()
    }

    fn bytes(mut self, field: u8, bytes: &[u8]) -> Message {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
        self
    }

    fn text(self, field: u8, text: &str) -> Message {
        self.bytes(field, text.as_bytes())
    }

    fn message(self, field: u8, message: Message) -> Message {
        self.bytes(field, &message.0)
    }

    fn number(mut self, field: u8, number: u64) -> Message {
        self.varint(u64::from(field) << 3);
        self.varint(number);
        self
    }

    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }
}

/// Frame types and flags of HTTP/2 (RFC 9113 §6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A unary gRPC call (grpc, PROTOCOL-HTTP2.md). What an error says is in compressed headers, which
/// this client does not read: the daemon's log has it.
fn unary(socket: &Path, path: &str, request: &[u8]) -> io::Result<Vec<u8>> {
    let mut connection = UnixStream::connect(socket)?;
    connection.set_read_timeout(Some(Duration::from_secs(60)))?;
    connection.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
    write_frame(&mut connection, SETTINGS, 0, 0, &[])?;
    write_frame(&mut connection, HEADERS, END_HEADERS, 1, &headers(path))?;
    // Not compressed, and its length.
    let mut message = vec![0];
    message.extend((request.len() as u32).to_be_bytes());
    message.extend(request);
    write_frame(&mut connection, DATA, END_STREAM, 1, &message)?;
    let mut answer = Vec::new();
    loop {
        let (kind, flags, payload) = read_frame(&mut connection)?;
        match kind {
            DATA => answer.extend(payload),
            SETTINGS | PING if flags & ACK == 0 => {
                let echo = if kind == PING { &payload[..] } else { &[] };
                write_frame(&mut connection, kind, ACK, 0, echo)?;
            }
            // Trailers; without a message before them they hold an error.
            HEADERS if flags & END_STREAM != 0 => break,
            RST_STREAM | GOAWAY => break,
            _ => {}
        }
    }
    match answer.get(5..) {
        Some(message) => Ok(message.to_vec()),
        None => Err(io::Error::other(format!("{path} failed"))),
    }
}

/// The request's headers, written out (RFC 7541 §6.2.2) except the ones that the static table has
/// whole.
fn headers(path: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86]; // :method POST, :scheme http
    let mut field = |name: &[u8], value: &str| {
        block.extend(name);
        block.push(value.len().try_into().expect("short"));
        block.extend(value.as_bytes());
    };
    field(&[0x04], path); // :path
    field(&[0x01], "localhost"); // :authority
    field(&[0x0f, 0x10], "application/grpc"); // content-type
    field(b"\x00\x02te", "trailers");
    block
}

fn write_frame(
    to: &mut impl Write,
    kind: u8,
    flags: u8,
    stream: u32,
    payload: &[u8],
) -> io::Result<()> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    to.write_all(&frame)
}

fn read_frame(from: &mut impl Read) -> io::Result<(u8, u8, Vec<u8>)> {
    let mut header = [0; 9];
    from.read_exact(&mut header)?;
    let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
    let mut payload = vec![0; length as usize];
    from.read_exact(&mut payload)?;
    Ok((header[3], header[4], payload))
}
