//! The memberships of a namespace as its kernel shows them: /proc/net/igmp and /proc/net/mcfilter.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::FileExt;

use socket2::{Domain, Socket, Type};

use crate::multicast::{Address, FilterMode, SourceFilter};
use crate::sys::sockopt;

/// The most that is read of a file: about 8000 groups.
const READ_LIMIT: usize = 1024 * 1024;

/// Bytes of one read: the kernel returns no more, unless a line is longer (`seq_read_iter` in
/// fs/seq_file.c).
const PAGE: usize = 4096;
/// Longest line of these files, and longest pair of lines with which an interface begins.
const LONGEST_LINE: usize = 512;
/// Index of the loopback interface, the first of every namespace (`LOOPBACK_IFINDEX` in
/// include/net/flow.h).
const LOOPBACK: u32 = 1;

/// One membership: a group on one interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KernelMembership<A = Ipv4Addr> {
    /// The source filter of all sockets, merged.
    pub(crate) filter: SourceFilter<A>,
    /// IGMP version that the interface speaks.
    pub(crate) version: u8,
    /// How many sockets have joined.
    users: u64,
    /// Whether a source list would show.
    lists_show: bool,
}

impl<A: Address> KernelMembership<A> {
    /// A filter that admits every source that some socket may have joined.
    ///
    /// Where several sockets have joined, the kernel does not show whether one of them has joined
    /// without a source list. Only in the SSM range every socket has one (RFC 4607 §4.3).
    pub(crate) fn widest_filter(&self, group: A) -> SourceFilter<A> {
        let source_specific = self.filter.mode == FilterMode::Include && group.is_ssm();
        if self.users > 1 && !source_specific { SourceFilter::any() } else { self.filter.clone() }
    }

    /// As [`widest_filter`](Self::widest_filter), except that what another proxy knew settles
    /// whether each of several sockets has a source list, and counts where no list would show.
    pub(crate) fn filter_after(
        &self,
        group: A,
        known: Option<&SourceFilter<A>>,
    ) -> SourceFilter<A> {
        let may_be_hidden = !self.lists_show && self.filter == SourceFilter::any();
        if let Some(known) = known.filter(|_| may_be_hidden) {
            return known.clone();
        }
        let is_settled = known.is_some_and(|known| {
            *known == self.filter
                || known.mode == FilterMode::Include && self.filter.mode == FilterMode::Include
        });
        if is_settled { self.filter.clone() } else { self.widest_filter(group) }
    }

    /// The filter, where the files show it exactly: a single socket has joined.
    pub(crate) fn exact_filter(&self) -> Option<&SourceFilter<A>> {
        (self.users == 1 && self.lists_show).then_some(&self.filter)
    }
}

/// `/proc/net/igmp` and `/proc/net/mcfilter` of a namespace. A file that was opened in the
/// namespace shows that namespace at every read, whatever namespace the reader is in.
#[derive(Debug)]
pub(crate) struct MembershipFiles {
    igmp: File,
    mcfilter: File,
    /// Makes the kernel show all lists; see [`MembershipFiles::show_all_lists`].
    anchor: Socket,
}

impl MembershipFiles {
    /// Opens the files of the calling thread's namespace.
    ///
    /// # Errors
    /// Those of open(2).
    pub(crate) fn open() -> io::Result<Self> {
        Ok(MembershipFiles {
            igmp: File::open("/proc/thread-self/net/igmp")?,
            mcfilter: File::open("/proc/thread-self/net/mcfilter")?,
            anchor: Socket::new(Domain::IPV4, Type::DGRAM, None)?,
        })
    }

    /// Makes the kernel show the source lists of all groups. /proc/net/mcfilter begins with the
    /// first interface whose newest group has a source list (`igmp_mcf_get_first` in
    /// net/ipv4/igmp.c), and shows nothing of the interfaces before it. So loopback, the first
    /// interface, gets a source in its 224.0.0.1, which no host reports.
    ///
    /// Where this fails, or the container has joined another group on loopback, a group without a
    /// list counts as unknown.
    pub(crate) fn show_all_lists(&self) {
        let _ = sockopt::join_source_group(
            &self.anchor,
            LOOPBACK,
            Ipv4Addr::ALL_SYSTEMS,
            Ipv4Addr::DOCUMENTATION,
        );
    }

    /// All memberships now, by interface index and group.
    ///
    /// # Errors
    /// Those of read(2), and `FileTooLarge` for a file above 1 MiB.
    pub(crate) fn memberships(&self) -> io::Result<BTreeMap<(u32, Ipv4Addr), KernelMembership>> {
        let mut page = [0; PAGE];
        let lists = self.source_entries(&mut page)?;
        let groups = read(&self.igmp, &mut page)?;
        Ok(parse(&String::from_utf8_lossy(&groups), &lists))
    }

    /// The same, with the lists of all groups. A proxy that has died has taken with it what made the
    /// kernel show them. Where nothing is joined, nothing is done.
    ///
    /// # Errors
    /// As [`MembershipFiles::memberships`].
    pub(crate) fn memberships_with_lists(
        &self,
    ) -> io::Result<BTreeMap<(u32, Ipv4Addr), KernelMembership>> {
        let memberships = self.memberships()?;
        if memberships.values().all(|membership| membership.lists_show) {
            return Ok(memberships);
        }
        self.show_all_lists();
        self.memberships()
    }

    /// How many sockets have joined each group now, by interface index and group.
    ///
    /// # Errors
    /// As [`MembershipFiles::memberships`].
    pub(crate) fn users(&self) -> io::Result<BTreeMap<(u32, Ipv4Addr), u64>> {
        let mut page = [0; PAGE];
        let groups = read(&self.igmp, &mut page)?;
        let memberships = parse(&String::from_utf8_lossy(&groups), &SourceEntries::parse(b""));
        Ok(memberships.into_iter().map(|(key, membership)| (key, membership.users)).collect())
    }

    /// The source lists now. This is part of carrying out a join, and is fast: the file has no line
    /// for a group without a list. `buffer` is scratch space.
    ///
    /// # Errors
    /// As [`MembershipFiles::memberships`].
    pub(crate) fn source_entries(&self, buffer: &mut [u8]) -> io::Result<SourceEntries> {
        let room = buffer.len().min(PAGE);
        let text = read(&self.mcfilter, &mut buffer[..room])?;
        Ok(SourceEntries {
            in_one_read: matches!(text, Cow::Borrowed(_)),
            ..SourceEntries::parse(&text)
        })
    }
}

/// A line of /proc/net/mcfilter: a source that sockets of the namespace name for a group.
#[derive(Debug, PartialEq, Eq)]
struct SourceEntry<A> {
    interface: u32,
    group: A,
    source: A,
    /// How many sockets include the source.
    including: u64,
    /// How many sockets exclude the source.
    excluding: u64,
}

impl SourceEntry<Ipv4Addr> {
    /// Parses a line; `None` for one that is not valid.
    fn parse(line: &[u8]) -> Option<Self> {
        let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        let interface = number(words.next()?, 10)?;
        let _name = words.next()?;
        let mut address =
            || Some(Ipv4Addr::from(number::<u32>(words.next()?.strip_prefix(b"0x")?, 16)?));
        let (group, source) = (address()?, address()?);
        let (including, excluding) = (number(words.next()?, 10)?, number(words.next()?, 10)?);
        Some(SourceEntry { interface, group, source, including, excluding })
    }
}

/// The lines of /proc/net/mcfilter (`igmp_mcf_seq_show` in net/ipv4/igmp.c).
#[derive(Debug)]
pub(crate) struct SourceEntries<A = Ipv4Addr> {
    lines: Vec<SourceEntry<A>>,
    /// Between two reads a line may move, and be missed.
    in_one_read: bool,
}

impl SourceEntries<Ipv4Addr> {
    fn parse(mcfilter: &[u8]) -> Self {
        let lines = mcfilter.split(|byte| *byte == b'\n').skip(1).filter_map(SourceEntry::parse);
        SourceEntries { lines: lines.collect(), in_one_read: true }
    }
}

impl<A: Address> SourceEntries<A> {
    /// The entries of one group.
    fn of(&self, interface: u32, group: A) -> impl Iterator<Item = &SourceEntry<A>> + Clone {
        self.lines.iter().filter(move |of| (of.interface, of.group) == (interface, group))
    }

    /// Whether the groups of an interface have their lists here: the kernel shows those of all
    /// interfaces from the first that it shows at all.
    fn lists_show(&self, interface: u32) -> bool {
        self.in_one_read
            && self.lines.iter().any(|of| [LOOPBACK, interface].contains(&of.interface))
    }

    /// Whether no source of the group is here.
    pub(crate) fn has_none_of(&self, interface: u32, group: A) -> bool {
        self.of(interface, group).next().is_none()
    }

    /// The source filter of a group that is known to be joined. `None` where the entries do not
    /// show it: the list may be hidden, or other sockets may have joined without a source list. In
    /// the SSM range that is rare, and the report that follows tells (RFC 4607 §4.3).
    pub(crate) fn filter_of_joined(&self, interface: u32, group: A) -> Option<SourceFilter<A>> {
        let list = self.of(interface, group);
        if self.has_none_of(interface, group) {
            return self.lists_show(interface).then(SourceFilter::any);
        }
        let settled = group.is_ssm() && list.clone().all(|of| of.excluding == 0);
        settled.then(|| SourceFilter::include(list.map(|of| of.source)))
    }
}

/// Reads the whole file with one system call for each page. A read that is short by more than a
/// line has reached the end of the file, because before the end the kernel stops only where the
/// next line does not fit.
fn read<'b>(file: &File, page: &'b mut [u8]) -> io::Result<Cow<'b, [u8]>> {
    let mut earlier = Vec::new();
    while earlier.len() < READ_LIMIT {
        match file.read_at(page, earlier.len() as u64) {
            Ok(got) if got == 0 || got + LONGEST_LINE <= page.len() => {
                let last = &page[..got];
                if earlier.is_empty() {
                    return Ok(Cow::Borrowed(last));
                }
                earlier.extend_from_slice(last);
                return Ok(Cow::Owned(earlier));
            }
            Ok(got) => earlier.extend_from_slice(&page[..got]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::FileTooLarge.into())
}

/// Parses a number that consists of digits only.
fn number<N: TryFrom<u64>>(digits: &[u8], radix: u32) -> Option<N> {
    let digit = |value: u64, byte: &u8| {
        value.checked_mul(radix.into())?.checked_add(char::from(*byte).to_digit(radix)?.into())
    };
    let value = digits.iter().try_fold(0, digit).filter(|_| !digits.is_empty())?;
    N::try_from(value).ok()
}

/// Combines /proc/net/igmp (`igmp_mc_seq_show` in net/ipv4/igmp.c) with the lines of
/// /proc/net/mcfilter.
///
/// The kernel shows the sources of a filter and not its mode. The mode is EXCLUDE where a socket
/// excludes a source, and where more sockets have joined than sources are included. 224.0.0.1,
/// which every interface has joined, is left out.
fn parse(igmp: &str, lists: &SourceEntries) -> BTreeMap<(u32, Ipv4Addr), KernelMembership> {
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
            // The kernel prints the address as a number of the machine's byte order.
            let group = Ipv4Addr::from(group.to_ne_bytes());
            if group != Ipv4Addr::ALL_SYSTEMS {
                groups.insert(
                    (index, group),
                    KernelMembership {
                        filter: SourceFilter::any(),
                        version,
                        users,
                        lists_show: lists.lists_show(index),
                    },
                );
            }
        }
    }
    let mut by_group: BTreeMap<_, Vec<&SourceEntry<Ipv4Addr>>> = BTreeMap::new();
    for of in &lists.lines {
        by_group.entry((of.interface, of.group)).or_default().push(of);
    }
    for (key, list) in by_group {
        let Some(observed) = groups.get_mut(&key) else { continue };
        let most_excluding = list.iter().map(|of| of.excluding).max().unwrap_or(0);
        let inclusions: u64 = list.iter().map(|of| of.including).sum();
        observed.filter = if most_excluding > 0 {
            let out = list.iter().filter(|of| of.including == 0 && of.excluding == most_excluding);
            SourceFilter::exclude(out.map(|of| of.source))
        } else if inclusions < observed.users {
            // A socket that includes no source has joined without a source list.
            SourceFilter::any()
        } else {
            SourceFilter::include(list.iter().map(|of| of.source))
        };
    }
    groups
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_files_of_the_kernel_are_parsed() {
        let igmp = format!(
            "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n\
             1\tlo        :     1      V3\n\t\t\t\t{:08X}     1 0:00000000\t\t0\n\
             7\tmc0       :     2      V2\n\t\t\t\t{:08X}     1 0:00000000\t\t0\n\
             \t\t\t\t{:08X}     1 1:00000010\t\t1\n\
             \t\t\t\t{:08X}     2 0:00000000\t\t1\n\
             \t\t\t\t{:08X}     1 0:00000000\t\t1\n",
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
        let groups = parse(&igmp, &SourceEntries::parse(mcfilter.as_bytes()));
        assert_eq!(groups.len(), 3);
        let ssm = &groups[&(7, Ipv4Addr::new(232, 1, 1, 1))];
        assert_eq!(ssm.filter, SourceFilter::include([Ipv4Addr::new(10, 0, 0, 5)]));
        assert_eq!(ssm.version, 2);
        let hidden = parse(&igmp, &SourceEntries::parse(b""));
        let (group, known) = (Ipv4Addr::new(232, 1, 1, 1), ssm.filter.clone());
        let hidden = &hidden[&(7, group)];
        assert_eq!(hidden.filter_after(group, Some(&known)), known, "the list may be hidden");
        assert_eq!(hidden.filter_after(group, None), SourceFilter::any());
        let excluded = &groups[&(7, Ipv4Addr::new(239, 1, 2, 3))];
        assert_eq!(excluded.filter, SourceFilter::exclude([Ipv4Addr::new(10, 0, 0, 6)]));
        assert_eq!(groups[&(7, Ipv4Addr::new(239, 1, 2, 4))].filter, SourceFilter::any());
    }

    #[test]
    fn a_new_membership_has_a_filter_where_the_entries_show_it() {
        let lists = SourceEntries::parse(
            b"Idx Device        MCA        SRC    INC    EXC\n  \
             7    mc0 0xe8010101 0x0a000005      1      0\n  \
             7    mc0 0xe8010101 0x0a000006      1      0\n  \
             7    mc0 0xe8010102 0x0a000006      0      1\n  \
             7    mc0 0xef010204 0x0a000005      1      0\n",
        );
        let source = |last| Ipv4Addr::new(10, 0, 0, last);
        let of = |interface, group| lists.filter_of_joined(interface, Ipv4Addr::from(group));
        assert_eq!(of(7, [239, 1, 2, 3]), Some(SourceFilter::any()));
        assert_eq!(of(7, [232, 1, 1, 1]), Some(SourceFilter::include([source(5), source(6)])));
        assert_eq!(of(8, [232, 1, 1, 1]), None, "the lists of this interface may be hidden");
        let anchored = SourceEntries::parse(b"Idx\n  1  lo 0xe0000001 0xc0000200      1      0\n");
        let group = Ipv4Addr::new(232, 1, 1, 1);
        assert_eq!(anchored.filter_of_joined(8, group), Some(SourceFilter::any()));
        let torn = SourceEntries { in_one_read: false, ..anchored };
        assert_eq!(torn.filter_of_joined(8, group), None);
        assert_eq!(of(7, [239, 1, 2, 4]), None, "another socket may want any source");
        assert_eq!(of(7, [232, 1, 1, 2]), None, "a source is excluded in the SSM range");
    }

    #[test]
    fn a_file_is_read_to_its_end_and_one_without_end_is_refused() {
        let edge = PAGE - LONGEST_LINE;
        for length in [0, 1, edge, edge + 1, PAGE, PAGE + 1, PAGE + edge + 1, 3 * PAGE] {
            let mut file = tempfile::tempfile().unwrap();
            let bytes: Vec<u8> = (0..=250).cycle().take(length).collect();
            file.write_all(&bytes).unwrap();
            assert!(*read(&file, &mut [0; PAGE]).unwrap() == bytes, "{length} bytes");
        }
        let endless = File::open("/dev/zero").unwrap();
        let error = read(&endless, &mut [0; PAGE]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn an_invalid_line_is_no_membership() {
        assert!(parse("", &SourceEntries::parse(b"")).is_empty());
        for line in [
            "1 2 3",
            "7 mc0 0xe8010101",
            "7 mc0 0xe8010101 0x0a000005 x 0",
            "7 mc0 0xe8010101 0x0a000005 1",
            "7 mc0 0xe8010101 0x1000a0005 1 0",
            "7 mc0 e8010101 0x0a000005 1 0",
            "4294967296 mc0 0xe8010101 0x0a000005 1 0",
            "7 mc0 0x 0x0a000005 1 0",
            "7 mc0 0xe8010101 0x0a000005 1 18446744073709551616",
        ] {
            assert_eq!(SourceEntries::parse(format!("y\n{line}\n").as_bytes()).lines, [], "{line}");
        }
        let lists = SourceEntries::parse(b"\xff\n\n\xff 7 \n7 mc0 0xe8010101 0x0a000005 1 0");
        assert_eq!(lists.lines.len(), 1, "a valid line after invalid ones is parsed");
        assert!(parse("x\n\t\t\t\tE0000002\n7\n zz\n", &lists).is_empty());
    }
}
