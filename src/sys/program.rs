//! The start of a program that each start of a container waits for, without the runtime of the
//! standard library.
//!
//! That runtime reads /proc/self/maps for the bounds of the stack, and makes a stack and handlers for
//! signals that tell of an overflow: 15 system calls. What else it does is here.

use std::ffi::CStr;

/// A C program's exit status.
pub type Status = libc::c_int;
/// Success.
pub const SUCCESS: Status = 0;
/// Failure.
pub const FAILURE: Status = 1;

const NULL: &CStr = c"/dev/null";

/// What a program does first. A standard stream that is missing becomes /dev/null, so that no file
/// gets its number and no message is written there. Who writes into a pipe that nobody reads gets an
/// error instead of SIGPIPE.
pub fn begin() {
    for stream in libc::STDIN_FILENO..=libc::STDERR_FILENO {
        // SAFETY: the call takes numbers.
        if unsafe { libc::fcntl(stream, libc::F_GETFD) } == -1 {
            // The lowest free number is this one. SAFETY: the path ends with a zero.
            unsafe { libc::open(NULL.as_ptr(), libc::O_RDWR) };
        }
    }
    // SAFETY: nobody else has installed a handler yet.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}
