//! From one version of mcrun to another while containers run: `mcrun reload` after the programs
//! were replaced lets a proxy of the installed version take over.
//!
//! The programs of the other version are those of the directory that `MCRUN_TEST_OLD_BINARIES`
//! names. `make test-upgrade` builds them from an earlier commit. `MCRUN_TEST_NEW_BINARIES` may
//! name other programs than the ones under test for the new version.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::lab::frames::{FrameSender, IPV4, Ipv4, Way, ethernet, mac, multicast_mac, udp};
use crate::lab::{
    Container, IgmpFrame, Lab, PATIENCE, Udp, assert_whole_while, install, run, wait_until,
};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 8, 1, 1);
const PORT: u16 = 6000;
const PROGRAMS: [&str; 4] = ["mcrun", "mcrun-hook", "mcrun-proxy", "mcrun-runtime"];

/// The directory of the other version's programs.
fn old_programs() -> PathBuf {
    let directory = std::env::var_os("MCRUN_TEST_OLD_BINARIES").expect(
        "MCRUN_TEST_OLD_BINARIES names the directory of an earlier version's programs (make \
         test-upgrade builds them)",
    );
    for program in PROGRAMS {
        let path = Path::new(&directory).join(program);
        assert!(path.is_file(), "MCRUN_TEST_OLD_BINARIES: {} is missing", path.display());
    }
    directory.into()
}

fn new_programs() -> PathBuf {
    if let Some(directory) = std::env::var_os("MCRUN_TEST_NEW_BINARIES") {
        return directory.into();
    }
    Path::new(env!("CARGO_BIN_EXE_mcrun")).parent().expect("a directory").to_owned()
}

/// Where the programs are installed in a lab.
fn installed(lab: &Lab) -> PathBuf {
    lab.directory().join("installed")
}

/// Replaces the installed programs, each file by another one, as install(1) does.
fn install_programs(lab: &Lab, from: &Path) {
    let to = installed(lab);
    fs::create_dir_all(&to).expect("directory");
    for program in PROGRAMS {
        let new = to.join("new");
        install(&from.join(program), &new);
        fs::rename(new, to.join(program)).expect("installed");
    }
    lab.use_programs(&to);
}

/// Whether a process runs the installed proxy.
fn runs_installed_proxy(lab: &Lab, pid: i32) -> bool {
    let file = |path: PathBuf| {
        let meta = fs::metadata(path).expect("a program file");
        (meta.dev(), meta.ino())
    };
    file(format!("/proc/{pid}/exe").into()) == file(lab.program("mcrun-proxy"))
}

/// A container that an earlier version has attached, and a socket in it that has joined.
fn attached_by_old(lab: &Lab, driver: &str) -> (Container, Udp) {
    install_programs(lab, &old_programs());
    let container = match driver {
        "relay" => {
            let container = lab.start_with("c", &["parent=lan0,driver=relay"], &[]);
            lab.plug(&container, 10);
            container
        }
        _ => lab.start("c", "10.99.0.11"),
    };
    let interface = if driver == "relay" { "eth0" } else { "mc0" };
    let socket = container.socket_on(interface, PORT);
    socket.join(GROUP);
    lab.wait_joined(&container, GROUP);
    lab.wait_forwarded(GROUP);
    (container, socket)
}

/// `mcrun reload` of the installed programs replaces the container's proxy by the installed one.
fn reload(lab: &Lab, container: &Container) {
    let before = lab.proxy_pid(container);
    assert!(!runs_installed_proxy(lab, before), "the proxy is of the other version");
    assert_eq!(run(&mut lab.mcrun(["reload"])).trim(), container.id);
    let after = lab.proxy_pid(container);
    assert!(after != before && runs_installed_proxy(lab, after), "{before} is {after} now");
    assert_eq!(run(&mut lab.mcrun(["reload"])), "", "the second reload has nothing to do");
}

fn assert_joined(lab: &Lab, container: &Container) {
    lab.wait_joined(container, GROUP);
    let groups = lab.groups(container);
    assert_eq!(groups.len(), 1, "{groups:?}");
    assert_eq!(groups[0]["group"], GROUP.to_string(), "{groups:?}");
    assert_eq!(groups[0]["status"], "joined", "{groups:?}");
}

/// Upgrade under a stream, and what the new version does with the container afterwards.
fn upgrade(igmp_version: u8, driver: &str) {
    let mut lab = Lab::new(igmp_version);
    if driver == "relay" {
        lab.add_bridge();
        lab.settle();
    }
    let capture = lab.capture();
    let (container, socket) = attached_by_old(&lab, driver);
    assert_whole_while(
        &lab,
        &[&socket],
        (GROUP, PORT),
        |_| {},
        || {
            install_programs(&lab, &new_programs());
            assert_joined(&lab, &container);
            reload(&lab, &container);
            assert_joined(&lab, &container);
        },
    );
    let igmp = capture.igmp();
    assert!(!igmp.iter().any(IgmpFrame::is_leave), "a leave is on the wire: {igmp:#?}");
    lab.assert_one_igmp_host(&igmp);
    drop(socket);
    lab.wait_left(&container, GROUP);
    capture.finish();
    lab.delete(&container);
    lab.assert_clean(PATIENCE);
}

#[test]
#[ignore = "needs the programs of an earlier version: make test-upgrade"]
fn macvlan_with_igmpv2() {
    upgrade(2, "macvlan");
}

#[test]
#[ignore = "needs the programs of an earlier version: make test-upgrade"]
fn macvlan_with_igmpv3() {
    upgrade(3, "macvlan");
}

#[test]
#[ignore = "needs the programs of an earlier version: make test-upgrade"]
fn relay_with_igmpv2() {
    upgrade(2, "relay");
}

#[test]
#[ignore = "needs the programs of an earlier version: make test-upgrade"]
fn relay_with_igmpv3() {
    upgrade(3, "relay");
}

/// A process of the container that sends IGMP and PIM by a packet socket: no IGMP leaves at any
/// moment, and no PIM from the upgrade on.
#[test]
#[ignore = "needs the programs of an earlier version: make test-upgrade"]
fn frames_are_limited_from_the_upgrade_on() {
    let lab = Lab::new(3);
    let capture = lab.capture_also("greater 1");
    let (container, _socket) = attached_by_old(&lab, "macvlan");
    let silent = lab.start_with("silent", &["parent=lan0,ip=10.99.0.12/24,igmp=off"], &[]);
    let own = |container: &Container| {
        mac(container.ip("link show mc0")[0]["address"].as_str().expect("a MAC address"))
    };
    let frame = |from, host, protocol, to, payload: &[u8]| {
        let from_address = Ipv4Addr::new(10, 99, 0, host);
        let packet = Ipv4 { protocol, from: from_address, to, options: &[], fragment: 0, payload };
        ethernet(multicast_mac(to), from, IPV4, &packet.bytes())
    };
    let senders = [(&container, 11), (&silent, 12)].map(|(container, host)| {
        let (from, routers) = (own(container), Ipv4Addr::new(224, 0, 0, 13));
        let leave = [0x17, 0, 0xf8, 0xf6, 239, 8, 1, 1];
        (
            FrameSender::open(&container.namespace(), "mc0"),
            frame(from, host, 2, Ipv4Addr::new(224, 0, 0, 2), &leave),
            frame(from, host, 103, routers, &[0x20, 0, 0xde, 0x94, 0, 1, 0, 2, 0, 105]),
            frame(from, host, 17, Ipv4Addr::new(239, 8, 2, 2), &udp(9, 9, b"marker")),
        )
    });
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (sender, leave, ..) = &senders[0];
        let rogue = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                sender.send(leave, Way::Ordinary);
            }
        });
        install_programs(&lab, &new_programs());
        reload(&lab, &container);
        stop.store(true, Ordering::Relaxed);
        rogue.join().expect("it has sent");
    });
    let count = |wanted: &Vec<u8>| capture.frames().iter().filter(|f| *f == wanted).count();
    for (sender, leave, hello, marker) in &senders {
        assert_eq!(count(hello), 0);
        sender.send(hello, Way::Ordinary);
        sender.send(marker, Way::Ordinary);
        wait_until("the marker is on the wire", PATIENCE, || (count(marker) == 1).then_some(()));
        assert_eq!((count(hello), count(leave)), (0, 0));
    }
    capture.finish();
}

/// Back to the earlier version. It shows the container and takes it over when its limits change;
/// that a proxy is of another version it may not notice.
#[test]
#[ignore = "needs the programs of an earlier version: make test-upgrade"]
fn downgrade() {
    let lab = Lab::new(3);
    let (container, socket) = attached_by_old(&lab, "macvlan");
    assert_whole_while(
        &lab,
        &[&socket],
        (GROUP, PORT),
        |_| {},
        || {
            install_programs(&lab, &new_programs());
            reload(&lab, &container);
            install_programs(&lab, &old_programs());
            assert!(lab.ps(&container).is_some(), "the earlier version reads the record");
            lab.configure("[groups]\nmax-groups = 7\n");
            let before = lab.proxy_pid(&container);
            assert_eq!(run(&mut lab.mcrun(["reload"])).trim(), container.id);
            let after = lab.proxy_pid(&container);
            assert!(after != before && runs_installed_proxy(&lab, after));
            assert_joined(&lab, &container);
        },
    );
    drop(socket);
    lab.delete(&container);
    lab.assert_clean(PATIENCE);
}
