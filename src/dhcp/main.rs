//! The start of the processes that hold a lease.

use std::fs::File;
use std::io;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use crate::dhcp::client::{Client, Identity};
use crate::dhcp::client_v6;
use crate::dhcp::holder::Holder;
use crate::dhcp::protocol::Protocol;
use crate::dhcp::speaker;
use crate::dhcp::speaker::Speaker;
use crate::dhcp::task::{LeaseTask, ProbedBy, REFUSED, STARTED};
use crate::net::netlink::RouteSocket;
use crate::net::netns::NetNs;
use crate::proxy::{EndWatch, confine_without_files};
use crate::state::{DhcpLease, DhcpLeaseFile, Lifetime, state_dir};
use crate::sys::inherited_fds::close_inherited;
use crate::sys::program;

/// Longest task in bytes.
const MAX_TASK: u64 = 64 << 10;
/// User and group of the speaker: nobody's.
const NOBODY: u32 = 65534;

/// Holds the lease of the task on the standard input.
pub fn main() -> program::Status {
    // A runtime waits until all copies of its pipes are closed.
    // SAFETY: this process has opened nothing yet.
    unsafe { close_inherited(&[]) };
    let own = |stream: BorrowedFd<'_>| stream.try_clone_to_owned().map(File::from);
    let (Ok(task), Ok(mut answer)) = (own(io::stdin().as_fd()), own(io::stdout().as_fd())) else {
        return program::FAILURE;
    };
    let started = start(task, &answer);
    let result = match started {
        Ok(Started::Holder(holder)) => {
            drop(answer);
            holder.run()
        }
        Ok(Started::Speaker(speaker)) => {
            drop(answer);
            speaker.run()
        }
        Err(error) => {
            // If nobody reads it, the exit status shows the failure.
            let _ = answer.write_all(format!("{REFUSED}{error}\n").as_bytes());
            Err(error)
        }
    };
    match result {
        Ok(()) => program::SUCCESS,
        Err(_) => program::FAILURE,
    }
}

/// What this process is.
enum Started {
    Holder(Box<Holder>),
    Speaker(Box<Speaker>),
}

fn start(input: File, answer: &File) -> io::Result<Started> {
    // It fails for the leader of a process group, which has left the session's foreground already.
    let _ = nix::unistd::setsid();
    std::env::set_current_dir("/")?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    drop(null);
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;

    let mut lines = BufReader::with_capacity(1024, input);
    let mut line = Vec::new();
    lines.by_ref().take(MAX_TASK).read_until(b'\n', &mut line)?;
    let task: LeaseTask = serde_json::from_slice(&line)?;
    let input = lines.into_inner();
    let container_end = EndWatch::open(&task.lifetime)?;
    let namespace = match &task.lifetime {
        Lifetime::Process(process) => NetNs::of_pid(process.pid)?,
        Lifetime::NamespacePath(path) => NetNs::open(path)?,
    };
    if namespace.id()? != task.netns {
        return Err(io::Error::other("the container has another network namespace now"));
    }
    let is_v6 = task.iaid.is_some();
    let packets = namespace.run(|| match is_v6 {
        true => speaker::open_socket_v6(task.index),
        false => speaker::open_socket(task.index),
    })??;
    let probes = match task.probed_by {
        Some(_) if is_v6 => Some(namespace.run(|| speaker::open_probe_socket_v6(task.index))??),
        Some(ProbedBy::Own) => Some(namespace.run(|| speaker::open_probe_socket(task.index))??),
        Some(ProbedBy::Parent(index)) => Some(speaker::open_probe_socket(index)?),
        None => None,
    };
    let route = RouteSocket::open_in(&namespace)?;
    drop(namespace);
    let file = DhcpLeaseFile::new(&state_dir(), &task.container, &task.interface);
    let held = file.read();
    let (own, speakers) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    if task.later {
        (&*answer).write_all(format!("{STARTED}\n").as_bytes())?;
    }
    // SAFETY: this process has one thread.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Child => {
            drop((own, route, container_end, input));
            let protocol = confined_client(task, held, probes.is_some())?;
            let holder = speakers;
            Ok(Started::Speaker(Box::new(Speaker { protocol, packets, probes, holder })))
        }
        nix::unistd::ForkResult::Parent { .. } => {
            drop((packets, probes, speakers));
            keep_one_capability()?;
            Ok(Started::Holder(Box::new(Holder {
                answer: (!task.later).then(|| answer.try_clone()).transpose()?,
                task,
                route,
                speaker: own,
                container_end,
                signals: SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)?,
                input: Some(input),
                file,
                held,
            })))
        }
    }
}

/// Gives up everything, and makes the client.
fn confined_client(task: LeaseTask, held: Option<DhcpLease>, probes: bool) -> io::Result<Protocol> {
    let mut seed = [0; 8];
    rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())?;
    confine_without_files(NOBODY)?;
    let (seed, now) = (u64::from_ne_bytes(seed), Instant::now());
    let previous = held.map(|lease| lease.address.addr());
    let LeaseTask { mac, identifier, host_name, .. } = task;
    Ok(match task.iaid {
        Some(iaid) => {
            let identity = client_v6::Identity { duid: identifier, iaid, host_name };
            let previous = previous.and_then(|address| match address {
                IpAddr::V6(address) => Some(address),
                IpAddr::V4(_) => None,
            });
            Protocol::v6(client_v6::Client::new(identity, previous, probes, seed, now), mac)
        }
        None => {
            let identity = Identity { mac, identifier, host_name };
            let previous = previous.and_then(|address| match address {
                IpAddr::V4(address) => Some(address),
                IpAddr::V6(_) => None,
            });
            Protocol::v4(Client::new(identity, previous, probes, seed, now), mac)
        }
    })
}

/// Gives up all capabilities except CAP_NET_ADMIN.
fn keep_one_capability() -> io::Result<()> {
    let kept = CapsHashSet::from([Capability::CAP_NET_ADMIN]);
    nix::unistd::setgroups(&[])?;
    caps::clear(None, CapSet::Ambient).map_err(io::Error::other)?;
    caps::clear(None, CapSet::Inheritable).map_err(io::Error::other)?;
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &kept).map_err(io::Error::other)?;
    }
    nix::sys::prctl::set_no_new_privs()?;
    Ok(nix::sys::prctl::set_dumpable(false)?)
}
