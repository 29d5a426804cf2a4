//! Deleting a link without waiting for the kernel to forget it.
//!
//! A link is off its parent and out of its namespace in a fraction of a millisecond. The request is
//! answered some ten or twenty later: when all processors have seen that (`netdev_run_todo` in
//! net/core/dev.c). Nobody but the one who asks waits for this, so a process of its own asks, and
//! the kernel's notification, which comes between the two (`unregister_netdevice_many_notify`),
//! tells when the link has gone.

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
/// How long the other process may take before the request is made here again.
const PATIENCE: Duration = Duration::from_secs(2);

/// Deletes a link. When this returns nothing goes in or out there any more, its addresses are free,
/// and so is its place on the parent.
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
    // Gone meanwhile, or to be waited for.
    container.request(delete_link(index), 0)
}

/// `None` where it cannot be told what has become of the link.
fn delete_aside(container: &mut RouteSocket, index: u32) -> Option<Result<(), NetlinkError>> {
    let (bytes, sequence) = container.acknowledged(delete_link(index));
    // SAFETY: the child calls `send_and_exit` and nothing else.
    match unsafe { libc::fork() } {
        0 => send_and_exit(container.as_fd().as_raw_fd(), &bytes),
        // The child ends soon after this process, and is then init's.
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

/// Makes the request, in a process that was forked and may hold nothing of its parent's: not the
/// pipes that a runtime reads to their end, not the directory's lock.
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
