//! Deletes a link without waiting until the kernel has freed it.
//!
//! The kernel takes a link off its parent and out of its namespace in a fraction of a millisecond.
//! It acknowledges RTM_DELLINK 10 to 25 ms later, when no processor uses the link any more
//! (`netdev_run_todo` in net/core/dev.c). Only the requesting process waits for the
//! acknowledgement. So a forked process makes the request, and this process waits for the kernel's
//! notification of the deletion (`unregister_netdevice_many_notify`), which comes at once.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::{Duration, Instant};

use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::net::messages::delete_link;
use crate::net::netlink::{NetlinkError, RouteSocket, result};
use crate::sys::inherited_fds::close_inherited;

/// `RTNLGRP_LINK` of linux/rtnetlink.h.
const RTNLGRP_LINK: u32 = 1;
/// How long to wait for the notification before the request is made again in this process.
const PATIENCE: Duration = Duration::from_secs(2);

/// Deletes a link. When this returns, the link carries no packet any more, and its addresses and
/// its place on the parent are free.
///
/// # Errors
/// The kernel's, such as `ENODEV`.
pub(super) fn delete(container: &mut RouteSocket, index: u32) -> Result<(), NetlinkError> {
    if container.subscribe(RTNLGRP_LINK, true).is_ok() {
        let told = delete_aside(container, index);
        let _ = container.subscribe(RTNLGRP_LINK, false);
        if let Some(result) = told {
            return result;
        }
    }
    // The link has gone meanwhile, or the acknowledgement is waited for here.
    container.request(delete_link(index), 0)
}

/// `None` if it is unknown whether the link was deleted.
fn delete_aside(container: &mut RouteSocket, index: u32) -> Option<Result<(), NetlinkError>> {
    let (bytes, sequence) = container.acknowledged(delete_link(index));
    // SAFETY: the child calls `send_and_exit` and nothing else.
    match unsafe { libc::fork() } {
        0 => send_and_exit(container.as_fd().as_raw_fd(), &bytes),
        // The child ends soon after this process, and init reaps it.
        child if child > 0 => {}
        _ => return None,
    }
    let deadline = Instant::now() + PATIENCE;
    let mut told = None;
    while told.is_none() {
        let left = PollTimeout::try_from(deadline.saturating_duration_since(Instant::now()));
        let mut descriptors = [PollFd::new(container.as_fd(), PollFlags::POLLIN)];
        match poll(&mut descriptors, left.unwrap_or(PollTimeout::MAX)) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => continue,
            Err(_) => return None,
        }
        let received = container.receive(|message| {
            match message.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link))
                    if link.header.index == index
                        && link.header.interface_family == AddressFamily::Unspec =>
                {
                    told = Some(Ok(()));
                }
                NetlinkPayload::Error(error) if message.header.sequence_number == sequence => {
                    told.get_or_insert(result(&error));
                }
                _ => {}
            }
            Ok(())
        });
        // Notifications were lost, or one is not understood.
        received.ok()?;
    }
    told
}

/// Makes the request in a forked process. The process must hold no descriptor of its parent: a
/// runtime reads the parent's pipes to their end, and the lock of the directory would stay locked.
///
/// Only system calls: another thread of the parent may have held the allocator's lock.
fn send_and_exit(socket: RawFd, request: &[u8]) -> ! {
    // SAFETY: each takes numbers, or a buffer or string that outlives it. No descriptor that is
    // closed here is used again in this process, whose memory is its own.
    unsafe {
        libc::setsid();
        libc::chdir(c"/".as_ptr());
        libc::dup2(socket, 0);
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
        libc::dup2(null, 1);
        libc::dup2(null, 2);
        close_inherited(&[]);
        libc::send(0, request.as_ptr().cast(), request.len(), 0);
        libc::_exit(0)
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::link::facts::link;
    use crate::net::messages::{Macvlan, new_macvlan};
    use crate::net::netlink::{NLM_F_CREATE, NLM_F_EXCL};
    use crate::net::netns::NetNs;
    use crate::primitives::MacvlanMode;

    #[test]
    fn a_deleted_link_leaves_its_name_and_its_place_on_the_parent_at_once() {
        let (host_ns, container_ns) = (NetNs::create().unwrap(), NetNs::create().unwrap());
        let mut command = Command::new("ip");
        command.args(["link", "add", "lan", "type", "veth", "peer", "name", "port"]);
        assert!(host_ns.enter_on_exec(&mut command).unwrap().status().unwrap().success());
        let mut host = RouteSocket::open_in(&host_ns).unwrap();
        let mut container = RouteSocket::open_in(&container_ns).unwrap();
        let parent = link(&mut host, "lan").unwrap().unwrap().index;
        // The parent takes one of these and no other, and so does the name.
        let child = Macvlan {
            name: "mc0",
            parent,
            mode: MacvlanMode::Passthru,
            mac: None,
            mtu: None,
            bcqueuelen: 1000,
            bclim: -1,
        };
        for _ in 0..20 {
            let message = new_macvlan(&child, container_ns.as_fd());
            host.request(message, NLM_F_CREATE | NLM_F_EXCL).unwrap();
            let index = link(&mut container, "mc0").unwrap().unwrap().index;
            delete(&mut container, index).unwrap();
            assert_eq!(link(&mut container, "mc0").unwrap(), None);
            assert_eq!(delete(&mut container, index).unwrap_err().errno, libc::ENODEV);
        }
        assert!(link(&mut container, "lo").unwrap().is_some(), "the socket is in step");
    }
}
