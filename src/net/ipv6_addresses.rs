//! The IPv6 addresses of a namespace, as /proc/net/if_inet6 shows them.

use std::fs::File;
use std::io;
use std::net::Ipv6Addr;
use std::os::unix::fs::FileExt;

use ipnet::Ipv6Net;

/// `IFA_F_*` of linux/if_addr.h.
const TENTATIVE: u32 = 0x40;
const DEPRECATED: u32 = 0x20;
const DUPLICATE: u32 = 0x08;
/// The most that is read: some thousand addresses.
const READ_LIMIT: usize = 256 * 1024;
/// Bytes of one read: the kernel returns no more (`seq_read_iter` in fs/seq_file.c).
const PAGE: usize = 4096;

/// The file of one namespace. It shows that namespace at every read, whatever namespace the reader is in.
#[derive(Debug)]
pub(crate) struct Ipv6Addresses(File);

/// An address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ipv6Interface {
    /// Index of its interface.
    pub(crate) index: u32,
    /// The address, and the prefix of its subnet.
    pub(crate) address: Ipv6Net,
    /// Whether it is the host's for certain: it is neither tentative nor a duplicate.
    pub(crate) is_certain: bool,
    /// Whether packets should come from another one (RFC 4862 §5.5.4).
    pub(crate) is_deprecated: bool,
}

impl Ipv6Addresses {
    /// Opens the file of the calling thread's namespace.
    ///
    /// # Errors
    /// `ENOENT` where the kernel has no IPv6.
    pub(crate) fn open() -> io::Result<Self> {
        File::open("/proc/thread-self/net/if_inet6").map(Ipv6Addresses)
    }

    /// All addresses now.
    ///
    /// # Errors
    /// Those of pread(2).
    pub(crate) fn read(&self) -> io::Result<Vec<Ipv6Interface>> {
        let mut text = Vec::new();
        while text.len() < READ_LIMIT {
            let length = text.len();
            text.resize(length + PAGE, 0);
            let read = self.0.read_at(&mut text[length..], length as u64)?;
            text.truncate(length + read);
            if read == 0 {
                break;
            }
        }
        Ok(parse(&String::from_utf8_lossy(&text)))
    }
}

/// The addresses in the text of such a file. A line is an address: its number, the index of its interface, the length of its prefix, its scope, its
/// flags, and the interface's name (`if6_seq_show` in net/ipv6/addrconf.c).
pub(crate) fn parse(text: &str) -> Vec<Ipv6Interface> {
    let line = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let address = Ipv6Addr::from_bits(u128::from_str_radix(words.next()?, 16).ok()?);
        let mut number = |at| u32::from_str_radix(words.nth(at)?, 16).ok();
        let (index, prefix, flags) = (number(0)?, number(0)?, number(1)?);
        Some(Ipv6Interface {
            index,
            address: Ipv6Net::new(address, u8::try_from(prefix).ok()?).ok()?,
            is_certain: flags & (TENTATIVE | DUPLICATE) == 0,
            is_deprecated: flags & DEPRECATED != 0,
        })
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_their_interface_and_prefix() {
        let text = "fe80000000000000000000000000000a 0c 40 20 c0     lan0\n\
                    20010db8000000000000000000000001 0c 40 00 80     lan0\n\
                    fd000000000000000000000000000002 07 30 00 a0     lan1\n\
                    what\n\nfe80 x\n20010db8000000000000000000000001 0c 81 00 80 lan0\n";
        let shown: Vec<_> = parse(text)
            .iter()
            .map(|a| (a.index, a.address.to_string(), a.is_certain, a.is_deprecated))
            .collect();
        let expected = [
            (12, "fe80::a/64", false, false),
            (12, "2001:db8::1/64", true, false),
            (7, "fd00::2/48", true, true),
        ];
        assert_eq!(shown, expected.map(|(index, text, a, b)| (index, text.to_owned(), a, b)));
    }

    #[test]
    fn the_file_shows_the_namespace_in_which_it_was_opened() {
        let ip = |arguments: &str| {
            let done = std::process::Command::new("ip").args(arguments.split(' ')).status();
            assert!(done.unwrap().success(), "ip {arguments}");
        };
        let namespace = crate::net::netns::NetNs::create().unwrap();
        let open = || {
            ip("link set lo up");
            Ipv6Addresses::open().unwrap()
        };
        let addresses = namespace.run(open).unwrap();
        let shown = || addresses.read().unwrap();
        assert_eq!(
            shown(),
            [Ipv6Interface {
                index: 1,
                address: "::1/128".parse().unwrap(),
                is_certain: true,
                is_deprecated: false
            }]
        );
        let many =
            || (0..200).for_each(|n| ip(&format!("-6 address add fd00::{n:x}/64 dev lo nodad")));
        namespace.run(many).unwrap();
        assert_eq!(shown().len(), 201);
    }
}
