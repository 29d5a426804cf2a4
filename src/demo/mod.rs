//! The live demonstration: a media facility in network namespaces of its own.
//!
//! Two containers receive one stream behind a switch port with immediate-leave. Container 1
//! joins last, so that the switch heard it last, and leaves two seconds later. Once with the
//! containers attached by mcrun, once on bare macvlan interfaces.
//!
//! Nothing of the host is touched: the network goes with the descriptors of its namespaces,
//! the containers' state is in a directory of its own, and what was started is ended on every
//! way out.

mod capture;
mod family;
mod outcome;
mod receiver;
mod screen;
mod session;
mod topology;

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

pub use crate::demo::outcome::{DemoResult, ScenarioResult};

use crate::demo::capture::Capture;
use crate::demo::family::Family;
use crate::demo::receiver::{Process, Receiver};
use crate::demo::screen::{Paint, Screen};
use crate::demo::session::{ReceiverRole, Session};
use crate::demo::topology::{
    Facility, HOST_PORT, PARENT, QUERY_INTERVAL, SOURCE_LINK, wait_until_up,
};
use crate::net::netns::NetNs;
use crate::probe::{ReceiveResult, Signals};

/// The rate of the stream in packets per second.
const RATE: &str = "1000";
/// How long container 1 stays.
const STAY: Duration = Duration::from_secs(2);
/// How long a container may take to start and hear something, or to end.
const PATIENCE: Duration = Duration::from_secs(15);

/// What to demonstrate with.
#[derive(Debug, Clone)]
pub struct DemoOptions {
    /// The OCI runtime handed to `mcrun run`; `None`: its choice.
    pub engine: Option<String>,
    /// Show it with IPv6 and MLD rather than with IPv4 and IGMP.
    pub ipv6: bool,
    /// Print nothing as it goes.
    pub silent: bool,
}

/// Why the demonstration could not be given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DemoError {
    /// A namespace or a link.
    #[error("cannot build the facility")]
    Build(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Something the demonstration itself needs.
    #[error("cannot {what}")]
    Setup {
        /// What was tried.
        what: String,
        /// What came of it.
        source: io::Error,
    },
    /// A process.
    #[error("cannot start {what}")]
    Start {
        /// Its program.
        what: String,
        /// What came of it.
        source: io::Error,
    },
    /// The loop.
    #[error("cannot wait for events")]
    Wait(#[source] io::Error),
    /// A receiver heard nothing for too long.
    #[error("container {container} received nothing within {patience:?}")]
    Silent {
        /// 1 or 2.
        container: usize,
        /// How long was waited.
        patience: Duration,
    },
    /// A receiver did not start, or ended without a result.
    #[error("container {container} did not run to its end")]
    NoResult {
        /// 1 or 2.
        container: usize,
    },
    /// The switch does not work as a querier.
    #[error("the switch sends no queries")]
    NoQuery,
    /// SIGINT or SIGTERM.
    #[error("interrupted")]
    Interrupted,
}

impl From<topology::BuildError> for DemoError {
    fn from(error: topology::BuildError) -> Self {
        DemoError::Build(Box::new(error))
    }
}

fn setup(what: &str) -> impl FnOnce(io::Error) -> DemoError {
    let what = what.to_owned();
    move |source| DemoError::Setup { what, source }
}

/// Gives the demonstration, about half a minute long.
///
/// # Errors
/// When something could not be set up, or on SIGINT and SIGTERM; all is taken down then too.
/// That mcrun did not keep its promise is a result: [`DemoResult::broken`].
pub fn demo(options: &DemoOptions) -> Result<DemoResult, DemoError> {
    let family = if options.ipv6 { Family::V6 } else { Family::V4 };
    let screen = Screen::new(options.silent);
    let signals = Signals::block().map_err(io::Error::from).map_err(setup("catch signals"))?;
    let mcrun = std::env::current_exe().map_err(setup("find this program"))?;
    let directory = PrivateDirectory::create(&mcrun)?;
    let facility = Facility::build(family)?;
    show(&screen, &facility, family);
    let capture = facility.switch.run(|| Capture::open(HOST_PORT, family)).flatten();
    let capture = capture.map_err(setup("capture on the switch port"))?;
    for (namespace, link) in [(&facility.source, SOURCE_LINK), (&facility.host, PARENT)] {
        wait_until_up(namespace, link, PATIENCE)?;
    }
    let _sender = start_sender(&facility, &mcrun, family.group())?;
    let mut session = Session::new(signals, capture, screen);
    // A switch trusts itself as the querier once the answers to its first query are due.
    session.next_query()?;

    session.screen.heading("With mcrun");
    let name = |role: ReceiverRole| format!("mcrun-demo-{}-{}", std::process::id(), role.number());
    let attached = half(&mut session, |role| {
        let mut command = Command::new(&mcrun);
        command
            .arg("run")
            .args(options.engine.iter().flat_map(|engine| ["--engine", engine]))
            .arg("--rootfs")
            .arg(directory.rootfs())
            .args(["--name", &name(role)])
            .arg("--mcast")
            .arg(format!("parent={PARENT},ip={}", family.address(10 + role.number() as u8)))
            .args(["/mcrun", "probe", "recv", family.group(), "--interface", "mc0"])
            .args(["--json", "--interval", "100ms"])
            .env("MCRUN_STATE_DIR", directory.state())
            .env("MCRUN_CONFIG_DIR", directory.config());
        entered(&facility.host, command)
    })?;

    session.screen.heading("With bare macvlan interfaces");
    let first = facility.bare_macvlan(family.address(21))?;
    let second = facility.bare_macvlan(family.address(22))?;
    let bare = half(&mut session, |role| {
        let mut command = Command::new(&mcrun);
        command.args(["probe", "recv", family.group(), "--interface", "mc0"]);
        command.args(["--json", "--interval", "100ms"]);
        entered(if role == ReceiverRole::First { &first } else { &second }, command)
    })?;

    let result = DemoResult::new(attached, bare, facility.host_mac, family);
    conclude(&session.screen, &result, family);
    Ok(result)
}

/// Both receivers through one half, started by the commands that `receiver` makes.
fn half(
    session: &mut Session,
    receiver: impl Fn(ReceiverRole) -> Result<Command, DemoError>,
) -> Result<ScenarioResult, DemoError> {
    session.restart();
    session.join(ReceiverRole::Second, &mut receiver(ReceiverRole::Second)?, PATIENCE)?;
    // Right after the answers to a query: between join and leave of container 1 there is no
    // other, and none soon after it.
    session.next_query()?;
    session.join(ReceiverRole::First, &mut receiver(ReceiverRole::First)?, PATIENCE)?;
    session.pass(STAY)?;
    session.leave(ReceiverRole::First, PATIENCE)?;
    // To the next query at the latest, a pruned receiver is back.
    session.next_query()?;
    session.leave(ReceiverRole::Second, PATIENCE)?;
    let result = |role: ReceiverRole| -> Result<ReceiveResult, DemoError> {
        let result = session.receiver(role).and_then(Receiver::result).cloned();
        result.ok_or(DemoError::NoResult { container: role.number() })
    };
    Ok(ScenarioResult::new(
        &result(ReceiverRole::First)?,
        &result(ReceiverRole::Second)?,
        session.capture.seen(),
    ))
}

fn entered(namespace: &NetNs, mut command: Command) -> Result<Command, DemoError> {
    namespace.enter_on_exec(&mut command).map_err(setup("enter a namespace"))?;
    Ok(command)
}

fn start_sender(facility: &Facility, mcrun: &Path, group: &str) -> Result<Process, DemoError> {
    let mut command = Command::new(mcrun);
    command.args(["probe", "send", group, "--interface", SOURCE_LINK, "--rate", RATE]);
    command.stdout(Stdio::null());
    let mut command = entered(&facility.source, command)?;
    let what = "the sender".to_owned();
    Process::start(&mut command).map_err(|source| DemoError::Start { what, source })
}

/// Tells what is built.
fn show(screen: &Screen, facility: &Facility, family: Family) {
    screen.heading("A media LAN in network namespaces of its own");
    let querier = format!("{} querier, every {} s", family.version(), QUERY_INTERVAL.as_secs());
    let here = |number| family.address(number).addr();
    let rows = [
        [format!("sender {}", here(1)), "switch".into(), format!("container host {}", here(2))],
        [family.group().into(), querier, format!("{PARENT} {}", facility.host_mac)],
        [
            format!("{RATE} packets/s"),
            "immediate-leave on this port".into(),
            "container 1, container 2".into(),
        ],
    ];
    for (row, [sender, switch, host]) in rows.iter().enumerate() {
        let line = if row == 1 { "---" } else { "   " };
        screen.line(&format!("  {sender:<17} {line}  {switch:<28} {line}  {host}"));
    }
    let stay = STAY.as_secs();
    screen.line(&format!(
        "\nContainer 2 joins, container 1 joins after it and leaves {stay} seconds later."
    ));
}

/// Tells what came of it.
fn conclude(screen: &Screen, result: &DemoResult, family: Family) {
    screen.line(&format!("\n{}\n", result.table(family)));
    if result.broken.is_empty() {
        let protocol = family.protocol();
        let text =
            format!("mcrun kept its promise: nothing lost, one {protocol} host on the port.");
        screen.line(&screen.paint(Paint::Green, &text));
    } else {
        let text = format!("mcrun broke its promise: {}.", result.broken.join("; "));
        screen.line(&screen.paint(Paint::Red, &text));
    }
}

/// A directory for the containers' root and state, removed when dropped.
struct PrivateDirectory(PathBuf);

impl PrivateDirectory {
    /// Makes it, with a root file system that holds the program alone.
    fn create(mcrun: &Path) -> Result<Self, DemoError> {
        let path = std::env::temp_dir().join(format!("mcrun-demo-{}", std::process::id()));
        let what = format!("prepare {}", path.display());
        let failed = || setup(&what);
        let make = |path: &Path| fs::DirBuilder::new().mode(0o700).create(path);
        // Whoever made it before us is not us: nothing of it is used or removed.
        make(&path).map_err(failed())?;
        let directory = PrivateDirectory(path.clone());
        for inner in [directory.rootfs(), directory.state(), directory.config()] {
            make(&inner).map_err(failed())?;
        }
        fs::copy(mcrun, directory.rootfs().join("mcrun")).map_err(failed())?;
        Ok(directory)
    }

    fn rootfs(&self) -> PathBuf {
        self.0.join("rootfs")
    }

    /// Short: the path of a socket in it is limited to 107 bytes.
    fn state(&self) -> PathBuf {
        self.0.join("s")
    }

    fn config(&self) -> PathBuf {
        self.0.join("config")
    }
}

impl Drop for PrivateDirectory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
