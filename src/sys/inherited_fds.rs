//! Descriptors that a process got from its starter.

use std::os::fd::{AsRawFd, BorrowedFd};

/// The first descriptor behind stderr.
const FIRST: u32 = 3;

/// Closes every descriptor above stderr except those in `keep` (close_range(2), Linux 5.9; before
/// it nothing is closed). A detached process must not hold its starter's pipes and locks: a
/// container runtime waits until its pipes are closed.
///
/// Allocates nothing when `keep` is empty, and so may be called between fork(2) and exec(2).
///
/// # Safety
/// No value of this process that owns a descriptor above 2 and is not in `keep` is used or dropped
/// afterwards.
pub(crate) unsafe fn close_inherited(keep: &[BorrowedFd<'_>]) {
    let mut keep: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd().cast_unsigned()).collect();
    keep.sort_unstable();
    let mut first = FIRST;
    for fd in keep {
        if fd > first {
            close_range(first, fd - 1);
        }
        first = first.max(fd + 1);
    }
    close_range(first, u32::MAX);
}

fn close_range(first: u32, last: u32) {
    // SAFETY: takes numbers. Whether somebody uses the descriptors is the caller's to know.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
}
