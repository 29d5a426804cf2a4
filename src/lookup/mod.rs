//! Finding a container, whatever runs it, by name, id or process.
//!
//! No engine is asked. The process that monitors a container names it on its command line:
//! containerd's shim, which docker, nerdctl and Kubernetes use too, or conmon, which podman and
//! CRI-O use. The files beside the bundle hold the rest. So a container is found while its daemon
//! is down, and wherever the daemon keeps its state. The monitors of LXC and Incus are found in the
//! same way, machines of systemd-nspawn by systemd's files. Only runc, crun and youki leave no
//! process behind; they are asked.

mod engine;
mod lxc;
mod monitors;
mod name;
mod nspawn;
mod process;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::oci::{ContainerId, ContainerState};
use crate::standalone;
use crate::state::Store;

pub use crate::lookup::engine::ContainerEngine;
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
    /// What its engine calls it, where there is no bundle.
    machine: Option<Machine>,
}

impl RunningContainer {
    /// Its name where no bundle tells it: that of a container of LXC or Incus, or of a machine of
    /// systemd-nspawn.
    pub fn name(&self) -> Option<&str> {
        self.machine.as_ref().map(|machine| machine.name.as_str())
    }

    fn engine(&self) -> ContainerEngine {
        match &self.machine {
            Some(machine) => machine.engine,
            None => ContainerEngine::of(self.id.as_str(), self.bundle.as_deref()),
        }
    }
}

/// A container that has a name and no id.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Machine {
    engine: ContainerEngine,
    name: String,
}

impl Machine {
    /// It as a container, which gets an id made of its engine and its name; `None` where that cannot
    /// be an id.
    fn running(self, init: i32) -> Option<RunningContainer> {
        let id = ContainerId::try_from(format!("{}-{}", self.engine.prefix(), self.name)).ok()?;
        Some(RunningContainer { id, pid: init, bundle: None, machine: Some(self) })
    }
}

/// Why a container was not found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// There is none.
    #[error("no such container: {0}")]
    None(String),
    /// None of the engine that was named.
    #[error("no such container of {engine}: {wanted}")]
    NoneOfEngine {
        /// What was asked for.
        wanted: String,
        /// The engine, as it was named.
        engine: String,
    },
    /// There are several.
    #[error("{wanted:?} is the name or the beginning of the id of several containers: {ids}")]
    Several {
        /// What was asked for.
        wanted: String,
        /// What was found, separated by spaces.
        ids: String,
    },
    /// It has stopped.
    #[error("container {0} is not running")]
    Stopped(String),
    /// It runs, but is attached to no LAN.
    #[error("container {0} is not attached to a LAN; mcrun attach attaches it")]
    NotAttached(String),
    /// `mcrun run` did not start it, so that mcrun does not manage it.
    #[error("container {container}: {advice}")]
    OtherEngine {
        /// What was asked for.
        container: String,
        /// Whose it is, and what to type.
        advice: String,
    },
}

/// Runtimes that are asked for the state of a container.
const RUNTIMES: [&str; 3] = ["runc", "crun", "youki"];

/// A container by what it may be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// Its full id.
    pub id: String,
    /// Its names, in which it is looked for as in the id.
    pub names: Vec<String>,
}

/// Selects a container by its full id, a name, or a unique beginning of its id of at least two
/// characters; of an id that mcrun generated the prefix `mcrun-` may be left out.
///
/// Returns its position; `None` when there is none.
///
/// # Errors
/// [`LookupError::Several`].
pub fn select<'a>(
    wanted: &str,
    known: impl IntoIterator<Item = &'a Names>,
) -> Result<Option<usize>, LookupError> {
    let (mut exact, mut beginning) = (Vec::new(), Vec::new());
    for (position, names) in known.into_iter().enumerate() {
        let id = names.id.as_str();
        let generated = id.strip_prefix(standalone::GENERATED_PREFIX).unwrap_or(id);
        if id == wanted || names.names.iter().any(|name| name == wanted) {
            exact.push((position, id));
        } else if wanted.len() >= 2 && (id.starts_with(wanted) || generated.starts_with(wanted)) {
            beginning.push((position, id));
        }
    }
    let found = if exact.is_empty() { beginning } else { exact };
    match found.as_slice() {
        [] => Ok(None),
        [(position, _)] => Ok(Some(*position)),
        several => Err(LookupError::Several {
            wanted: printable(wanted),
            ids: several.iter().map(|(_, id)| *id).collect::<Vec<_>>().join(" "),
        }),
    }
}

/// Finds a running container of any engine: as [`select`] does, or by the number of one of its
/// processes.
///
/// # Errors
/// When there is none, several, or one that has stopped.
pub fn find(wanted: &str, store: &Store) -> Result<RunningContainer, LookupError> {
    let mut known = running(store);
    if let Some(position) = select(wanted, known.iter().map(|c| &c.names))? {
        return Ok(known.swap_remove(position).found);
    }
    if let Ok(id) = ContainerId::try_from(wanted.to_owned())
        && let Some(found) = RUNTIMES.iter().find_map(|runtime| of_runtime(runtime, &id))
    {
        return Ok(found);
    }
    if let Some(stopped) = select_standalone(wanted)? {
        return Err(LookupError::Stopped(stopped.id().to_owned()));
    }
    let missing = || LookupError::None(printable(wanted));
    let pid: i32 = wanted.parse().map_err(|_| missing())?;
    let found = process::find(pid).ok_or_else(missing)?;
    // What is known by its id is better known than by a process.
    let same = known.into_iter().find(|c| c.found.id == found.id || c.found.pid == found.pid);
    Ok(same.map_or(found, |candidate| candidate.found))
}

/// As [`find`], among the containers of one engine, or of the OCI runtimes.
///
/// # Errors
/// As there.
pub fn find_of(
    engine: ContainerEngine,
    wanted: &str,
    store: &Store,
) -> Result<RunningContainer, LookupError> {
    let mut known = running(store);
    known.retain(|candidate| candidate.found.engine() == engine);
    match select(wanted, known.iter().map(|c| &c.names))? {
        Some(position) => Ok(known.swap_remove(position).found),
        None => {
            find(wanted, store).ok().filter(|found| found.engine() == engine).ok_or_else(|| {
                LookupError::NoneOfEngine { wanted: printable(wanted), engine: engine.to_string() }
            })
        }
    }
}

/// Finds the container that has a network namespace, by the inode of the namespace: also while the
/// container is being created, when its runtime has no state of it yet. Of several containers that
/// share the namespace it is the oldest, which the others have joined.
pub fn in_namespace(inode: u64) -> Option<RunningContainer> {
    let mut found = process::first_in(inode).and_then(process::find)?;
    found.bundle = bundle_of(&found.id);
    Some(found)
}

/// The bundle of a container of containerd's: also while the container is being created, when its
/// runtime has no state of it yet.
pub fn bundle_of(id: &ContainerId) -> Option<PathBuf> {
    monitors::bundle_of(id)
}

/// The process that gives a container of docker's its networks while the container is created, if there
/// is one now. It ends when docker has done so.
pub fn docker_hook_of(id: &ContainerId) -> Option<i32> {
    monitors::docker_hook_of(id)
}

/// Finds a container that `mcrun run --rootfs` or `--bundle` started, running or stopped. `command`
/// is the command of mcrun that it is for.
///
/// # Errors
/// When there is none or several. One of another engine is told with what to type instead.
pub fn find_standalone(
    wanted: &str,
    command: &str,
    store: &Store,
) -> Result<standalone::Container, LookupError> {
    if let Some(container) = select_standalone(wanted)? {
        return Ok(container);
    }
    let known = running(store);
    match select(wanted, known.iter().map(|c| &c.names))? {
        None => Err(LookupError::None(printable(wanted))),
        Some(position) => {
            let wanted = printable(wanted);
            let advice = known[position].found.engine().advice(command, &wanted);
            Err(LookupError::OtherEngine { container: wanted, advice })
        }
    }
}

fn select_standalone(wanted: &str) -> Result<Option<standalone::Container>, LookupError> {
    let mut all = standalone::Container::list();
    let names: Vec<_> =
        all.iter().map(|c| Names { id: c.id().to_owned(), names: Vec::new() }).collect();
    Ok(select(wanted, &names)?.map(|position| all.swap_remove(position)))
}

/// What was asked for, as a terminal may be shown it.
fn printable(wanted: &str) -> String {
    wanted.chars().filter(|c| !c.is_control()).take(140).collect()
}

/// A running container, and the names it may be asked for by.
#[derive(Debug, Clone)]
struct Candidate {
    found: RunningContainer,
    names: Names,
}

impl Candidate {
    fn new(found: RunningContainer, names: impl IntoIterator<Item = String>) -> Self {
        let names = Names { id: found.id.to_string(), names: names.into_iter().collect() };
        Candidate { found, names }
    }

    fn monitored(found: RunningContainer) -> Self {
        let own = found.name().map(str::to_owned);
        let name = own.or_else(|| engine_name(found.id.as_str(), found.bundle.as_deref()));
        Candidate::new(found, name)
    }
}

/// All containers that are known without asking a runtime, each once.
fn running(store: &Store) -> Vec<Candidate> {
    let machines = nspawn::machines(Path::new(nspawn::DIRECTORY), 0).into_iter();
    let machines = machines.filter_map(|(machine, leader)| machine.running(leader));
    let monitored = monitors::all().into_iter().chain(machines).map(Candidate::monitored);
    let mut known: Vec<Candidate> = attached(store).collect();
    for candidate in running_standalone().chain(monitored) {
        let (id, pid) = (&candidate.found.id, candidate.found.pid);
        let is_it = |c: &&mut Candidate| {
            // What was attached by its process before it was known by a name is known by both.
            c.found.id == *id || (candidate.found.machine.is_some() && c.found.pid == pid)
        };
        match known.iter_mut().find(is_it) {
            None => known.push(candidate),
            Some(same) => {
                let Candidate { found, names } = candidate;
                same.found.machine = same.found.machine.take().or(found.machine);
                // A network does not always know the bundle.
                same.found.bundle = same.found.bundle.take().or(found.bundle);
                same.names.names.extend(names.names);
            }
        }
    }
    known
}

/// The containers that are attached already and that have a process.
fn attached(store: &Store) -> impl Iterator<Item = Candidate> {
    let ids = store.list().unwrap_or_default();
    let records: Vec<_> = ids.iter().filter_map(|id| store.read(id).ok()?).collect();
    records.into_iter().filter_map(|record| {
        let container = record.container();
        let init = container.lifetime.process().filter(|init| init.is_alive())?;
        let engine = engine_name(container.id.as_str(), container.bundle.as_deref());
        let found = RunningContainer {
            id: container.id.clone(),
            pid: init.pid,
            bundle: container.bundle.clone(),
            machine: None,
        };
        Some(Candidate::new(found, [Some(container.name.clone()), engine].into_iter().flatten()))
    })
}

/// The containers of `mcrun run --rootfs` and `--bundle` that run.
fn running_standalone() -> impl Iterator<Item = Candidate> {
    standalone::Container::list().into_iter().filter_map(|container| {
        let record = container.record()?;
        let init = record.init.filter(|init| init.is_alive())?;
        let bundle = Some(container.dir().to_owned());
        let id = record.id.try_into().ok()?;
        let found = RunningContainer { id, pid: init.pid, bundle, machine: None };
        Some(Candidate::new(found, None))
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
    Some(RunningContainer { id: state.id, pid, bundle: state.bundle, machine: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(id: &str, name: &str) -> Names {
        Names { id: id.to_owned(), names: vec![name.to_owned()] }
    }

    #[test]
    fn a_name_an_id_and_a_unique_beginning_select() {
        let known = [
            names("aa11", "cam"),
            names("aa22", "mic"),
            names("bb33", "aa11x"),
            names("mcrun-cc44", "cc"),
            names("mcrun-dd55", "x"),
        ];
        let position = |wanted| select(wanted, &known);
        assert_eq!(position("cam"), Ok(Some(0)));
        assert_eq!(position("aa22"), Ok(Some(1)));
        assert_eq!(position("bb"), Ok(Some(2)));
        assert_eq!(position("dd5"), Ok(Some(4)));
        assert_eq!(position("mcrun-c"), Ok(Some(3)));
        assert_eq!(position("b"), Ok(None));
        assert_eq!(position(""), Ok(None));
        let error = position("aa").unwrap_err().to_string();
        assert!(error.ends_with("of several containers: aa11 aa22"), "{error}");
    }

    #[test]
    fn what_is_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = find("no-such\u{1b}thing", &Store::at(dir.path())).unwrap_err().to_string();
        assert_eq!(error, "no such container: no-suchthing");
        let error = find("2147483647", &Store::at(dir.path())).unwrap_err();
        assert_eq!(error, LookupError::None("2147483647".into()));
    }
}
