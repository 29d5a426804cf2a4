//! Descriptors that tokio waits for.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers what becomes readable with the runtime. The type owns one descriptor, gives always the
/// same number of it, and closes it when it is dropped: all types of this crate do.
///
/// # Errors
/// Those of epoll_ctl(2).
pub(crate) fn readable_fd<T: AsFd + AsRawFd>(descriptor: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: the number stays valid while the runtime has it, since `AsyncFd` takes the descriptor
    // out of the runtime before it drops the value that closes it.
    let registered = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
    Ok(registered?)
}
