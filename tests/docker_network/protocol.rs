//! The driver's socket, and who speaks to it that is no docker.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;

use crate::lab::{DockerDriver, Lab, PATIENCE, output};

/// Status and body of the answer to what is sent.
fn ask(socket: &Path, request: &[u8]) -> (String, String) {
    let mut stream = UnixStream::connect(socket).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    // A server that refuses the beginning does not read the rest.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8(answer).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).unwrap_or_default();
    (status.to_owned(), body.to_owned())
}

/// The same to a method.
pub fn post(socket: &Path, method: &str, body: &str) -> (String, String) {
    let length = body.len();
    let head = format!("POST /{method} HTTP/1.1\r\nHost: p\r\nContent-Length: {length}\r\n\r\n");
    ask(socket, (head + body).as_bytes())
}

#[test]
fn requests_that_are_none_harm_nobody() {
    let lab = Lab::new(3);
    let driver = DockerDriver::start(&lab);
    let socket = driver.socket();
    let (status, body) = post(socket, "Plugin.Activate", "");
    assert_eq!((status.as_str(), body.as_str()), ("200", "{\"Implements\":[\"NetworkDriver\"]}"));
    assert_eq!(ask(socket, b"GET /Plugin.Activate HTTP/1.1\r\nHost: p\r\n\r\n").0, "405");
    assert_eq!(post(socket, "NetworkDriver.Rule", "{}").0, "404");
    for body in ["", "[]", "{", "{\"NetworkID\":1}", "{\"NetworkID\":\"../../x\"}"] {
        let (status, answer) = post(socket, "NetworkDriver.DeleteNetwork", body);
        assert_eq!(status, "400", "{body}: {answer}");
        assert!(answer.starts_with("{\"Err\":\"DeleteNetwork: "), "{answer}");
    }
    let long = format!("{{\"NetworkID\":\"{}\"}}", "a".repeat(300 << 10));
    assert_eq!(post(socket, "NetworkDriver.DeleteNetwork", &long).0, "400");
    assert_eq!(ask(socket, &[0xff; 40 << 10]).0, "400");
    // What is not known has left and is deleted already.
    let unknown = "{\"NetworkID\":\"a\",\"EndpointID\":\"b\",\"SandboxKey\":\"/nonexistent\"}";
    for method in ["Leave", "DeleteEndpoint", "DeleteNetwork", "RevokeExternalConnectivity"] {
        let answer = post(socket, &format!("NetworkDriver.{method}"), unknown);
        assert_eq!(answer, ("200".into(), "{}".into()), "{method}");
    }
    for method in ["Join", "CreateEndpoint"] {
        let (status, answer) = post(socket, &format!("NetworkDriver.{method}"), unknown);
        assert!(answer.contains("mcrun does not know the network a"), "{status} {answer}");
    }
    // Clients that say nothing, and clients that go before they are answered.
    let idle: Vec<_> = (0..100).map(|_| UnixStream::connect(socket)).collect();
    let mut hasty = UnixStream::connect(socket).expect("it listens");
    let _ = hasty.write_all(b"POST /NetworkDriver.Join HTTP/1.1\r\nContent-Length: 9\r\n\r\n{");
    drop(hasty);
    assert_eq!(post(socket, "NetworkDriver.GetCapabilities", "").0, "200");
    drop(idle);
    let mut second = lab.mcrun(["serve", "docker", "--socket"]);
    let refused = output(second.arg(socket));
    let error = String::from_utf8_lossy(&refused.stderr);
    assert!(error.contains("another program listens there"), "{error}");
    assert_eq!(refused.status.code(), Some(125));
}

#[test]
fn a_socket_of_the_service_managers_is_served_and_stays() {
    let lab = Lab::new(3);
    let path = lab.directory().join("passed.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    let serve = lab.mcrun(["serve", "docker", "--socket", "/nonexistent/mcrun.sock"]);
    let mut command = Command::new("sh");
    let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\"";
    command.args(["-c", script, "sh"]).arg(serve.get_program()).args(serve.get_args());
    command.envs(serve.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let started = command.stdin(OwnedFd::from(listener.try_clone().expect("a copy"))).spawn();
    let mut driver = started.expect("it starts");
    assert_eq!(post(&path, "Plugin.Activate", "").0, "200");
    // SAFETY: plain system call; the child is not reaped, so the pid is its own.
    unsafe { libc::kill(driver.id().try_into().expect("a pid fits"), libc::SIGTERM) };
    assert!(driver.wait().expect("it ends").success());
    assert!(path.exists(), "the service manager listens on");
}
