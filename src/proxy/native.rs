//! Groups of a namespace as its kernel shows them, for interfaces that speak IGMP themselves.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::FileExt;

use crate::igmp::{Filter, FilterMode};

/// The most that is read of a file: about 8000 groups.
const READ_LIMIT: usize = 1024 * 1024;

/// What the kernel says of one group on one interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Observed {
    /// The merged filter of all sockets.
    pub(crate) filter: Filter,
    /// IGMP version that the interface speaks.
    pub(crate) version: u8,
    /// Sockets that have joined.
    users: u64,
}

impl Observed {
    /// A filter that lets through all that some socket may want.
    ///
    /// The kernel does not show which of several sockets has no list at all when another has
    /// one; only in the SSM range all have (RFC 4607 §4.3).
    pub(crate) fn at_most(&self, group: Ipv4Addr) -> Filter {
        let source_specific = self.filter.mode == FilterMode::Include && group.octets()[0] == 232;
        if self.users > 1 && !source_specific { Filter::any() } else { self.filter.clone() }
    }

    /// The filter, where the files leave no doubt: a single socket has joined.
    pub(crate) fn exact(&self) -> Option<&Filter> {
        (self.users == 1).then_some(&self.filter)
    }
}

/// `/proc/net/igmp` and `/proc/net/mcfilter` of a namespace; a file opened there shows it
/// from anywhere, each time it is read.
#[derive(Debug)]
pub(crate) struct ProcNet {
    igmp: File,
    mcfilter: File,
}

impl ProcNet {
    /// Opens the files of the calling thread's namespace.
    ///
    /// # Errors
    /// That of open(2).
    pub(crate) fn open() -> io::Result<Self> {
        Ok(ProcNet {
            igmp: File::open("/proc/thread-self/net/igmp")?,
            mcfilter: File::open("/proc/thread-self/net/mcfilter")?,
        })
    }

    /// The groups now, by interface index.
    ///
    /// # Errors
    /// That of read(2), and `FileTooLarge` for a file that is not read to its end.
    pub(crate) fn read(&self) -> io::Result<BTreeMap<(u32, Ipv4Addr), Observed>> {
        Ok(parse(&read(&self.igmp)?, &read(&self.mcfilter)?))
    }
}

/// In as few system calls as there are pages: a join waits for it.
fn read(file: &File) -> io::Result<String> {
    // On the stack, since the heap keeps what it has grown to.
    let mut page = [0; 4096];
    let mut bytes = Vec::new();
    while bytes.len() < READ_LIMIT {
        match file.read_at(&mut page, bytes.len() as u64) {
            Ok(0) => {
                let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                return Ok(String::from_utf8(bytes).unwrap_or_else(|e| lossy(e.as_bytes())));
            }
            Ok(got) => bytes.extend_from_slice(&page[..got]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::FileTooLarge.into())
}

/// Parses both files (`igmp_mc_seq_show` and `igmp_mcf_seq_show` in net/ipv4/igmp.c).
///
/// The kernel lists the sources of all filters, not their modes: a source that some socket
/// excludes makes it EXCLUDE, and so do more sockets than inclusions. 224.0.0.1, which every interface has, is left out.
fn parse(igmp: &str, mcfilter: &str) -> BTreeMap<(u32, Ipv4Addr), Observed> {
    let mut groups = BTreeMap::new();
    let mut interface = None;
    for line in igmp.lines().skip(1) {
        let mut words = line.split_whitespace();
        if line.starts_with(|c: char| c.is_ascii_digit()) {
            let index = words.next().and_then(|w| w.parse::<u32>().ok());
            let version = line.trim_end().bytes().last().map_or(3, |b| b.wrapping_sub(b'0'));
            interface = index.map(|i| (i, version.clamp(1, 3)));
        } else if let (Some((index, version)), Some(group), Some(users)) = (
            interface,
            words.next().and_then(|w| u32::from_str_radix(w, 16).ok()),
            words.next().and_then(|w| w.parse().ok()),
        ) {
            // The bytes in memory, as they are in the packet.
            let group = Ipv4Addr::from(group.to_ne_bytes());
            if group != Ipv4Addr::new(224, 0, 0, 1) {
                groups.insert((index, group), Observed { filter: Filter::any(), version, users });
            }
        }
    }
    // A source, and how many sockets include and exclude it.
    type Uses = (Ipv4Addr, u64, u64);
    let mut lists: BTreeMap<_, Vec<Uses>> = BTreeMap::new();
    for line in mcfilter.lines().skip(1) {
        let words: Vec<_> = line.split_whitespace().collect();
        let address = |word: &str| {
            u32::from_str_radix(word.trim_start_matches("0x"), 16).ok().map(Ipv4Addr::from)
        };
        if let [index, _, group, source, include, exclude] = words[..]
            && let (Ok(index), Some(group), Some(source), Ok(include), Ok(exclude)) =
                (index.parse(), address(group), address(source), include.parse(), exclude.parse())
        {
            lists.entry((index, group)).or_default().push((source, include, exclude));
        }
    }
    for (key, list) in lists {
        let Some(observed) = groups.get_mut(&key) else { continue };
        let most_excluding = list.iter().map(|(_, _, exclude)| *exclude).max().unwrap_or(0);
        let inclusions: u64 = list.iter().map(|(_, include, _)| *include).sum();
        observed.filter = if most_excluding > 0 {
            let out = list.iter().filter(|(_, inc, exc)| *inc == 0 && *exc == most_excluding);
            Filter::exclude(out.map(|(source, ..)| *source))
        } else if inclusions < observed.users {
            // Some socket includes nothing, so it excludes nothing either.
            Filter::any()
        } else {
            Filter::include(list.iter().map(|(source, ..)| *source))
        };
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_own_words_are_understood() {
        let igmp = format!(
            "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n\
             1\tlo        :     1      V3\n\t\t\t\t{:08X}     1 0:00000000\t\t0\n\
             7\tmc0       :     2      V2\n\t\t\t\t{:08X}     1 0:00000000\t\t0\n\
             \t\t\t\t{:08X}     1 1:00000010\t\t1\n\t\t\t\t{:08X}     2 0:00000000\t\t1\n\t\t\t\t{:08X}     1 0:00000000\t\t1\n",
            u32::from_ne_bytes([224, 0, 0, 1]),
            u32::from_ne_bytes([239, 1, 2, 3]),
            u32::from_ne_bytes([232, 1, 1, 1]),
            u32::from_ne_bytes([239, 1, 2, 4]),
            u32::from_ne_bytes([224, 0, 0, 1]),
        );
        let mcfilter = "Idx Device        MCA        SRC    INC    EXC\n  \
             7    mc0 0xe8010101 0x0a000005      1      0\n  \
             7    mc0 0xef010204 0x0a000005      1      0\n  \
             7    mc0 0xef010203 0x0a000006      0      1\n";
        let groups = parse(&igmp, mcfilter);
        assert_eq!(groups.len(), 3);
        let ssm = &groups[&(7, Ipv4Addr::new(232, 1, 1, 1))];
        assert_eq!(ssm.filter, Filter::include([Ipv4Addr::new(10, 0, 0, 5)]));
        assert_eq!(ssm.version, 2);
        let excluded = &groups[&(7, Ipv4Addr::new(239, 1, 2, 3))];
        assert_eq!(excluded.filter, Filter::exclude([Ipv4Addr::new(10, 0, 0, 6)]));
        assert_eq!(groups[&(7, Ipv4Addr::new(239, 1, 2, 4))].filter, Filter::any());
    }

    #[test]
    fn rubbish_is_no_group() {
        assert!(parse("", "").is_empty());
        assert!(parse("x\n\t\t\t\tE0000002\n7\n zz\n", "y\n1 2 3\n").is_empty());
    }
}
