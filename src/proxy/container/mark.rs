//! The mark of what is put into a container.

use std::io;

/// A mark that nothing else uses and nobody guesses; the kernel's own reports carry their MTU.
///
/// # Errors
/// That of getrandom(2).
pub fn random_mark() -> io::Result<u32> {
    const MAX_MTU: u32 = 0xffff;
    loop {
        let mut bytes = [0u8; 4];
        // SAFETY: the buffer is ours and as long as we say.
        let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        if got != bytes.len() as isize {
            return Err(io::Error::last_os_error());
        }
        let mark = u32::from_ne_bytes(bytes);
        if mark > MAX_MTU {
            return Ok(mark);
        }
    }
}
