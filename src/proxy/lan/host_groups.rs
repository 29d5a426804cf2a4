//! The groups that the host's kernel has joined, as /proc/net/igmp and igmp6 show them.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::net::Ipv4Addr;
use std::os::unix::fs::FileExt;

use crate::proxy::lan::family::LanFamily;

/// The most that is read: some tens of thousands of groups.
const READ_LIMIT: usize = 4 * 1024 * 1024;
/// Bytes of one read: the kernel returns no more.
const PAGE: usize = 4096;

/// The file of the host. It shows the namespace in which it was opened, whoever reads it.
pub(crate) struct HostGroups<A = Ipv4Addr> {
    file: File,
    family: PhantomData<A>,
}

impl<A: LanFamily> HostGroups<A> {
    /// Opens the file of the calling thread's namespace.
    ///
    /// # Errors
    /// That of open(2).
    pub(crate) fn open() -> io::Result<Self> {
        Ok(HostGroups { file: File::open(A::GROUPS_FILE)?, family: PhantomData })
    }

    /// Those of `wanted` that the kernel has not joined on the interface of this index. The groups of
    /// other containers, of which there may be thousands, take no memory.
    ///
    /// # Errors
    /// Those of read(2), and `FileTooLarge` for a file above 4 MiB.
    pub(crate) fn missing_on(
        &self,
        index: u32,
        mut wanted: BTreeSet<A>,
    ) -> io::Result<BTreeSet<A>> {
        let mut text = Vec::new();
        let mut page = [0; PAGE];
        while text.len() < READ_LIMIT {
            match self.file.read_at(&mut page, text.len() as u64) {
                Ok(0) => {
                    let text = String::from_utf8_lossy(&text);
                    A::each_group(&text, index, |group| {
                        wanted.remove(&group);
                    });
                    return Ok(wanted);
                }
                Ok(got) => text.extend_from_slice(&page[..got]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::FileTooLarge.into())
    }
}
