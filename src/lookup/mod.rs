//! Finding a running container, whatever runs it, by name, id or process.
//!
//! No engine is asked: what holds a container says on its own command line which one it is (containerd's
//! shim, which is also docker's, nerdctl's and Kubernetes'; conmon, which is podman's and CRI-O's), and the
//! files beside it hold the rest. So a container is found while its daemon is down, and wherever the daemon
//! keeps its state. Only runc, crun and youki leave no process behind; they are asked.

mod monitors;
mod name;
mod process;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::oci::{ContainerId, ContainerState};
use crate::standalone;
use crate::state::Store;

pub use crate::lookup::name::engine_name;

/// A running container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningContainer {
    /// Its full id.
    pub id: ContainerId,
    /// Its init, or the process that was asked for.
    pub pid: i32,
    /// Its bundle, where there is one.
    pub bundle: Option<PathBuf>,
}

/// Why a container was not found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// There is none.
    #[error(
        "no such running container: {0} (a name, an id or a process of docker, podman, containerd, runc, \
         crun or youki)"
    )]
    None(String),
    /// There are several.
    #[error("{wanted:?} is the name or the beginning of the id of several containers: {ids}")]
    Several {
        /// What was asked for.
        wanted: String,
        /// What was found, separated by spaces.
        ids: String,
    },
}

/// Runtimes that are asked for the state of a container.
const RUNTIMES: [&str; 3] = ["runc", "crun", "youki"];

/// Finds a container: by its full id, its name, a unique beginning of its id of at least two characters,
/// or the number of one of its processes.
///
/// # Errors
/// When there is none, or several.
pub fn find(wanted: &str, store: &Store) -> Result<RunningContainer, LookupError> {
    let monitored = monitors::all();
    let mut known: BTreeMap<ContainerId, Candidate> = BTreeMap::new();
    for candidate in
        recorded(store).chain(own()).chain(monitored.into_iter().map(Candidate::monitored))
    {
        known.entry(candidate.found.id.clone()).or_insert(candidate);
    }
    let known: Vec<_> = known.into_values().collect();
    if let Some(found) = select(wanted, &known)? {
        return Ok(found);
    }
    let missing =
        || LookupError::None(wanted.chars().filter(|c| !c.is_control()).take(140).collect());
    if let Ok(id) = ContainerId::try_from(wanted.to_owned())
        && let Some(found) = RUNTIMES.iter().find_map(|runtime| of_runtime(runtime, &id))
    {
        return Ok(found);
    }
    let pid: i32 = wanted.parse().map_err(|_| missing())?;
    let found = process::find(pid).ok_or_else(missing)?;
    // What is known by its id is better known than by a process.
    let same = known.into_iter().find(|c| c.found.id == found.id || c.found.pid == found.pid);
    Ok(same.map_or(found, |candidate| candidate.found))
}

/// A container, and the names it may be asked for by.
#[derive(Debug, Clone)]
struct Candidate {
    found: RunningContainer,
    names: Vec<String>,
}

impl Candidate {
    fn monitored(found: RunningContainer) -> Self {
        let names = engine_name(found.id.as_str(), found.bundle.as_deref()).into_iter().collect();
        Candidate { found, names }
    }
}

fn select(wanted: &str, known: &[Candidate]) -> Result<Option<RunningContainer>, LookupError> {
    let exact =
        |c: &&Candidate| c.found.id.as_str() == wanted || c.names.iter().any(|n| n == wanted);
    let begins = |c: &&Candidate| wanted.len() >= 2 && c.found.id.as_str().starts_with(wanted);
    let mut found: Vec<_> = known.iter().filter(exact).collect();
    if found.is_empty() {
        found = known.iter().filter(begins).collect();
    }
    match found.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one.found.clone())),
        several => Err(LookupError::Several {
            wanted: wanted.to_owned(),
            ids: several.iter().map(|c| c.found.id.as_str()).collect::<Vec<_>>().join(" "),
        }),
    }
}

/// The containers that are attached already and that have a process.
fn recorded(store: &Store) -> impl Iterator<Item = Candidate> {
    let ids = store.list().unwrap_or_default();
    let records: Vec<_> = ids.iter().filter_map(|id| store.read(id).ok()?).collect();
    records.into_iter().filter_map(|record| {
        let container = record.container();
        let init = container.lifetime.process().filter(|init| init.is_alive())?;
        let engine = engine_name(container.id.as_str(), container.bundle.as_deref());
        Some(Candidate {
            names: [Some(container.name.clone()), engine].into_iter().flatten().collect(),
            found: RunningContainer {
                id: container.id.clone(),
                pid: init.pid,
                bundle: container.bundle.clone(),
            },
        })
    })
}

/// The containers of `mcrun run --rootfs`.
fn own() -> impl Iterator<Item = Candidate> {
    standalone::Container::list().into_iter().filter_map(|container| {
        let record = container.record()?;
        let init = record.init.filter(|init| init.is_alive())?;
        let bundle = Some(container.dir().to_owned());
        let found = RunningContainer { id: record.id.try_into().ok()?, pid: init.pid, bundle };
        Some(Candidate { found, names: Vec::new() })
    })
}

/// A container that a runtime was told to make by hand, from the runtime's own state.
fn of_runtime(runtime: &str, id: &ContainerId) -> Option<RunningContainer> {
    let output = Command::new(runtime)
        .args(["state", id.as_str()])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let state = ContainerState::parse(&output.stdout).ok()?;
    // A stopped one has no process, or 0.
    let pid = state.pid.filter(|_| output.status.success())?;
    Some(RunningContainer { id: state.id, pid, bundle: state.bundle })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(id: &str, name: &str) -> Candidate {
        let found =
            RunningContainer { id: id.to_owned().try_into().unwrap(), pid: 1, bundle: None };
        Candidate { found, names: vec![name.to_owned()] }
    }

    #[test]
    fn a_name_an_id_and_a_unique_beginning_select() {
        let known =
            [candidate("aa11", "cam"), candidate("aa22", "mic"), candidate("bb33", "aa11x")];
        let id = |wanted| select(wanted, &known).map(|f| f.map(|f| String::from(f.id)));
        assert_eq!(id("cam"), Ok(Some("aa11".into())));
        assert_eq!(id("aa22"), Ok(Some("aa22".into())));
        assert_eq!(id("bb"), Ok(Some("bb33".into())));
        assert_eq!(id("b"), Ok(None));
        assert_eq!(id(""), Ok(None));
        let error = id("aa").unwrap_err().to_string();
        assert!(error.ends_with("of several containers: aa11 aa22"), "{error}");
    }

    #[test]
    fn what_is_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = find("no-such\u{1b}thing", &Store::at(dir.path())).unwrap_err().to_string();
        assert!(error.starts_with("no such running container: no-suchthing ("), "{error}");
        let error = find("2147483647", &Store::at(dir.path())).unwrap_err();
        assert_eq!(error, LookupError::None("2147483647".into()));
    }
}
