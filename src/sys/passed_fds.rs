//! Descriptors that a service manager passes to a program at its start
//! (sd_listen_fds_with_names(3)).

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// The first descriptor that a service manager passes (`SD_LISTEN_FDS_START`).
const FIRST: i32 = 3;

/// Takes the descriptors that were passed to this process, with their names. Call it once, at the start.
pub(crate) fn take() -> Vec<(String, OwnedFd)> {
    let variable = |name: &str| std::env::var(name).ok();
    let number = |name: &str| variable(name)?.parse::<i32>().ok();
    if number("LISTEN_PID") != Some(std::process::id().cast_signed()) {
        return Vec::new();
    }
    let count = number("LISTEN_FDS").unwrap_or(0);
    let names = variable("LISTEN_FDNAMES").unwrap_or_default();
    // A service manager that gives no names passes descriptors all the same.
    let names = names.split(':').chain(std::iter::repeat(""));
    let passed = (FIRST..FIRST.saturating_add(count)).zip(names);
    passed
        .filter_map(|(number, name)| {
            // SAFETY: the descriptor is only looked at; if it is closed, that is an error.
            let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
            fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).ok()?;
            // SAFETY: it is open, and the service manager has passed it to this process, where
            // nobody else knows of it.
            Some((name.to_owned(), unsafe { OwnedFd::from_raw_fd(number) }))
        })
        .collect()
}
