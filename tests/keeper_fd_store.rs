//! A service manager holds what the keeper holds. systemd is played by a small stand-in for its
//! notify socket, which stores descriptors by name and passes them to the next keeper.

use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use crate::lab::{
    Background, Container, Lab, PATIENCE, alive, assert_whole_while, kill, wait_until,
};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 8, 1, 1);
const PORT: u16 = 6000;
/// Most descriptors of one message (SCM_MAX_FD).
const MAX_FDS: usize = 253;
/// Where the descriptors are put between fork and exec, out of the way of their places.
const ASIDE: RawFd = 500;

type Descriptors = Arc<Mutex<BTreeMap<String, Vec<OwnedFd>>>>;

/// The notify socket of a service manager.
struct Manager {
    path: PathBuf,
    stored: Descriptors,
}

impl Manager {
    fn start(lab: &Lab) -> Manager {
        let path = lab.directory().join("notify");
        let socket = UnixDatagram::bind(&path).expect("the notify socket");
        let stored = Descriptors::default();
        let shared = Arc::clone(&stored);
        // It ends with the socket's last message, or with the test program.
        std::thread::spawn(move || while receive(&socket, &shared) {});
        Manager { path, stored }
    }

    /// A keeper that gets what is stored, as after a restart by systemd.
    fn keeper(&self, lab: &Lab) -> Background {
        let (mut names, mut numbers) = (Vec::new(), Vec::new());
        for (name, descriptors) in self.stored.lock().expect("the store").iter() {
            for descriptor in descriptors {
                names.push(name.clone());
                numbers.push(descriptor.as_raw_fd());
            }
        }
        let keep = lab.mcrun(["keep", "--watchdog", "300ms", "--stable-after", "50ms"]);
        let mut command = Command::new("sh");
        command.args(["-c", "LISTEN_PID=$$ exec \"$@\"", "sh"]);
        command.arg(keep.get_program()).args(keep.get_args());
        command.envs(keep.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.env("NOTIFY_SOCKET", &self.path);
        command.env("LISTEN_FDS", numbers.len().to_string());
        command.env("LISTEN_FDNAMES", names.join(":"));
        let pass = move || {
            let check = |number: RawFd| match number {
                -1 => Err(std::io::Error::last_os_error()),
                _ => Ok(number),
            };
            let mut aside = [0; MAX_FDS];
            for (place, number) in aside.iter_mut().zip(&numbers) {
                // SAFETY: a system call.
                *place = check(unsafe { libc::fcntl(*number, libc::F_DUPFD, ASIDE) })?;
            }
            for (to, from) in (3..).zip(&aside[..numbers.len()]) {
                // SAFETY: a system call; what was there is of the child, which is about to exec.
                check(unsafe { libc::dup2(*from, to) })?;
                // SAFETY: as above.
                check(unsafe { libc::close(*from) })?;
            }
            Ok(())
        };
        // SAFETY: `pass` makes system calls only.
        unsafe { command.pre_exec(pass) };
        Background::start(&mut command)
    }

    /// Names with their numbers of descriptors.
    fn names(&self) -> BTreeMap<String, usize> {
        let stored = self.stored.lock().expect("the store");
        stored.iter().map(|(name, descriptors)| (name.clone(), descriptors.len())).collect()
    }

    /// Waits until what is stored is of this proxy, and complete.
    fn wait_for(&self, container: &Container, proxy: i32) {
        wait_until(&format!("{proxy} is stored: {:?}", self.names()), PATIENCE, || {
            let names = self.names();
            let is_there = |kind: &str| {
                names.keys().any(|name| {
                    name.starts_with(&format!("{kind}.{proxy}.")) && name.ends_with(&container.id)
                })
            };
            let kinds = ["rules", "join", "count", "status"];
            let is_complete = kinds.iter().all(|kind| is_there(kind));
            (is_complete && names.len() == kinds.len()).then_some(())
        });
    }
}

/// Receives one message of a keeper.
fn receive(socket: &UnixDatagram, stored: &Descriptors) -> bool {
    let mut buffer = [0; 4096];
    let mut space = nix::cmsg_space!([RawFd; MAX_FDS]);
    let mut bytes = [IoSliceMut::new(&mut buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let Ok(message) = recvmsg::<()>(socket.as_raw_fd(), &mut bytes, Some(&mut space), flags) else {
        return false;
    };
    let mut descriptors = Vec::new();
    for part in message.cmsgs().expect("whole") {
        if let ControlMessageOwned::ScmRights(numbers) = part {
            // SAFETY: the kernel has just made them for this process.
            descriptors.extend(numbers.into_iter().map(|n| unsafe { OwnedFd::from_raw_fd(n) }));
        }
    }
    let length = message.bytes;
    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
    let name = text.lines().find_map(|line| line.strip_prefix("FDNAME="));
    let mut stored = stored.lock().expect("the store");
    match name {
        Some(name) if text.starts_with("FDSTORE=1\n") => {
            assert!(name.len() <= 255 && !name.contains(':'), "{name}");
            stored.entry(name.to_owned()).or_default().extend(descriptors);
        }
        Some(name) if text.starts_with("FDSTOREREMOVE=1\n") => {
            stored.remove(name);
        }
        _ => assert!(text.starts_with("READY=1") || text.starts_with("WATCHDOG=1"), "{text}"),
    }
    true
}

#[test]
fn a_keeper_and_a_proxy_that_are_killed_at_once_cost_nothing() {
    for version in [2, 3] {
        let lab = Lab::new(version);
        let manager = Manager::start(&lab);
        let mut keeper = manager.keeper(&lab);
        let container = lab.start("c", "10.99.0.11");
        let socket = container.socket_on("mc0", PORT);
        socket.join(GROUP);
        lab.wait_joined(&container, GROUP);
        lab.wait_forwarded(GROUP);
        let mut proxy = lab.wait_held(&container);
        manager.wait_for(&container, proxy);
        let age = |lab: &Lab| lab.groups(&container)[0]["age_s"].as_u64();
        wait_until("the group is old", PATIENCE, || (age(&lab) >= Some(2)).then_some(()));
        // So that the keeper has heard of it too.
        std::thread::sleep(Duration::from_millis(700));
        let capture = lab.capture();
        assert_whole_while(
            &lab,
            &[&socket],
            (GROUP, PORT),
            |_| {},
            || {
                for _ in 0..3 {
                    keeper.signal(libc::SIGKILL);
                    kill(proxy);
                    keeper.wait(PATIENCE);
                    wait_until("the proxy is dead", PATIENCE, || (!alive(proxy)).then_some(()));
                    keeper = manager.keeper(&lab);
                    let before = proxy;
                    // The record may still name the one before when its successor answers already.
                    proxy = wait_until("it has a successor", PATIENCE, || {
                        Some(lab.wait_held(&container)).filter(|proxy| *proxy != before)
                    });
                    manager.wait_for(&container, proxy);
                }
                lab.wait_joined(&container, GROUP);
                assert!(age(&lab) >= Some(2), "{:?}", age(&lab));
            },
        );
        lab.assert_nothing_was_left(&capture.finish());
        // Nothing outlives the container.
        drop(socket);
        lab.delete(&container);
        wait_until("nothing is stored", PATIENCE, || manager.names().is_empty().then_some(()));
        keeper.signal(libc::SIGTERM);
        keeper.wait(PATIENCE);
        lab.assert_clean(PATIENCE);
    }
}

#[test]
fn what_is_stored_of_a_container_that_has_ended_is_let_go() {
    let lab = Lab::new(3);
    let manager = Manager::start(&lab);
    let mut keeper = manager.keeper(&lab);
    let container = lab.start("c", "10.99.0.11");
    let socket = container.socket_on("mc0", PORT);
    socket.join(GROUP);
    lab.wait_joined(&container, GROUP);
    manager.wait_for(&container, lab.wait_held(&container));
    keeper.signal(libc::SIGKILL);
    keeper.wait(PATIENCE);
    drop(socket);
    lab.delete(&container);
    assert_eq!(manager.names().len(), 4);
    let _keeper = manager.keeper(&lab);
    wait_until("nothing is stored", PATIENCE, || manager.names().is_empty().then_some(()));
    wait_until("the host leaves", PATIENCE, || (!lab.host_joins().contains(&GROUP)).then_some(()));
}
