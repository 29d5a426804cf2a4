//! The containers that `mcrun run --rootfs` made: one directory each, in the state directory.
//!
//! ```text
//! bundles/ID/            mode 0700; making it claims the id
//!   config.json          what the runtime was given
//!   container.json       what mcrun knows of it
//!   pid                  written by the runtime
//!   runtime.log          its log
//!   output.log           output of a detached container; output.log.1 is the file before it
//! ```

use std::io;
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::oci::ConfigDocument;
use crate::standalone::StandaloneError;
use crate::standalone::runtime::Runtime;
use crate::state::Store;
use crate::sys::files;
use crate::sys::files::Replacement;
use crate::sys::process::ProcessRef;

/// What `container.json` holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// The id, which is also its name.
    pub id: String,
    /// The runtime that holds it, by absolute path.
    #[serde(alias = "engine")]
    pub runtime: Runtime,
    /// Its root filesystem.
    pub rootfs: PathBuf,
    /// The bundle it was made from, with `--bundle`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<PathBuf>,
    /// What it asked for with `--mcast`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mcast: Vec<String>,
    /// The command.
    pub command: Vec<String>,
    /// Seconds since 1970-01-01 UTC.
    pub created: u64,
    /// Runs without a client (`-d`).
    pub detached: bool,
    /// Goes when it ends.
    pub remove: bool,
    /// The hook that was put into config.json.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<PathBuf>,
    /// The cgroup made for it, relative to the hierarchies' roots; absent when config.json of a
    /// bundle named its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// The process that waits for it.
    #[serde(alias = "supervisor")]
    pub shim: ProcessRef,
    /// Its init; absent until it is created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<ProcessRef>,
    /// The exit status of a stopped container: its code, or 128 + signal. Absent while it runs,
    /// and when its shim was killed before it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_status: Option<i32>,
    /// When it stopped, in seconds since 1970-01-01 UTC; as [`ContainerRecord::exit_status`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<u64>,
}

/// What a container does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainerState {
    /// It is being made: its shim runs, its command does not yet.
    Starting,
    /// Its init runs.
    Running,
    /// It has ended and waits for `mcrun rm`.
    Stopped,
    /// It has ended after its shim was killed, so that nobody knows how.
    Lost,
}

impl ContainerState {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            ContainerState::Starting => "starting",
            ContainerState::Running => "running",
            ContainerState::Stopped => "stopped",
            ContainerState::Lost => "lost",
        }
    }
}

/// Now, in seconds since 1970-01-01 UTC.
pub(super) fn seconds_since_epoch() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl ContainerRecord {
    /// Whether its init runs.
    pub fn is_running(&self) -> bool {
        self.init.is_some_and(ProcessRef::is_alive)
    }

    /// Whether it has ended after its shim was killed, so that its status is unknown.
    pub fn is_abandoned(&self) -> bool {
        !self.shim.is_alive() && !self.is_running() && self.exit_status.is_none()
    }

    /// What it does now.
    pub fn state(&self) -> ContainerState {
        if self.exit_status.is_some() {
            ContainerState::Stopped
        } else if self.is_running() {
            ContainerState::Running
        } else if self.shim.is_alive() && self.init.is_none() {
            ContainerState::Starting
        } else if self.shim.is_alive() {
            // Its shim is about to write how it ended.
            ContainerState::Stopped
        } else {
            ContainerState::Lost
        }
    }
}

/// The directory of a container.
#[derive(Debug, Clone)]
pub struct Container {
    dir: PathBuf,
}

impl Container {
    /// Makes the directory of `id`, which nobody else has then.
    ///
    /// # Errors
    /// When a container of this name exists, or the state directory cannot be written.
    pub(super) fn claim(id: &str) -> Result<Self, StandaloneError> {
        Store::from_env().make().map_err(StandaloneError::new)?;
        let bundles = bundles_dir();
        let failed = |dir: &Path, error: io::Error| {
            StandaloneError::new(format_args!("cannot create {}: {error}", dir.display()))
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&bundles)
            .map_err(|error| failed(&bundles, error))?;
        let dir = bundles.join(id);
        std::fs::DirBuilder::new().mode(0o700).create(&dir).map_err(|error| {
            match error.kind() {
                io::ErrorKind::AlreadyExists => in_use(&Container { dir: dir.clone() }),
                _ => failed(&dir, error),
            }
        })?;
        Ok(Container { dir })
    }

    /// Where the container of this id is, or would be.
    pub(super) fn path_for(id: &str) -> PathBuf {
        bundles_dir().join(id)
    }

    /// All containers, by id.
    pub fn list() -> Vec<Container> {
        // Commands check the state directory first, and tell.
        if !Store::from_env().check().is_ok_and(|exists| exists) {
            return Vec::new();
        }
        let Ok(entries) = std::fs::read_dir(bundles_dir()) else { return Vec::new() };
        let directories = entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
        let mut all: Vec<_> = directories.map(|e| Container { dir: e.path() }).collect();
        all.sort_by(|a, b| a.dir.cmp(&b.dir));
        all
    }

    /// The id.
    pub fn id(&self) -> &str {
        self.dir.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }

    /// Its directory, which is the bundle the runtime was given.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn log(&self) -> PathBuf {
        self.dir.join("runtime.log")
    }

    /// Where crun puts the words of hooks.
    pub(super) fn hook_log(&self) -> PathBuf {
        self.dir.join("hook.log")
    }

    pub(super) fn pid_file(&self) -> PathBuf {
        self.dir.join("pid")
    }

    /// What is known of it; `None` while it is being made, or when that was interrupted.
    pub fn record(&self) -> Option<ContainerRecord> {
        let mut text = String::new();
        let file = std::fs::File::open(self.dir.join("container.json")).ok()?;
        file.take(1 << 20).read_to_string(&mut text).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Whether it was made longer ago than this; `false` when that cannot be told.
    pub(super) fn is_older_than(&self, age: Duration) -> bool {
        let modified = std::fs::metadata(&self.dir).and_then(|meta| meta.modified());
        modified.is_ok_and(|at| at.elapsed().is_ok_and(|elapsed| elapsed > age))
    }

    /// Writes what is known of it, atomically.
    pub(super) fn write_record(&self, record: &ContainerRecord) -> io::Result<()> {
        self.write("container.json", &serde_json::to_vec_pretty(record)?)
    }

    /// Writes config.json.
    pub(super) fn write_config(&self, config: &ConfigDocument) -> io::Result<()> {
        self.write("config.json", &serde_json::to_vec_pretty(config)?)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        files::replace(&self.dir.join(name), bytes, Replacement::PRIVATE)
    }

    /// The pid the runtime wrote.
    pub(super) fn read_pid(&self) -> Option<i32> {
        std::fs::read_to_string(self.pid_file()).ok()?.trim().parse().ok().filter(|pid| *pid > 0)
    }

    /// Makes the directory anew when it is lost.
    pub(super) fn make_dir(&self) -> io::Result<()> {
        Store::from_env().make().map_err(io::Error::other)?;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)
    }

    /// Removes the directory; gone already is fine.
    pub(super) fn remove_dir(&self) -> io::Result<()> {
        match std::fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Why a name cannot be had, and what frees it.
fn in_use(container: &Container) -> StandaloneError {
    let id = container.id();
    let record = container.record();
    match record.map(|record| (record.state(), record.exit_status)) {
        Some((ContainerState::Stopped, Some(status))) => StandaloneError::new(format_args!(
            "container {id} exists and has stopped with status {status}; mcrun rm {id} removes it"
        )),
        Some((ContainerState::Stopped | ContainerState::Lost, _)) => StandaloneError::new(
            format_args!("container {id} exists and has stopped; mcrun rm {id} removes it"),
        ),
        _ => StandaloneError::new(format_args!(
            "container {id} exists and runs; mcrun rm -f {id} removes it, or choose another name"
        )),
    }
}

fn bundles_dir() -> PathBuf {
    let dir = crate::state::state_dir().join("bundles");
    std::path::absolute(&dir).unwrap_or(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_the_version_before_is_read() {
        let text = r#"{
            "id": "mcrun-1", "engine": "/usr/bin/runc", "rootfs": "/srv/r", "command": ["sh"],
            "created": 1700000000, "detached": true, "remove": false, "cgroup": "/mcrun-mcrun-1",
            "supervisor": { "pid": 10, "start": 5 }, "init": { "pid": 11, "start": 6 }
        }"#;
        let record: ContainerRecord = serde_json::from_str(text).unwrap();
        assert_eq!(record.runtime.name(), "runc");
        assert_eq!((record.shim.pid, record.init.unwrap().pid), (10, 11));
        assert_eq!(record.exit_status, None);
    }
}
