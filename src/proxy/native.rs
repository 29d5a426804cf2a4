//! Groups of a namespace as its kernel shows them, for interfaces that speak IGMP themselves.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::FileExt;

use crate::igmp::{Filter, FilterMode, is_ssm};

/// The most that is read of a file: about 8000 groups.
const READ_LIMIT: usize = 1024 * 1024;

/// Bytes read at once: more than usual lists have, and little to make ready for them.
const PAGE: usize = 1024;
/// No line of these files, nor the two with which an interface begins, is longer.
const LONGEST_LINE: usize = 512;

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
        let source_specific = self.filter.mode == FilterMode::Include && is_ssm(group);
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
        Ok(parse(&read(&self.igmp)?, self.source_lists()?))
    }

    /// The source lists now: little to read, however many groups are joined without one.
    ///
    /// # Errors
    /// As [`ProcNet::read`].
    pub(crate) fn source_lists(&self) -> io::Result<SourceLists> {
        Ok(SourceLists::parse(&read(&self.mcfilter)?))
    }
}

/// A source, and how many sockets include and exclude it.
type Uses = (Ipv4Addr, u64, u64);

/// The sources that the sockets of a namespace name, as `/proc/net/mcfilter` shows them
/// (`igmp_mcf_seq_show` in net/ipv4/igmp.c).
#[derive(Debug, Default)]
pub(crate) struct SourceLists(BTreeMap<(u32, Ipv4Addr), Vec<Uses>>);

impl SourceLists {
    fn parse(mcfilter: &str) -> Self {
        let mut lists: BTreeMap<_, Vec<Uses>> = BTreeMap::new();
        for line in mcfilter.lines().skip(1) {
            let mut words = line.split_ascii_whitespace();
            let address = |word: Option<&str>| {
                let number = u32::from_str_radix(word?.trim_start_matches("0x"), 16);
                number.ok().map(Ipv4Addr::from)
            };
            let (index, _name) = (words.next().and_then(|w| w.parse().ok()), words.next());
            let (group, source) = (address(words.next()), address(words.next()));
            let mut count = || words.next()?.parse().ok();
            if let (Some(index), Some(group), Some(source), Some(include), Some(exclude)) =
                (index, group, source, count(), count())
            {
                lists.entry((index, group)).or_default().push((source, include, exclude));
            }
        }
        SourceLists(lists)
    }

    /// What is wanted of a group that is known to be joined. `None` where the lists leave that in doubt:
    /// they do not tell whether other sockets have joined without one. In the SSM range none has
    /// (RFC 4607 §4.3).
    pub(crate) fn of_joined(&self, interface: u32, group: Ipv4Addr) -> Option<Filter> {
        match self.0.get(&(interface, group)) {
            None => Some(Filter::any()),
            Some(list) if is_ssm(group) && list.iter().all(|(_, _, exclude)| *exclude == 0) => {
                Some(Filter::include(list.iter().map(|(source, ..)| *source)))
            }
            Some(_) => None,
        }
    }
}

/// In as few system calls as there are pages: a join waits for it. Before the end of the file a read stops
/// only where the next line does not fit (`seq_read_iter` in fs/seq_file.c).
fn read(file: &File) -> io::Result<String> {
    // On the stack, since the heap keeps what it has grown to.
    let mut page = [0; PAGE];
    let mut bytes = Vec::new();
    while bytes.len() < READ_LIMIT {
        match file.read_at(&mut page, bytes.len() as u64) {
            Ok(0) => return Ok(text(bytes)),
            Ok(got) => {
                bytes.extend_from_slice(&page[..got]);
                if got + LONGEST_LINE <= page.len() {
                    return Ok(text(bytes));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::FileTooLarge.into())
}

fn text(bytes: Vec<u8>) -> String {
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    String::from_utf8(bytes).unwrap_or_else(|e| lossy(e.as_bytes()))
}

/// Puts both files together (`igmp_mc_seq_show` in net/ipv4/igmp.c is the first).
///
/// The kernel lists the sources of all filters, not their modes: a source that some socket
/// excludes makes it EXCLUDE, and so do more sockets than inclusions. 224.0.0.1, which every interface has, is left out.
fn parse(igmp: &str, lists: SourceLists) -> BTreeMap<(u32, Ipv4Addr), Observed> {
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
    for (key, list) in lists.0 {
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
        let groups = parse(&igmp, SourceLists::parse(mcfilter));
        assert_eq!(groups.len(), 3);
        let ssm = &groups[&(7, Ipv4Addr::new(232, 1, 1, 1))];
        assert_eq!(ssm.filter, Filter::include([Ipv4Addr::new(10, 0, 0, 5)]));
        assert_eq!(ssm.version, 2);
        let excluded = &groups[&(7, Ipv4Addr::new(239, 1, 2, 3))];
        assert_eq!(excluded.filter, Filter::exclude([Ipv4Addr::new(10, 0, 0, 6)]));
        assert_eq!(groups[&(7, Ipv4Addr::new(239, 1, 2, 4))].filter, Filter::any());
    }

    #[test]
    fn source_lists_tell_what_a_new_membership_wants_where_no_doubt_is_left() {
        let lists = SourceLists::parse(
            "Idx Device        MCA        SRC    INC    EXC\n  \
             7    mc0 0xe8010101 0x0a000005      1      0\n  \
             7    mc0 0xe8010101 0x0a000006      1      0\n  \
             7    mc0 0xe8010102 0x0a000006      0      1\n  \
             7    mc0 0xef010204 0x0a000005      1      0\n",
        );
        let source = |last| Ipv4Addr::new(10, 0, 0, last);
        let of = |interface, group| lists.of_joined(interface, Ipv4Addr::from(group));
        assert_eq!(of(7, [239, 1, 2, 3]), Some(Filter::any()));
        assert_eq!(of(7, [232, 1, 1, 1]), Some(Filter::include([source(5), source(6)])));
        assert_eq!(of(8, [232, 1, 1, 1]), Some(Filter::any()), "another interface's");
        assert_eq!(of(7, [239, 1, 2, 4]), None, "another socket may want any source");
        assert_eq!(of(7, [232, 1, 1, 2]), None, "not as the range is meant");
    }

    #[test]
    fn rubbish_is_no_group() {
        assert!(parse("", SourceLists::default()).is_empty());
        let lists =
            SourceLists::parse("y\n1 2 3\n7 mc0 0xe8010101 0x0a000005 x 0\n7 mc0 0xe8010101\n");
        assert!(lists.0.is_empty());
        assert!(parse("x\n\t\t\t\tE0000002\n7\n zz\n", lists).is_empty());
    }
}
