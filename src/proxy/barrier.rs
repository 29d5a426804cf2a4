//! Waiting for system calls of others that are half done.
//!
//! The kernel tells of a source-specific join (`ip_mc_source` in net/ipv4/igmp.c) when the group is
//! there and its source is not yet: at that moment it looks like a join from any source. The whole
//! call holds the RTNL lock, so that whoever has held it afterwards finds the call done.

use std::io;
use std::os::fd::AsRawFd;

use socket2::{Domain, Socket, Type};

/// The request that an unprivileged process may make, and for which the kernel takes the RTNL lock
/// before it looks at anything (`dev_ethtool` in net/ethtool/ioctl.c): is there a link?
const ETHTOOL_GLINK: u32 = 0x0a;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// A socket to ask with.
pub(crate) struct Barrier(Socket);

impl Barrier {
    /// Opens one in the caller's namespace; the lock is one for all.
    ///
    /// # Errors
    /// That of socket(2).
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Barrier(Socket::new(Domain::IPV4, Type::DGRAM, None)?))
    }

    /// Returns when every join or leave that was under way is done. Where the kernel refuses it returns
    /// `false` at once.
    pub(crate) fn pass(&self) -> bool {
        let mut value = Value { command: ETHTOOL_GLINK, data: 0 };
        // SAFETY: an all-zero ifreq is a valid one.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
            *to = *from as libc::c_char;
        }
        request.ifr_ifru.ifru_data = (&raw mut value).cast();
        // SAFETY: the request names a buffer as large as this command writes, and both outlive
        // the call.
        let result =
            unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
        result == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anybody_may_pass() {
        assert!(Barrier::open().unwrap().pass());
    }
}
