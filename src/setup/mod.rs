//! `mcrun setup`: tells container engines of mcrun, and takes it back.
//!
//! What an engine reads in pieces gets a file of ours; what it reads from one file is changed in
//! one place. Everything is computed before anything is written.

mod containerd;
mod docker;
mod files;
mod podman;

use std::io;
use std::path::{Path, PathBuf};

use crate::setup::files::Edit;
pub use crate::setup::files::{Change, Outcome};

/// What mcrun can be set up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Target {
    /// dockerd: the runtime "mcrun".
    Docker,
    /// podman: hooks for containers with the annotation.
    Podman,
    /// containerd's CRI plugin: the runtime handler "mcrun".
    Containerd,
    /// CRI-O: the runtime handler "mcrun".
    Crio,
    /// Engines with the Container Device Interface: the device mcrun.io/mcast=hook.
    Cdi,
}

/// Why a setup was not made.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A file cannot be read or written.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{path}: {message}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// One of mcrun's programs is not where it is needed.
    #[error("{0}")]
    Program(String),
}

/// Where things are.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Directory that stands for `/`.
    root: PathBuf,
    /// The directory of mcrun's programs, as it is written into files.
    programs: String,
}

/// The directory of the programs in the files that are delivered in `hooks/`.
const DELIVERED: &str = "/usr/local/bin";

impl Setup {
    /// A setup of the programs beside the running one, in the tree below `root`.
    ///
    /// # Errors
    /// When mcrun-hook or mcrun-runtime is not there, or the path cannot be written into a
    /// configuration file.
    pub fn new(root: &Path) -> Result<Self, SetupError> {
        let own = std::env::current_exe().map_err(|error| {
            SetupError::Program(format!("cannot find mcrun's own path: {error}"))
        })?;
        for name in ["mcrun-hook", "mcrun-runtime"] {
            let path = own.with_file_name(name);
            if !path.is_file() {
                let message = format!("{} is missing: install it beside mcrun", path.display());
                return Err(SetupError::Program(message));
            }
        }
        let directory = own.parent().unwrap_or(Path::new("/"));
        let plain = |c: char| !c.is_control() && !matches!(c, '"' | '\\');
        match directory.to_str().filter(|text| text.chars().all(plain)) {
            Some(programs) => Ok(Setup { root: root.to_owned(), programs: programs.to_owned() }),
            None => Err(SetupError::Program(format!(
                "{}: install mcrun in a directory whose name needs no quoting",
                directory.display()
            ))),
        }
    }

    /// What would be written: the files with their whole new content.
    ///
    /// # Errors
    /// When a file that is there cannot be read, or cannot take what is to be added.
    pub fn preview(&self, target: Target) -> Result<Vec<(PathBuf, String)>, SetupError> {
        let planned = self.plan(target, false)?.into_iter();
        planned
            .map(|(path, edit)| {
                let content = files::preview(&self.at(path), &edit)?;
                Ok((PathBuf::from(path), content))
            })
            .collect()
    }

    /// Writes what is missing. A second time there is nothing to do.
    ///
    /// # Errors
    /// As [`Setup::preview`], and when something cannot be written.
    pub fn apply(&self, target: Target) -> Result<Vec<Change>, SetupError> {
        // All that can be wrong with what is there shows before anything is written.
        self.preview(target)?;
        let planned = self.plan(target, false)?.into_iter();
        planned.map(|(path, edit)| files::apply(&self.at(path), &edit)).collect()
    }

    /// Takes back what [`Setup::apply`] wrote.
    ///
    /// # Errors
    /// When something cannot be read or written.
    pub fn remove(&self, target: Target) -> Result<Vec<Change>, SetupError> {
        let planned = self.plan(target, true)?.into_iter();
        planned.map(|(path, edit)| files::remove(&self.at(path), &edit)).collect()
    }

    /// Sends dockerd SIGHUP, upon which it reads its runtimes anew.
    ///
    /// # Errors
    /// When there is no dockerd, as its pid file tells.
    pub fn reload_docker(&self) -> Result<i32, SetupError> {
        docker::reload(&self.at("/run/docker.pid"))
    }

    /// The files of a target; `all` also those that are not needed as things stand.
    fn plan(&self, target: Target, all: bool) -> Result<Vec<(&'static str, Edit)>, SetupError> {
        let whole = |text: &str| Edit::Whole(text.replace(DELIVERED, &self.programs));
        Ok(match target {
            Target::Docker => vec![("/etc/docker/daemon.json", docker::edit(&self.programs))],
            Target::Containerd => {
                vec![("/etc/containerd/config.toml", containerd::edit(&self.programs))]
            }
            Target::Crio => vec![(
                "/etc/crio/crio.conf.d/99-mcrun.conf",
                whole(include_str!("../../hooks/crio/99-mcrun.conf")),
            )],
            Target::Cdi => {
                vec![("/etc/cdi/mcrun.yaml", whole(include_str!("../../hooks/cdi/mcrun.yaml")))]
            }
            Target::Podman => {
                let mut files = vec![
                    (
                        "/etc/containers/oci/hooks.d/mcrun-createRuntime.json",
                        whole(include_str!("../../hooks/mcrun-createRuntime.json")),
                    ),
                    (
                        "/etc/containers/oci/hooks.d/mcrun-poststop.json",
                        whole(include_str!("../../hooks/mcrun-poststop.json")),
                    ),
                ];
                let drop_in = podman::drop_in(&self.root)?.or_else(|| all.then(String::new));
                files
                    .extend(drop_in.map(|text| {
                        ("/etc/containers/containers.conf.d/mcrun.conf", whole(&text))
                    }));
                files
            }
        })
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }
}

/// Text that somebody else wrote: a reason for refusing it.
fn content(path: &Path) -> impl Fn(String) -> SetupError {
    move |message| SetupError::Content { path: path.to_owned(), message }
}
