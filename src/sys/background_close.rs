//! Descriptors that take long to close.
//!
//! The kernel closes a packet socket when no processor uses it any more, which takes some tens of
//! milliseconds (`packet_release` in net/packet/af_packet.c). A container's start does not wait for
//! that: a process that does nothing else has them last.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use nix::fcntl::OFlag;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::pipe2;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Processes that close, and that nobody has waited for yet.
static CLOSING: Mutex<Vec<OwnedFd>> = Mutex::new(Vec::new());

/// Closes descriptors. The caller does not wait until the kernel is done with them, nor for the process
/// that has them last: in a program that ends soon, that process is an orphan; in another one, it is
/// waited for when descriptors are closed the next time.
pub(crate) fn close_in_background(mut descriptors: Vec<OwnedFd>) {
    if descriptors.is_empty() {
        return;
    }
    let mut closing = CLOSING.lock().unwrap_or_else(PoisonError::into_inner);
    let flags = WaitPidFlag::WNOHANG | WaitPidFlag::WEXITED;
    // One that somebody else has waited for is no child any more.
    closing.retain(|process| {
        let state = waitid(Id::PIDFd(process.as_fd()), flags);
        state == Ok(nix::sys::wait::WaitStatus::StillAlive)
    });
    // Without a pipe or a process for it, the caller waits.
    let Ok((until, held)) = pipe2(OFlag::O_CLOEXEC) else { return };
    let awaited = until.as_raw_fd();
    descriptors.push(until);
    descriptors.sort_by_key(|descriptor| descriptor.as_raw_fd());
    // SAFETY: the child only makes system calls. It shares no memory with this process.
    unsafe {
        match libc::fork() {
            -1 => {}
            0 => {
                close_others(&descriptors);
                // The end of the pipe comes when the caller has closed its copies.
                libc::read(awaited, [0u8; 1].as_mut_ptr().cast(), 1);
                libc::_exit(0);
            }
            child => {
                let process = Pid::from_raw(child);
                closing.extend(process.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()));
                drop((descriptors, held));
            }
        }
    }
}

/// Closes all descriptors but these, which are sorted: a runtime waits until all copies of its pipes
/// are closed.
///
/// # Safety
/// Nobody uses the others any more.
unsafe fn close_others(kept: &[OwnedFd]) {
    let mut first = 0;
    let ends = kept.iter().map(|descriptor| descriptor.as_raw_fd().cast_unsigned());
    for end in ends.chain([u32::MAX]) {
        if first < end {
            // The last range ends with the highest number.
            let last = if end == u32::MAX { end } else { end - 1 };
            // SAFETY: the caller's word.
            unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
        first = end.saturating_add(1);
    }
}
