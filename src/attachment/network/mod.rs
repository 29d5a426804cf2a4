//! Named networks: `networks/NAME.toml` in the configuration directory.
//!
//! A network is the administrator's word. `net=NAME` stands for the attachment keys of the file;
//! those that are written beside it come first. What the file says is not limited by `[attach]` of
//! mcrun.toml, what is written beside it is.

mod address_range;
pub(in crate::attachment) mod addressing;
mod beside;
mod file;
mod keys;
mod name;
mod text;

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::attachment::admin::Problem;
use crate::attachment::error::nearest;
use crate::attachment::keys::Key;
use crate::attachment::values::Values;
use crate::attachment::{AdminConfig, AdminError, Attachment};
use crate::sys::trusted;

pub use crate::attachment::network::address_range::AddressRange;
pub use crate::attachment::network::addressing::Addressing;
pub use crate::attachment::network::name::{NetworkName, NetworkNameError};
pub use crate::attachment::network::text::file_text;

/// A network.
#[derive(Debug, Clone, Default)]
pub struct Network {
    /// What people are told about it.
    pub description: Option<String>,
    /// The addresses on it.
    pub addressing: Addressing,
    /// Its name servers, for engines that ask a plugin for them.
    pub name_servers: Vec<IpAddr>,
    /// The attachment keys of the file with their values, in the order of the table of keys.
    pub keys: Vec<(&'static str, String)>,
    /// The same, parsed.
    pub(super) values: Values,
}

impl Network {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// Everything that is wrong with it, in the order of the lines.
    pub fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        file::read(text)
    }

    /// The key of an attachment that the file has.
    pub fn key(&self, name: &str) -> Option<&str> {
        self.keys.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str())
    }

    /// The attachment keys of the file that `own` does not have.
    pub(super) fn others<'n>(
        &'n self,
        own: &[(&'static Key, String)],
    ) -> impl Iterator<Item = (&'static Key, String)> + 'n {
        let own: Vec<&str> = own.iter().map(|(key, _)| key.name).collect();
        self.keys.iter().filter_map(move |(name, value)| {
            let key = crate::attachment::keys::find(name)?;
            (!own.contains(name)).then(|| (key, value.clone()))
        })
    }
}

/// Bytes of a file.
const MAX_FILE: u64 = 64 * 1024;

/// Why a network cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// There is none of this name.
    #[error("there is no such network; {hint}")]
    Unknown {
        /// What would be right.
        hint: String,
    },
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why; also that somebody else than root could have written it.
        source: io::Error,
    },
    /// The file has a mistake.
    #[error("{path}: line {}: {}", problem.line, problem.message)]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The first mistake.
        problem: Problem,
    },
    /// mcrun.toml, which names the default network.
    #[error(transparent)]
    Admin(#[from] AdminError),
}

/// The networks of a configuration directory.
#[derive(Debug, Clone)]
pub struct Networks {
    directory: PathBuf,
}

impl Networks {
    /// Those of this configuration directory. Nothing is read yet.
    pub fn of(config_dir: impl Into<PathBuf>) -> Self {
        Networks { directory: config_dir.into() }
    }

    /// The file of a network.
    pub fn path(&self, name: &NetworkName) -> PathBuf {
        self.files().join(format!("{name}.toml"))
    }

    /// The directory of the files.
    pub fn files(&self) -> PathBuf {
        self.directory.join("networks")
    }

    /// Reads a network.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub fn read(&self, name: &NetworkName) -> Result<Network, NetworkError> {
        let path = self.path(name);
        let text = match trusted::read_file(&path, MAX_FILE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(NetworkError::Unknown { hint: self.hint(name) });
            }
            read => read.map_err(|source| NetworkError::Read { path: path.clone(), source })?,
        };
        self.check_directory()?;
        let first = |mut problems: Vec<Problem>| NetworkError::Syntax {
            path,
            problem: problems.swap_remove(0),
        };
        Network::parse(&text).map_err(first)
    }

    /// The name servers of the network of an attachment; none where it has no network, or the file has
    /// gone meanwhile.
    pub fn name_servers(&self, attachment: &Attachment) -> Vec<IpAddr> {
        let network = attachment.network.as_ref().and_then(|used| self.read(&used.name).ok());
        network.map(|network| network.name_servers).unwrap_or_default()
    }

    /// Checks that nobody except root can make networks. A directory that is not there has none.
    ///
    /// # Errors
    /// [`NetworkError::Read`], which names the directory.
    pub fn check_directory(&self) -> Result<(), NetworkError> {
        let path = self.files();
        match trusted::check_directory(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            checked => checked.map_err(|source| NetworkError::Read { path, source }),
        }
    }

    /// Everything that is wrong with a file. The owner and the permission bits count where the file
    /// is one of these networks.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn problems(&self, path: &Path) -> Result<Vec<Problem>, NetworkError> {
        let is_in_force = path.parent() == Some(&self.files());
        if is_in_force {
            self.check_directory()?;
        }
        let text = match is_in_force {
            true => trusted::read_file(path, MAX_FILE),
            false => fs::read_to_string(path),
        };
        let text = text.map_err(|source| NetworkError::Read { path: path.to_owned(), source })?;
        Ok(Network::parse(&text).err().unwrap_or_default())
    }

    /// The network of attachments that name neither a network nor a parent, if mcrun.toml names one.
    ///
    /// # Errors
    /// When mcrun.toml is there and cannot be read or understood.
    pub fn default_name(&self) -> Result<Option<NetworkName>, NetworkError> {
        Ok(AdminConfig::read(&self.directory)?.default_network().cloned())
    }

    /// The names of all networks, sorted. Files of other names are none.
    ///
    /// # Errors
    /// That of readdir(3); a directory that does not exist is empty.
    pub fn names(&self) -> Result<Vec<NetworkName>, NetworkError> {
        let path = self.files();
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(NetworkError::Read { path, source }),
        };
        let name = |file: fs::DirEntry| {
            file.file_name().to_str()?.strip_suffix(".toml")?.parse::<NetworkName>().ok()
        };
        let mut names: Vec<_> = entries.flatten().filter_map(name).collect();
        names.sort();
        Ok(names)
    }

    fn hint(&self, name: &NetworkName) -> String {
        let names = self.names().unwrap_or_default();
        match nearest(name.as_str(), names.iter().map(NetworkName::as_str)) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("mcrun network create {name} makes one"),
        }
    }
}

#[cfg(test)]
mod tests;
