//! The server, and clients that mean no good.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};

use crate::lab::{Lab, PATIENCE, alive, kill, output, run, wait_until};
use crate::metrics::{Exporter, read, value};

/// A connection to a server on the container host.
pub(super) fn connect(lab: &Lab, port: u16) -> TcpStream {
    let connect = || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("it listens");
    let stream = lab.run_in("host", connect);
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("timeout");
    stream
}

/// Everything that comes until the server closes; a reset counts as that.
fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    if let Err(error) = stream.read_to_end(&mut bytes) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "the server closes");
    }
    String::from_utf8(bytes).expect("text")
}

/// The head and the body of the answer to a request.
pub(super) fn ask(lab: &Lab, port: u16, request: &str) -> (String, String) {
    let mut stream = connect(lab, port);
    stream.write_all(request.as_bytes()).expect("sent");
    let text = rest(&mut stream);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text:?}"));
    (head.to_ascii_lowercase(), body.to_owned())
}

fn get(lab: &Lab, port: u16, path: &str) -> (String, String) {
    ask(lab, port, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
}

#[test]
fn metrics_are_at_their_path_and_nothing_else_is_there() {
    let lab = Lab::new(3);
    let container = lab.start("c", "10.99.0.11");
    let mut exporter = Exporter::start(&lab);
    let port = exporter.port;
    let (head, body) = get(&lab, port, "/metrics");
    assert!(head.starts_with("http/1.1 200 ok\r\n"), "{head}");
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert_eq!(value(&read(&lab, &body), &container, "mcrun_proxy_up"), 1.0);
    let (head, query) = get(&lab, port, "/metrics?x=1");
    assert!(head.starts_with("http/1.1 200 ") && query.contains("mcrun_containers 1"), "{head}");
    let (head, body) = get(&lab, port, "/");
    assert!(
        head.starts_with("http/1.1 200 ") && body.contains("href=\"/metrics\""),
        "{head}{body}"
    );
    let (head, body) = get(&lab, port, "/metrics/../etc/passwd");
    assert!(head.starts_with("http/1.1 404 "), "{head}");
    assert_eq!(body, "the metrics are at /metrics\n");
    let (head, body) = ask(&lab, port, "HEAD /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(head.starts_with("http/1.1 200 ") && body.is_empty(), "{head}{body}");
    for request in [
        "POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        "DELETE / HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let (head, _) = ask(&lab, port, request);
        assert!(head.starts_with("http/1.1 405 "), "{head}");
        assert!(head.contains("allow: get, head"), "{head}");
    }
    // What is told is of the moment.
    let proxy = lab.proxy_pid(&container);
    kill(proxy);
    wait_until("the proxy is dead", PATIENCE, || (!alive(proxy)).then_some(()));
    let (_, body) = get(&lab, port, "/metrics");
    assert_eq!(value(&read(&lab, &body), &container, "mcrun_proxy_up"), 0.0);
    exporter.process.signal(libc::SIGTERM);
    assert!(exporter.process.wait(PATIENCE).success());
}

#[test]
fn an_address_that_is_taken_or_is_none_is_named() {
    let lab = Lab::new(3);
    let exporter = Exporter::start(&lab);
    let said = |address: &str| {
        let done = output(&mut lab.mcrun(["metrics", "--listen", address]));
        (done.status.code(), String::from_utf8(done.stderr).expect("text"))
    };
    let (status, text) = said(&exporter.port.to_string());
    let address = format!("127.0.0.1:{}", exporter.port);
    assert_eq!(status, Some(125));
    let expected =
        format!("mcrun: cannot listen on {address}: Address already in use (os error 98)\n");
    assert_eq!(text, expected);
    let (status, text) = said("localhost:9469");
    assert_eq!((status, text.lines().count()), (Some(2), 1));
    assert!(text.contains("write PORT, ADDRESS:PORT or [IPv6]:PORT"), "{text}");
}

#[test]
fn requests_without_end_are_refused() {
    let lab = Lab::new(3);
    let exporter = Exporter::start(&lab);
    let huge = format!("GET /metrics HTTP/1.1\r\nHost: a\r\nX: {}\r\n", "x".repeat(64 << 10));
    let many: String = (0..1000).map(|n| format!("X-{n}: x\r\n")).collect();
    let many = format!("GET /metrics HTTP/1.1\r\nHost: a\r\n{many}\r\n");
    let path = format!("GET /{} HTTP/1.1\r\n", "x".repeat(64 << 10));
    for request in [huge, many, path, "\u{0}\u{1}nonsense\r\n\r\n".into()] {
        let mut stream = connect(&lab, exporter.port);
        // The server may close before all is sent.
        let _ = stream.write_all(request.as_bytes());
        let answer = rest(&mut stream);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
        assert!(!answer.contains("mcrun_"), "{answer}");
    }
    let (head, _) = get(&lab, exporter.port, "/metrics");
    assert!(head.starts_with("http/1.1 200 "), "{head}");
}

/// Clients that send nothing, or a request that never ends, neither stay nor keep others away, nor
/// keep the server from its end.
#[test]
fn clients_that_wait_keep_nobody_away() {
    let lab = Lab::new(3);
    let mut exporter = Exporter::start(&lab);
    let mut idle: Vec<_> = (0..200).map(|_| connect(&lab, exporter.port)).collect();
    for (n, stream) in idle.iter_mut().enumerate() {
        if n % 2 == 0 {
            let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: ");
        }
    }
    let (head, _) = get(&lab, exporter.port, "/metrics");
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    let descriptors = || {
        let directory = format!("/proc/{}/fd", exporter.process.pid());
        std::fs::read_dir(directory).expect("it runs").count()
    };
    assert!(descriptors() < 64, "{}", descriptors());
    // The last ones still have their place, and lose it when the time for a request is over.
    let answer = rest(idle.last_mut().expect("a connection"));
    assert!(!answer.contains("mcrun_"), "{answer}");

    let _idle = connect(&lab, exporter.port);
    exporter.process.signal(libc::SIGINT);
    assert!(exporter.process.wait(PATIENCE).success());
}

/// While a proxy hangs, a scrape waits for it. Those that come meanwhile do not ask it again each, and a
/// proxy whose queue of questions is full is not waited for.
#[test]
fn scrapes_are_answered_while_a_proxy_hangs() {
    let lab = Lab::new(3);
    let exporter = Exporter::start(&lab);
    let short_queue = "echo 1 >/proc/sys/net/core/somaxconn";
    run(lab.enter("host", "sh").args(["-c", short_queue]));
    let container = lab.start("c", "10.99.0.11");
    let proxy = lab.proxy_pid(&container);
    // SAFETY: a system call.
    unsafe { libc::kill(proxy, libc::SIGSTOP) };
    for _ in 0..4 {
        let streams: Vec<_> = (0..10)
            .map(|_| {
                let mut stream = connect(&lab, exporter.port);
                stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
                stream
            })
            .collect();
        for mut stream in streams {
            let text = rest(&mut stream);
            let (head, body) = text.split_once("\r\n\r\n").expect("an answer");
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
            assert_eq!(value(&read(&lab, body), &container, "mcrun_proxy_up"), 0.0);
        }
    }
    // SAFETY: a system call.
    unsafe { libc::kill(proxy, libc::SIGCONT) };
    wait_until("the proxy answers again", PATIENCE, || {
        let (_, body) = get(&lab, exporter.port, "/metrics");
        (value(&read(&lab, &body), &container, "mcrun_proxy_up") == 1.0).then_some(())
    });
}
