//! The memberships of a namespace as its kernel shows them: /proc/net/igmp and /proc/net/mcfilter, and
//! for IPv6 igmp6 and mcfilter6.

mod family;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::net::Ipv4Addr;
use std::os::unix::fs::FileExt;

use socket2::{Socket, Type};

use crate::multicast::{Address, FilterMode, SourceFilter};
pub(crate) use crate::proxy::container::membership_files::family::Shown;
use crate::proxy::container::membership_files::family::ShownGroup;
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
    /// IGMP version that the interface speaks. Of MLD the kernel shows none: always 2.
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

/// The files of one address family in a namespace. A file that was opened in the namespace shows that
/// namespace at every read, whatever namespace the reader is in.
#[derive(Debug)]
pub(crate) struct MembershipFiles<A = Ipv4Addr> {
    /// `/proc/net/igmp`, or `igmp6`.
    groups: File,
    /// `/proc/net/mcfilter`, or `mcfilter6`.
    sources: File,
    /// Makes the kernel show all lists; see [`MembershipFiles::show_all_lists`].
    anchor: Socket,
    family: PhantomData<A>,
}

impl<A: Shown> MembershipFiles<A> {
    /// Opens the files of the calling thread's namespace.
    ///
    /// # Errors
    /// Those of open(2): `ENOENT` for IPv6 where the kernel has none.
    pub(crate) fn open() -> io::Result<Self> {
        Ok(MembershipFiles {
            groups: File::open(A::GROUPS_FILE)?,
            sources: File::open(A::SOURCES_FILE)?,
            anchor: Socket::new(A::DOMAIN, Type::DGRAM, None)?,
            family: PhantomData,
        })
    }

    /// Makes the kernel show the source lists of all groups. The file of sources begins with the
    /// first interface whose newest group has a source list (`igmp_mcf_get_first` in
    /// net/ipv4/igmp.c, `igmp6_mcf_get_first` in net/ipv6/mcast.c), and shows nothing of the
    /// interfaces before it. So loopback, the first interface, gets a source in its group of all
    /// systems, which no host reports.
    ///
    /// Where this fails, or the container has joined another group on loopback, a group without a
    /// list counts as unknown.
    pub(crate) fn show_all_lists(&self) {
        let _ =
            sockopt::join_source_group(&self.anchor, LOOPBACK, A::ALL_SYSTEMS, A::DOCUMENTATION);
    }

    /// All memberships now, by interface index and group.
    ///
    /// # Errors
    /// Those of read(2), and `FileTooLarge` for a file above 1 MiB.
    pub(crate) fn memberships(&self) -> io::Result<BTreeMap<(u32, A), KernelMembership<A>>> {
        let mut page = [0; PAGE];
        let lists = self.source_entries(&mut page)?;
        let groups = read(&self.groups, &mut page)?;
        Ok(parse(&String::from_utf8_lossy(&groups), &lists))
    }

    /// The same, with the lists of all groups. A proxy that has died has taken with it what made the
    /// kernel show them. Where nothing is joined, nothing is done.
    ///
    /// # Errors
    /// As [`MembershipFiles::memberships`].
    pub(crate) fn memberships_with_lists(
        &self,
    ) -> io::Result<BTreeMap<(u32, A), KernelMembership<A>>> {
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
    pub(crate) fn users(&self) -> io::Result<BTreeMap<(u32, A), u64>> {
        let mut page = [0; PAGE];
        let groups = read(&self.groups, &mut page)?;
        let memberships = parse(&String::from_utf8_lossy(&groups), &SourceEntries::parse(b""));
        Ok(memberships.into_iter().map(|(key, membership)| (key, membership.users)).collect())
    }

    /// The source lists now. This is part of carrying out a join, and is fast: the file has no line
    /// for a group without a list. `buffer` is scratch space.
    ///
    /// # Errors
    /// As [`MembershipFiles::memberships`].
    pub(crate) fn source_entries(&self, buffer: &mut [u8]) -> io::Result<SourceEntries<A>> {
        let room = buffer.len().min(PAGE);
        let text = read(&self.sources, &mut buffer[..room])?;
        Ok(SourceEntries {
            in_one_read: matches!(text, Cow::Borrowed(_)),
            ..SourceEntries::parse(&text)
        })
    }
}

/// A line of the file of sources: a source that sockets of the namespace name for a group.
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

impl<A: Shown> SourceEntry<A> {
    /// Parses a line; `None` for one that is not valid.
    fn parse(line: &[u8]) -> Option<Self> {
        let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        let interface = number(words.next()?, 10)?;
        let _name = words.next()?;
        let mut address = || A::of_source_line(words.next()?);
        let (group, source) = (address()?, address()?);
        let (including, excluding) = (number(words.next()?, 10)?, number(words.next()?, 10)?);
        Some(SourceEntry { interface, group, source, including, excluding })
    }
}

/// The lines of the file of sources (`igmp_mcf_seq_show` in net/ipv4/igmp.c, `igmp6_mcf_seq_show` in
/// net/ipv6/mcast.c).
#[derive(Debug)]
pub(crate) struct SourceEntries<A = Ipv4Addr> {
    lines: Vec<SourceEntry<A>>,
    /// Between two reads a line may move, and be missed.
    in_one_read: bool,
}

impl<A: Shown> SourceEntries<A> {
    fn parse(sources: &[u8]) -> Self {
        let lines = sources.split(|byte| *byte == b'\n').skip(1).filter_map(SourceEntry::parse);
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

/// Combines the file of groups with the lines of the file of sources.
///
/// The kernel shows the sources of a filter and not its mode. The mode is EXCLUDE where a socket
/// excludes a source, and where more sockets have joined than sources are included. The group of all
/// systems, which every interface has joined, is left out.
fn parse<A: Shown>(
    text: &str,
    lists: &SourceEntries<A>,
) -> BTreeMap<(u32, A), KernelMembership<A>> {
    let mut groups = BTreeMap::new();
    A::each_group(text, |ShownGroup { interface, version, group, users }| {
        if group != A::ALL_SYSTEMS {
            let lists_show = lists.lists_show(interface);
            let filter = SourceFilter::any();
            let membership = KernelMembership { filter, version, users, lists_show };
            groups.insert((interface, group), membership);
        }
    });
    let mut by_group: BTreeMap<_, Vec<&SourceEntry<A>>> = BTreeMap::new();
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
mod tests;
