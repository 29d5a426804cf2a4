//! `mcrun setup`: writes mcrun into the configuration of container engines, and removes it again.
//!
//! An engine that reads a directory of files gets a file of mcrun's own. An engine that reads one
//! file gets an entry in that file; every other byte stays. All new content is computed before
//! the first file is written.

mod containerd;
mod docker;
mod files;
mod podman;

use std::io;
use std::path::{Path, PathBuf};

use crate::setup::files::Edit;
pub use crate::setup::files::{Change, Outcome};

/// An engine, or a device interface of several engines, that mcrun can be set up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum SetupTarget {
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

/// Why the configuration was not changed.
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
    /// The content of a file does not allow the change.
    #[error("{path}: {message}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what would be right.
        message: String,
    },
    /// One of mcrun's programs is not beside the running one, or its path cannot be written into
    /// a configuration file.
    #[error("{0}")]
    Program(String),
}

/// The configuration files below one root directory.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Directory that stands for `/`.
    root: PathBuf,
    /// The directory of mcrun's programs, as it is written into files.
    programs: String,
}

/// The directory of the programs as the files in `hooks/` have it.
const DELIVERED: &str = "/usr/local/bin";

/// dockerd's configuration.
const DAEMON_JSON: &str = "/etc/docker/daemon.json";
/// What mcrun-runtime knows of engines.
const ENGINE_FACTS: &str = "/etc/mcrun/engines.toml";

impl Setup {
    /// A setup of the programs beside the running one, in the tree below `root`.
    ///
    /// # Errors
    /// When mcrun-hook or mcrun-runtime is not there, or the path cannot be written into a
    /// configuration file.
    pub fn new(root: &Path) -> Result<Self, SetupError> {
        let own = std::env::current_exe().map_err(|error| {
            SetupError::Program(format!(
                "cannot read the path of the running mcrun, /proc/self/exe: {error}"
            ))
        })?;
        for name in ["mcrun-hook", "mcrun-runtime"] {
            let path = own.with_file_name(name);
            if !path.is_file() {
                let message = format!(
                    "{} is missing; install {name} into the directory of mcrun",
                    path.display()
                );
                return Err(SetupError::Program(message));
            }
        }
        let directory = own.parent().unwrap_or(Path::new("/"));
        let plain = |c: char| !c.is_control() && !matches!(c, '"' | '\\');
        match directory.to_str().filter(|text| text.chars().all(plain)) {
            Some(programs) => Ok(Setup { root: root.to_owned(), programs: programs.to_owned() }),
            None => Err(SetupError::Program(format!(
                "{:?}: the path of mcrun's directory must be UTF-8 without quotes, backslashes and \
                 control characters; install mcrun elsewhere",
                directory
            ))),
        }
    }

    /// What would be written: the files with their whole new content.
    ///
    /// # Errors
    /// When a file that is there cannot be read, or cannot take what is to be added.
    pub fn preview(&self, target: SetupTarget) -> Result<Vec<(PathBuf, String)>, SetupError> {
        let planned = self.plan(target, false)?.into_iter();
        planned
            .map(|(path, edit)| {
                let content = files::preview(&self.at(path), &edit)?;
                Ok((PathBuf::from(path), content))
            })
            .collect()
    }

    /// Whether the configuration of a target is as [`Setup::apply`] would leave it. For docker only
    /// dockerd's own file is looked at. Nothing is run.
    ///
    /// # Errors
    /// As [`Setup::preview`].
    pub fn is_done(&self, target: SetupTarget) -> Result<bool, SetupError> {
        // The other file of docker has dockerd's version, which dockerd would have to be asked for.
        let is_docker = target == SetupTarget::Docker;
        let planned = self.plan(target, is_docker)?.into_iter();
        for (path, edit) in planned.take(if is_docker { 1 } else { usize::MAX }) {
            if !files::is_applied(&self.at(path), &edit)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Writes the files. Files that are as they should be are not written.
    ///
    /// # Errors
    /// As [`Setup::preview`], and when something cannot be written.
    pub fn apply(&self, target: SetupTarget) -> Result<Vec<Change>, SetupError> {
        let planned = self.plan(target, false)?;
        // Every file is read and checked before the first is written.
        for (path, edit) in &planned {
            files::preview(&self.at(path), edit)?;
        }
        planned.iter().map(|(path, edit)| files::apply(&self.at(path), edit)).collect()
    }

    /// Removes what [`Setup::apply`] wrote.
    ///
    /// # Errors
    /// When something cannot be read or written.
    pub fn remove(&self, target: SetupTarget) -> Result<Vec<Change>, SetupError> {
        let planned = self.plan(target, true)?.into_iter();
        planned.map(|(path, edit)| files::remove(&self.at(path), &edit)).collect()
    }

    /// The files below `root` that have something of mcrun's, whoever's programs they name. What cannot
    /// be read or understood has nothing.
    pub fn changed(root: &Path, target: SetupTarget) -> Vec<PathBuf> {
        // What is looked for does not depend on where the programs are.
        let setup = Setup { root: root.to_owned(), programs: DELIVERED.to_owned() };
        let planned = setup.plan(target, true).unwrap_or_default().into_iter();
        let files = planned.map(|(path, edit)| (setup.at(path), edit));
        files.filter(|(path, edit)| files::has_part(path, edit)).map(|(path, _)| path).collect()
    }

    /// Sends SIGHUP to dockerd, which then reads its list of runtimes again. Returns its process
    /// id.
    ///
    /// # Errors
    /// When the pid file /run/docker.pid cannot be read, or names no dockerd.
    pub fn reload_docker(&self) -> Result<i32, SetupError> {
        docker::reload(&self.at("/run/docker.pid"))
    }

    /// What keeps the installed docker from the devices of [`SetupTarget::Cdi`], in one line. `None`
    /// where nothing does, and where no docker is installed.
    pub fn docker_without_devices(&self) -> Option<String> {
        docker::without_devices(&self.at(DAEMON_JSON))
    }

    /// The files of a target. With `all` also those that the present configuration does not need.
    fn plan(
        &self,
        target: SetupTarget,
        all: bool,
    ) -> Result<Vec<(&'static str, Edit)>, SetupError> {
        let whole = |text: &str| Edit::Whole(text.replace(DELIVERED, &self.programs));
        Ok(match target {
            SetupTarget::Docker => {
                let mut files = vec![(DAEMON_JSON, docker::edit(&self.programs))];
                let facts = match all {
                    // What is removed needs no content.
                    true => Some(Edit::Whole(String::new())),
                    false => docker::facts(DAEMON_JSON),
                };
                files.extend(facts.map(|edit| (ENGINE_FACTS, edit)));
                files
            }
            SetupTarget::Containerd => {
                vec![("/etc/containerd/config.toml", containerd::edit(&self.programs))]
            }
            SetupTarget::Crio => vec![(
                "/etc/crio/crio.conf.d/99-mcrun.conf",
                whole(include_str!("../../hooks/crio/99-mcrun.conf")),
            )],
            SetupTarget::Cdi => {
                vec![("/etc/cdi/mcrun.yaml", whole(include_str!("../../hooks/cdi/mcrun.yaml")))]
            }
            SetupTarget::Podman => {
                let mut files = vec![
                    (
                        "/etc/containers/oci/hooks.d/mcrun-createRuntime.json",
                        whole(include_str!("../../hooks/mcrun-createRuntime.json")),
                    ),
                    (
                        "/etc/containers/oci/hooks.d/mcrun-poststart.json",
                        whole(include_str!("../../hooks/mcrun-poststart.json")),
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

/// An error about the content of a file.
fn content(path: &Path) -> impl Fn(String) -> SetupError {
    move |message| SetupError::Content { path: path.to_owned(), message }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn files_that_have_something_of_mcrun_are_known_whatever_programs_they_name() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            path
        };
        let changed = |target| Setup::changed(root.path(), target);
        let daemon =
            r#"{"runtimes": {"mcrun": {"path": "/opt/old/mcrun-runtime"}}, "debug": true}"#;
        let daemon = write("etc/docker/daemon.json", daemon);
        assert_eq!(changed(SetupTarget::Docker), [daemon]);
        write("etc/docker/daemon.json", r#"{"debug": true}"#);
        assert_eq!(changed(SetupTarget::Docker), Vec::<PathBuf>::new());
        write("etc/docker/daemon.json", "no JSON");
        assert_eq!(changed(SetupTarget::Docker), Vec::<PathBuf>::new());
        let device = write("etc/cdi/mcrun.yaml", include_str!("../../hooks/cdi/mcrun.yaml"));
        assert_eq!(changed(SetupTarget::Cdi), [device]);
        assert_eq!(changed(SetupTarget::Crio), Vec::<PathBuf>::new());
    }
}
