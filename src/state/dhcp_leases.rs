//! Leases of DHCP: the address that a container's interface has now.
//!
//! `dhcp/ID/INTERFACE.json` is written by the process that holds the lease, whenever it changes. The
//! record of the container says that the address is leased, and this file says which it is: whoever
//! reads the record gets it from here.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::attachment::{Attachment, IpAssignment, Route};
use crate::oci::ContainerId;
use crate::state::AttachmentRecord;
use crate::sys::files;
use crate::sys::files::Replacement;

/// Longest file, in bytes.
const MAX_FILE: u64 = 8192;

/// What a server has given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DhcpLease {
    /// The address with the length of its prefix.
    pub address: IpNet,
    /// The server; none of DHCPv6, whose servers have no address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<IpAddr>,
    /// When it ends, in seconds since 1970; `None`: never.
    pub ends_at: Option<u64>,
    /// The routes that came with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
}

/// The file of one interface's lease.
#[derive(Debug, Clone)]
pub struct DhcpLeaseFile {
    path: PathBuf,
}

impl DhcpLeaseFile {
    /// That of an interface of a container, in a state directory.
    pub fn new(root: &Path, container: &ContainerId, interface: &str) -> Self {
        DhcpLeaseFile {
            path: root.join(DIRECTORY).join(container.as_str()).join(format!("{interface}.json")),
        }
    }

    /// The lease; `None`: there is none now, or nothing that can be understood.
    pub fn read(&self) -> Option<DhcpLease> {
        let length = fs::metadata(&self.path).ok()?.len();
        let text = fs::read(&self.path).ok().filter(|_| length <= MAX_FILE)?;
        let lease: DhcpLease = serde_json::from_slice(&text).ok()?;
        lease.ends_at.is_none_or(|end| end > seconds_since_1970()).then_some(lease)
    }

    /// Replaces the file whole.
    ///
    /// # Errors
    /// `ENOSPC`, `EROFS` and their like.
    pub fn write(&self, lease: &DhcpLease) -> io::Result<()> {
        let text = serde_json::to_vec(lease)?;
        files::replace(&self.path, &text, Replacement { locked: false, ..Replacement::PRIVATE })
    }

    /// Removes the file.
    pub fn remove_lease(&self) {
        // What stays is removed with the container.
        let _ = fs::remove_file(&self.path);
    }

    /// Removes the file, and the container's directory with its last one.
    pub fn remove(&self) {
        self.remove_lease();
        if let Some(directory) = self.path.parent() {
            let _ = fs::remove_dir(directory);
        }
    }
}

/// The directory of all leases in the state directory.
pub(super) const DIRECTORY: &str = "dhcp";

impl DhcpLease {
    /// For how many more seconds it is good; `None`: for ever.
    pub fn seconds_left(&self) -> Option<u64> {
        Some(self.ends_at?.saturating_sub(seconds_since_1970()))
    }
}

/// Puts the leased addresses of now into a record.
pub(super) fn complete(record: &mut AttachmentRecord, root: &Path) {
    // Of a container that has ended it matters what it had.
    if !record.attachments().any(|attachment| attachment.ip.is_dhcp())
        || !record.container().is_alive()
    {
        return;
    }
    let container = record.container().id.clone();
    let lease = |attachment: &mut Attachment, interface: &str| {
        if let IpAssignment::Dhcp(addresses) | IpAssignment::Dhcp6(addresses) = &mut attachment.ip {
            let lease = DhcpLeaseFile::new(root, &container, interface).read();
            *addresses = lease.map(|lease| lease.address).into_iter().collect();
        }
    };
    if let AttachmentRecord::Attached(attached) = record {
        let interfaces = attached.interfaces.iter_mut().chain(&mut attached.leaving);
        interfaces.for_each(|i| lease(&mut i.attachment, &i.name));
    }
}

/// The time of leases.
pub fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_read_until_it_ends_and_what_is_none_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let id = ContainerId::try_from("c1".to_owned()).unwrap();
        let file = DhcpLeaseFile::new(dir.path(), &id, "mc0");
        assert_eq!(file.read(), None);
        let own = file.path.parent().unwrap().to_owned();
        fs::create_dir_all(&own).unwrap();
        let lease = DhcpLease {
            address: "192.0.2.7/24".parse().unwrap(),
            server: Some([192, 0, 2, 1].into()),
            ends_at: Some(seconds_since_1970() + 100),
            routes: vec![Route { destination: "10.0.0.0/8".parse().unwrap(), gateway: None }],
        };
        file.write(&lease).unwrap();
        assert_eq!(file.read().as_ref(), Some(&lease));
        file.write(&DhcpLease { ends_at: Some(1), ..lease }).unwrap();
        assert_eq!(file.read(), None);
        fs::write(&file.path, "{\"address\":").unwrap();
        assert_eq!(file.read(), None);
        file.remove();
        assert!(!own.exists());
    }
}
