//! The directories of containers' leases of DHCP.

use std::fs;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use crate::oci::ContainerId;
use crate::state::dhcp_leases::{DIRECTORY, DhcpLease, DhcpLeaseFile};
use crate::state::store::at;
use crate::state::{StateDirError, Store};

impl Store {
    /// The lease that an interface has now.
    pub fn dhcp_lease(&self, container: &ContainerId, interface: &str) -> Option<DhcpLease> {
        DhcpLeaseFile::new(self.root(), container, interface).read()
    }

    /// Makes the directory for the leases of a container.
    ///
    /// # Errors
    /// Those of mkdir(2).
    pub fn make_dhcp_dir(&self, container: &ContainerId) -> Result<(), StateDirError> {
        self.make()?;
        let path = self.dhcp_dir(container);
        DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(at("make", &path))
    }

    /// Removes the leases of a container that has ended.
    pub fn remove_dhcp_dir(&self, container: &ContainerId) {
        // What stays is of no effect: it is read for a record that says so.
        let _ = fs::remove_dir_all(self.dhcp_dir(container));
    }

    /// The containers that have leases.
    pub(crate) fn list_dhcp_dirs(&self) -> Vec<ContainerId> {
        let entries = fs::read_dir(self.root().join(DIRECTORY)).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()?.try_into().ok()).collect()
    }

    fn dhcp_dir(&self, container: &ContainerId) -> PathBuf {
        self.root().join(DIRECTORY).join(container.as_str())
    }
}
