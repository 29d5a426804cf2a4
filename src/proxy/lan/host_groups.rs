//! The groups that the host's kernel has joined, as /proc/net/igmp shows them.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::FileExt;

/// The most that is read: some tens of thousands of groups.
const READ_LIMIT: usize = 4 * 1024 * 1024;
/// Bytes of one read: the kernel returns no more.
const PAGE: usize = 4096;

/// /proc/net/igmp of the host. It shows the namespace in which it was opened, whoever reads it.
pub(crate) struct HostGroups(File);

impl HostGroups {
    /// Opens the file of the calling thread's namespace.
    ///
    /// # Errors
    /// That of open(2).
    pub(crate) fn open() -> io::Result<Self> {
        Ok(HostGroups(File::open("/proc/thread-self/net/igmp")?))
    }

    /// The groups that the kernel has joined on the interface of this index.
    ///
    /// # Errors
    /// Those of read(2), and `FileTooLarge` for a file above 4 MiB.
    pub(crate) fn joined_on(&self, index: u32) -> io::Result<BTreeSet<Ipv4Addr>> {
        let mut text = Vec::new();
        let mut page = [0; PAGE];
        while text.len() < READ_LIMIT {
            match self.0.read_at(&mut page, text.len() as u64) {
                Ok(0) => return Ok(groups(&String::from_utf8_lossy(&text), index)),
                Ok(got) => text.extend_from_slice(&page[..got]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::FileTooLarge.into())
    }
}

/// The groups below the line of an interface (`igmp_mc_seq_show` in net/ipv4/igmp.c).
fn groups(text: &str, index: u32) -> BTreeSet<Ipv4Addr> {
    let mut is_own = false;
    let mut found = BTreeSet::new();
    for line in text.lines().skip(1) {
        let word = line.split_whitespace().next().unwrap_or_default();
        if line.starts_with(|c: char| c.is_ascii_digit()) {
            is_own = word.parse() == Ok(index);
        } else if is_own && let Ok(group) = u32::from_str_radix(word, 16) {
            // The kernel prints the address as a number of the machine's byte order.
            found.insert(Ipv4Addr::from(group.to_ne_bytes()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_groups_of_one_interface_are_read() {
        let line = |group: [u8; 4]| {
            format!("\t\t\t\t{:08X}     1 0:00000000\t\t0\n", u32::from_ne_bytes(group))
        };
        let text = format!(
            "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n\
             1\tlo        :     1      V3\n{}7\tlan0      :     2      V2\n{}{}8\tx :\n{}",
            line([224, 0, 0, 1]),
            line([224, 0, 0, 1]),
            line([239, 1, 2, 3]),
            line([239, 1, 2, 4]),
        );
        let of_lan = [Ipv4Addr::new(224, 0, 0, 1), Ipv4Addr::new(239, 1, 2, 3)];
        assert_eq!(groups(&text, 7), of_lan.into());
        assert_eq!(groups(&text, 9), BTreeSet::new());
    }
}
