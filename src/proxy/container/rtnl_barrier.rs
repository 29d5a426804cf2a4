//! Waiting until joins and leaves that are under way are complete.
//!
//! The kernel notifies of a source-specific join (`ip_mc_source` in net/ipv4/igmp.c) when it has
//! added the group, and before it adds the source. At that moment the join looks like one from any
//! source. The whole system call holds the RTNL lock, so after the proxy has held the lock too, the
//! call is complete.
//!
//! The same goes for IPv6 (`ip6_mc_source` in net/ipv6/mcast.c) up to Linux 6.16. Later kernels join
//! IPv6 groups without the lock, and there is nothing to wait for.

use std::io;

use socket2::{Domain, Socket, Type};

use crate::sys::sockopt;

/// A socket for a call that takes the RTNL lock and changes nothing.
pub(crate) struct RtnlBarrier(Socket);

impl RtnlBarrier {
    /// Opens a socket in the caller's namespace. All namespaces share one RTNL lock.
    ///
    /// # Errors
    /// That of socket(2).
    pub(crate) fn open() -> io::Result<Self> {
        Ok(RtnlBarrier(Socket::new(Domain::IPV4, Type::DGRAM, None)?))
    }

    /// Returns when every join or leave that was under way is complete; `false` where the kernel
    /// refuses the call before it takes the lock.
    pub(crate) fn wait(&self) -> bool {
        // The option takes the lock (`setsockopt_needs_rtnl` in net/ipv4/ip_sockglue.c), and then
        // fails with EINVAL because no group is given. No other call with this lock does less.
        let answer = sockopt::set_bytes(&self.0, libc::IPPROTO_IP, libc::IP_DROP_MEMBERSHIP, &[]);
        matches!(answer, Err(e) if e.raw_os_error() == Some(libc::EINVAL))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::{AsRawFd, FromRawFd};
    use std::ptr;
    use std::sync::mpsc::channel;
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// Numbers of linux/userfaultfd.h, and the requests made of them.
    const UFFD_API: u64 = 0xaa;
    const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
    const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
    const UFFDIO_ZEROPAGE: libc::c_ulong = 0xc020_aa04;
    const REGISTER_MODE_MISSING: u64 = 1;
    const ETHTOOL_GLINK: u32 = 0x0a;
    const PAGE: usize = 4096;

    /// A page that a thread waits for when it touches it (userfaultfd(2)).
    struct AwaitedPage {
        faults: File,
        start: u64,
    }

    impl AwaitedPage {
        fn new() -> Self {
            // SAFETY: a new mapping, which is never unmapped.
            let start = unsafe {
                let (access, kind) =
                    (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
                libc::mmap(ptr::null_mut(), PAGE * 2, access, kind, -1, 0)
            };
            assert_ne!(start, libc::MAP_FAILED);
            // SAFETY: the call takes flags only.
            let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
            assert!(fd >= 0, "userfaultfd: {}", io::Error::last_os_error());
            // SAFETY: the kernel has just made this descriptor, which nobody else knows.
            let faults = unsafe { File::from_raw_fd(fd as i32) };
            let page = AwaitedPage { faults, start: start as u64 + PAGE as u64 };
            page.request(UFFDIO_API, &mut [UFFD_API, 0, 0]);
            let mut register = [page.start, PAGE as u64, REGISTER_MODE_MISSING, 0];
            page.request(UFFDIO_REGISTER, &mut register);
            page
        }

        fn request(&self, request: libc::c_ulong, argument: &mut [u64]) {
            let fd = self.faults.as_raw_fd();
            // SAFETY: the argument has the size that the request takes.
            let result = unsafe { libc::ioctl(fd, request as _, argument.as_mut_ptr()) };
            assert_eq!(result, 0, "userfaultfd: {}", io::Error::last_os_error());
        }

        fn wait_until_touched(&mut self) {
            self.faults.read_exact(&mut [0; 32]).unwrap();
        }

        fn provide(&self) {
            self.request(UFFDIO_ZEROPAGE, &mut [self.start, PAGE as u64, 0, 0]);
        }
    }

    /// Asks for the link state of `lo`. The kernel takes the lock and holds it while it writes the
    /// answer (`dev_ethtool` in net/ethtool/ioctl.c). Only the answer is in the awaited page.
    fn hold_lock(page: u64) {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        let command = (page - 4) as *mut u32;
        // SAFETY: an all-zero ifreq is valid, and the command is in a page that is mapped.
        let result = unsafe {
            command.write(ETHTOOL_GLINK);
            let mut request: libc::ifreq = std::mem::zeroed();
            request.ifr_name[..2].copy_from_slice(&[b'l' as libc::c_char, b'o' as libc::c_char]);
            request.ifr_ifru.ifru_data = command.cast();
            libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request)
        };
        assert_eq!(result, 0);
    }

    #[test]
    fn wait_returns_only_when_the_lock_is_free() {
        let mut page = AwaitedPage::new();
        let start = page.start;
        let holder = thread::spawn(move || hold_lock(start));
        page.wait_until_touched();
        let (sender, returned) = channel();
        let waiter =
            thread::spawn(move || sender.send(RtnlBarrier::open().unwrap().wait()).unwrap());
        let early = returned.recv_timeout(Duration::from_millis(50));
        page.provide();
        assert!(early.is_err(), "it returned while another thread held the lock");
        assert_eq!(returned.recv_timeout(Duration::from_secs(10)), Ok(true));
        holder.join().unwrap();
        waiter.join().unwrap();
    }
}
