//! The process itself: its privileges, its memory, its control socket.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use mcrun::proxy::{ProxyState, ProxyTask, query_all};

use super::fake_container::{FakeContainer, GROUP, Proxy, wait_joined};
use crate::lab::{Lab, PATIENCE, alive, wait_until};

#[test]
fn the_proxy_has_no_privileges() {
    let lab = Lab::new(3);
    let container = FakeContainer::new(&lab, "c1", 11);
    let proxy = container.serve(&container.config());
    // It answers when it has loaded its program and given up the rest.
    proxy.status();
    let status = fs::read_to_string(format!("/proc/{}/status", proxy.pid())).expect("status");
    let field = |name: &str| {
        let line = status.lines().find(|l| l.starts_with(name)).unwrap_or_else(|| panic!("{name}"));
        line.split_whitespace().skip(1).collect::<Vec<_>>()
    };
    let owner = fs::metadata(container.directory()).expect("directory").uid().to_string();
    assert_eq!(field("Uid:"), [owner.as_str(); 4]);
    assert_eq!(field("Gid:"), [owner.as_str(); 4]);
    assert!((61184..=65519).contains(&owner.parse::<u32>().expect("a number")), "{owner}");
    assert_eq!(field("Groups:"), [""; 0]);
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(set), ["0000000000000000"], "{set}");
    }
    assert_eq!(field("NoNewPrivs:"), ["1"]);
    assert_eq!(field("Seccomp:"), ["2"]);
    assert_eq!(field("Threads:"), ["1"]);
    // It holds nothing of who started it: a socket of its own stands for standard input.
    let target = |fd: u8| fs::read_link(format!("/proc/{}/fd/{fd}", proxy.pid())).expect("fd");
    assert_eq!([target(1), target(2)], [PathBuf::from("/dev/null"), PathBuf::from("/dev/null")]);
    assert!(target(0).display().to_string().starts_with("socket:"), "{:?}", target(0));
}

#[test]
fn memory_is_small() {
    let lab = Lab::new(3);
    let container = FakeContainer::new(&lab, "c1", 11);
    let proxy = container.serve(&container.config());
    let _socket = container.join(GROUP);
    wait_joined(&lab, GROUP);
    let maps = fs::read_to_string(format!("/proc/{}/smaps", proxy.pid())).expect("smaps");
    let (mut is_programs, mut own, mut relocated) = (false, 0, 0);
    for line in maps.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match (words[0], words[1].parse::<u64>()) {
            ("Anonymous:", Ok(kib)) if is_programs => relocated += kib,
            ("Anonymous:", Ok(kib)) => own += kib,
            // A mapping begins with its addresses.
            _ if words[0].contains('-') => is_programs = line.ends_with("mcrun-proxy"),
            _ => {}
        }
    }
    println!("{own} KiB of its own, {relocated} KiB of the program changed by its loader");
    assert!(relocated > 0, "the program's mapping is known: {maps}");
    // What the loader changes of an unoptimized program says nothing of the one that is installed.
    assert!(own < 88, "{maps}");
}

#[test]
fn the_control_socket_is_patient_with_nobody() {
    let lab = Lab::new(3);
    let container = FakeContainer::new(&lab, "c1", 11);
    let proxy = container.serve(&container.config());
    let connect = || {
        let dir = fs::File::open(container.directory()).expect("directory");
        let path = format!("/proc/self/fd/{}/control.sock", dir.as_raw_fd());
        let stream = UnixStream::connect(path).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        stream
    };
    let ask = |request: &[u8]| {
        let mut stream = connect();
        stream.write_all(request).expect("request");
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    };
    assert!(ask(b"sta\xfftus\n").contains("unknown request"));
    assert_eq!(ask(&[b'x'; 1000]), "");
    // Clients that say nothing are in nobody's way for long, and are closed.
    let idle: Vec<_> = (0..20).map(|_| connect()).collect();
    wait_until("the proxy answers again", PATIENCE, || {
        query_all(&[&proxy.directory]).remove(0).ok()
    });
    for mut stream in idle {
        assert_eq!(stream.read(&mut [0; 8]).unwrap_or(0), 0);
    }
    assert!(alive(proxy.pid()));
}

/// What a proxy has open, by number.
fn open_files(proxy: &Proxy) -> Vec<(i32, String)> {
    let directory = fs::read_dir(format!("/proc/{}/fd", proxy.pid())).expect("it runs");
    let files = directory.flatten().filter_map(|file| {
        let number = file.file_name().to_str()?.parse().ok()?;
        Some((number, fs::read_link(file.path()).ok()?.display().to_string()))
    });
    files.collect()
}

#[test]
fn without_counting_nothing_of_it_is_open() {
    let lab = Lab::new(3);
    let container = FakeContainer::new(&lab, "c1", 11);
    let counts = |count: bool| {
        let proxy = container.start(&ProxyTask { count, ..container.config() }).expect("ready");
        let counts = proxy.status().counts.len();
        let files = open_files(&proxy);
        (counts, files.iter().filter(|(n, file)| *n >= 120 || file.contains("bpf")).count())
    };
    assert_eq!(counts(false), (0, 0));
    // The socket, the program and the table.
    assert_eq!(counts(true), (1, 3));
}

#[test]
fn a_kernel_without_bpf_counts_nothing_and_everything_else_works() {
    let lab = Lab::new(3);
    let container = FakeContainer::new(&lab, "c1", 11);
    // As far as the proxy can tell.
    let filter = seccompiler::SeccompFilter::new(
        [(libc::SYS_bpf, Vec::new())].into(),
        seccompiler::SeccompAction::Allow,
        seccompiler::SeccompAction::Errno(libc::EPERM as u32),
        std::env::consts::ARCH.try_into().expect("architecture"),
    );
    let proxy =
        container.start_filtered(&container.config(), filter.expect("rules")).expect("ready");
    container.up();
    let status = proxy.status();
    assert_eq!((status.state, &status.counts), (ProxyState::Running, &Vec::new()));
    let told: Vec<_> = status.notices.iter().filter(|n| n.code() == "not-counted").collect();
    assert_eq!(told.len(), 1, "{:?}", status.notices);
    assert!(told[0].to_string().contains("Operation not permitted"), "{}", told[0]);
    let _socket = container.join(GROUP);
    wait_joined(&lab, GROUP);
}
