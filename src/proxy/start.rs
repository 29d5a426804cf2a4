//! The start of a proxy: everything is opened as root, then the privileges go.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::process::ExitCode;
use std::time::Instant;

use nix::sys::signal::{SigHandler, Signal, signal};

use super::barrier::Barrier;
use super::config::{ProxyConfig, ProxyInterface};
use super::downstream::{Injector, Intercepted};
use super::driver::{Driver, Predecessor};
use super::filter::{self, Target};
use super::home::Home;
use super::lan::LanSocket;
use super::links::Links;
use super::log::{Level, Log};
use super::native::ProcNet;
use super::nfnetlink::NfSocket;
use super::prompt::Reporter;
use super::relay::{ContainerSockets, HostSockets};
use super::sandbox;
use super::upstream::LimitFiles;
use crate::attach::IgmpMode;
use crate::net::netns::{NetNs, share_heap};
use crate::state::ProcessRef;

/// Longest task a proxy is given.
const MAX_CONFIG: u64 = 1 << 20;
/// Interfaces of one container.
const MAX_INTERFACES: usize = 64;
/// Name of the nf_tables tables.
const TABLE: &str = "mcrun";

/// Why a proxy does not start.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
struct StartError {
    what: String,
    source: io::Error,
}

trait Context<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, StartError>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, StartError> {
        self.map_err(|e| StartError { what: what(), source: e.into() })
    }
}

fn refuse<T>(what: impl Into<String>, why: &str) -> Result<T, StartError> {
    Err(StartError { what: what.into(), source: io::Error::other(why.to_owned()) })
}

/// All of `mcrun-proxy`: reads its task, serves, and ends with the container.
///
/// On standard input it takes a [`ProxyConfig`]; on standard output it says `ready` or
/// `error: ...`, and closes both.
pub fn main() -> ExitCode {
    close_inherited();
    share_heap();
    // The answer goes to a descriptor of its own, so that a later message of any library
    // can't end up in a socket that happens to be number 1.
    let Ok(answer) = io::stdout().as_fd().try_clone_to_owned() else {
        return ExitCode::FAILURE;
    };
    let mut answer = File::from(answer);
    match start() {
        Ok(driver) => {
            if answer.write_all(b"ready\n").is_err() {
                // Nobody waits for it any more: the hook was killed.
                return ExitCode::FAILURE;
            }
            drop(answer);
            driver.run();
            ExitCode::SUCCESS
        }
        Err(error) => {
            // Whoever does not read it sees the status.
            let _ = writeln!(answer, "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<Driver, StartError> {
    // SIGTERM ends the proxy at once, whatever its parent ignored; what is left to clean then
    // is up to who sent it.
    // SAFETY: no handler is installed or replaced.
    unsafe { signal(Signal::SIGTERM, SigHandler::SigDfl) }
        .context(|| "cannot reset SIGTERM".into())?;
    leave_parent().context(|| "cannot change to the root directory".into())?;
    // What does not depend on the task, while the hook finds it.
    reset_oom_score();
    let filter = sandbox::system_calls().context(|| "cannot make the system call filter".into())?;
    let barrier = Barrier::open().context(|| "cannot open a socket".into())?;
    let limits = LimitFiles::open();
    let mut config = read_config()?;
    silence_standard_streams().context(|| "cannot open /dev/null".into())?;
    let (ns, container) = find_container(&config)?;
    let now = Instant::now();
    let home = Home::open(&crate::state::state_dir(), &config.container)
        .context(|| format!("cannot open the state directory of container {}", config.container))?;
    let log = Log::open(&home, &config.container, now);
    let mut warnings = Vec::new();
    let inside = ns
        .run(|| {
            find_relayed(&mut config.interfaces);
            Inside::open(&config, &mut warnings)
        })
        .context(|| format!("cannot enter the network namespace of process {}", config.pid))??;
    let lan = open_lan(&config.interfaces, &inside)?;
    let relays = open_relays(&config.interfaces, &inside)?;
    warnings.extend(lan.iter().filter(|socket| !socket.is_numbered()).map(unnumbered));
    // What is new to the host is told by notifications alone.
    let reporters = if config.notifications { open_reporters(&lan, now)? } else { Vec::new() };
    // In whose place the listener comes. One that has ended has left nothing.
    let predecessor =
        (config.follows && !relays.is_empty()).then(|| Predecessor::of(&home).ok()).flatten();
    // Last, so that nobody finds a socket whose proxy does not start.
    let listener: UnixListener =
        home.listen().context(|| format!("cannot make {}", super::home::CONTROL))?;
    let parts = Parts {
        config,
        container,
        namespace: ns,
        home,
        log,
        inside,
        lan,
        relays,
        reporters,
        barrier,
        limits,
        predecessor,
        listener,
        warnings,
    };
    let mut driver = Driver::new(parts, now).context(|| "cannot set up the event loop".into())?;
    let landlocked = sandbox::enter(driver.home(), &filter).map_err(|e| StartError {
        what: "cannot give up privileges".into(),
        source: io::Error::other(e),
    })?;
    if !landlocked {
        let text = "this kernel has no landlock; confined by user and seccomp alone";
        driver.log(now, Level::Info, text);
    }
    driver.take_over(now);
    Ok(driver)
}

/// All that a running proxy holds.
pub(crate) struct Parts {
    pub(crate) config: ProxyConfig,
    /// The container's init.
    pub(crate) container: OwnedFd,
    /// Its network namespace.
    pub(crate) namespace: NetNs,
    pub(crate) home: Home,
    pub(crate) log: Log,
    pub(crate) inside: Inside,
    pub(crate) lan: Vec<LanSocket>,
    /// The host's side of each relay, by interface name.
    pub(crate) relays: Vec<(String, HostSockets)>,
    pub(crate) reporters: Vec<Reporter>,
    pub(crate) barrier: Barrier,
    pub(crate) limits: LimitFiles,
    /// The proxy that this one follows.
    pub(crate) predecessor: Option<Predecessor>,
    pub(crate) listener: UnixListener,
    pub(crate) warnings: Vec<String>,
}

fn read_config() -> Result<ProxyConfig, StartError> {
    let mut text = Vec::new();
    io::stdin()
        .take(MAX_CONFIG)
        .read_to_end(&mut text)
        .context(|| "cannot read the task on standard input".into())?;
    let config: ProxyConfig = serde_json::from_slice(&text)
        .context(|| "the task on standard input is not valid".into())?;
    if config.interfaces.is_empty() || config.interfaces.len() > MAX_INTERFACES {
        let count = config.interfaces.len();
        return refuse(format!("{count} interfaces"), "a proxy serves 1 to 64");
    }
    Ok(config)
}

/// The container's namespace, and a descriptor of its init that is certain to be the one meant.
fn find_container(config: &ProxyConfig) -> Result<(NetNs, OwnedFd), StartError> {
    let pid = config.pid;
    let ns = NetNs::of_pid(pid)
        .context(|| format!("cannot open the network namespace of process {pid}"))?;
    // Tells a pid that was used again; since the process is there now, the namespace opened
    // before is its own too.
    let container = ProcessRef { pid, start: config.pid_start }
        .open()
        .context(|| format!("cannot watch the container's process {pid}"))?;
    let own = NetNs::current().and_then(|ns| ns.id());
    let theirs = ns.id();
    if own.context(|| "cannot open the host's namespace".into())?
        == theirs.context(|| "cannot identify the container's namespace".into())?
    {
        return refuse(
            format!("process {pid} shares the host's network namespace"),
            "a container needs one of its own",
        );
    }
    Ok((ns, container.into()))
}

/// Looks up what a relay takes as it is: it may have come since, or be another of its name. The caller's
/// thread is in the namespace.
fn find_relayed(interfaces: &mut [ProxyInterface]) {
    for interface in interfaces.iter_mut().filter(|i| i.relay.is_some()) {
        interface.index = nix::net::if_::if_nametoindex(interface.name.as_str()).unwrap_or(0);
    }
}

fn open_lan(interfaces: &[ProxyInterface], inside: &Inside) -> Result<Vec<LanSocket>, StartError> {
    let mut lan: Vec<LanSocket> = Vec::new();
    if !inside.intercepting() {
        return Ok(lan);
    }
    for interface in interfaces.iter().filter(|i| i.igmp == IgmpMode::Proxy) {
        let (name, index) = (&interface.upstream, interface.upstream_index);
        if lan.iter().all(|socket| socket.index != index) {
            let socket = LanSocket::open(name, index)
                .context(|| format!("cannot listen for queries on {name}"))?;
            lan.push(socket);
        }
    }
    Ok(lan)
}

fn open_relays(
    interfaces: &[ProxyInterface],
    inside: &Inside,
) -> Result<Vec<(String, HostSockets)>, StartError> {
    let relayed = interfaces.iter().filter(|i| inside.intercepting() && i.relay.is_some());
    relayed
        .map(|interface| {
            let sockets = HostSockets::open(&interface.upstream, interface.upstream_index)
                .context(|| format!("cannot open the relay's sockets on {}", interface.upstream))?;
            Ok((interface.name.clone(), sockets))
        })
        .collect()
}

/// Where joins can be reported without delay; without notifications there are none.
fn open_reporters(lan: &[LanSocket], now: Instant) -> Result<Vec<Reporter>, StartError> {
    let mut reporters = Vec::new();
    for socket in lan {
        let reporter = Reporter::open(socket.name(), socket.index, now);
        let what = || format!("cannot open the report socket of {}", socket.name());
        reporters.extend(reporter.context(what)?);
    }
    Ok(reporters)
}

/// A warning about an upstream without an address: the kernel reports from 0.0.0.0 there.
fn unnumbered(socket: &LanSocket) -> String {
    let name = socket.name();
    format!(
        "{name} has no IPv4 address: the host's IGMP reports come from 0.0.0.0, which some switches \
         ignore; an address of any kind on {name} helps"
    )
}

/// What is opened in the container's namespace.
pub(crate) struct Inside {
    /// Interception, and an injector for each interface in the order of the task.
    pub(crate) interception: Option<Interception>,
    pub(crate) links: Links,
    /// What the container's kernel has joined.
    pub(crate) proc_net: ProcNet,
}

/// The rules and the sockets on both sides of them.
pub(crate) struct Interception {
    /// Owns the tables: they go when it is closed.
    pub(crate) rules: NfSocket,
    pub(crate) packets: Intercepted,
    /// By interface name.
    pub(crate) injectors: Vec<(String, Injector)>,
    /// The container's side of each relay, by interface name.
    pub(crate) relays: Vec<(String, ContainerSockets)>,
}

impl Inside {
    /// The caller's thread is in the namespace.
    fn open(config: &ProxyConfig, warnings: &mut Vec<String>) -> Result<Self, StartError> {
        let links = Links::open(config.notifications)
            .context(|| "cannot watch the container's interfaces".into())?;
        let served: Vec<Target<'_>> = config
            .interfaces
            .iter()
            .filter(|i| i.igmp == IgmpMode::Proxy)
            .map(|i| Target {
                name: &i.name,
                index: i.index,
                reception: i.policy.reception(),
                relayed: i.relay.as_ref().map(|_| i.policy.link_local_groups()),
            })
            .collect();
        let interception =
            if served.is_empty() { None } else { intercept(&served, config.mark, warnings)? };
        let proc_net =
            ProcNet::open().context(|| "cannot open the container's /proc/net/igmp".into())?;
        Ok(Inside { interception, links, proc_net })
    }

    fn intercepting(&self) -> bool {
        self.interception.is_some()
    }
}

/// Puts the rules in place; `None`, with a warning, where the kernel does not have what it takes.
fn intercept(
    served: &[Target<'_>],
    mark: u32,
    warnings: &mut Vec<String>,
) -> Result<Option<Interception>, StartError> {
    // The second name is for a container that has a table of the first, or a proxy that is
    // being replaced. One with an owner gives EPERM.
    let names = [TABLE.to_owned(), format!("{TABLE}-{}", std::process::id())];
    let attempt = || -> io::Result<(NfSocket, Intercepted, &str)> {
        let packets = Intercepted::open()?;
        let rules = NfSocket::open()?;
        let mut last = io::Error::from_raw_os_error(libc::EEXIST);
        for name in &names {
            match filter::intercept(&rules, name, served, mark, packets.group()) {
                Ok(()) => return Ok((rules, packets, name)),
                Err(e) if matches!(e.raw_os_error(), Some(libc::EEXIST | libc::EPERM)) => last = e,
                Err(e) => return Err(e),
            }
        }
        Err(last)
    };
    let (rules, packets, table) = match attempt() {
        Ok(done) => done,
        // These pass, and a container that is let start would stay without for good.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOMEM | libc::EMFILE | libc::ENFILE)) => {
            return Err(e).context(|| "cannot install the interception rules".into());
        }
        // The container's own IGMP would go to a network that has nothing for it.
        Err(e) if served.iter().any(|target| target.relayed.is_some()) => {
            return Err(e).context(|| {
                "this kernel does not take the nf_tables rules without which nothing can be relayed; \
                 they need nf_tables with owned tables (Linux 5.12) and nfnetlink_log"
                    .into()
            });
        }
        Err(e) => {
            warnings.push(format!(
                "IGMP is not intercepted, the container speaks it natively: this kernel does not \
                 take the nf_tables rules ({e}); they need nf_tables with owned tables (Linux 5.12) \
                 and nfnetlink_log"
            ));
            return Ok(None);
        }
    };
    if let Err(e) = filter::intercept_frames(&rules, table, served) {
        warnings.push(format!(
            "packet sockets of the container are not intercepted: this kernel does not take netdev \
             egress rules ({e}); they need Linux 5.16"
        ));
    }
    let injectors = served
        .iter()
        .map(|target| {
            let injector = Injector::open(target.index, mark)
                .context(|| format!("cannot open the query socket of {}", target.name))?;
            Ok((target.name.to_owned(), injector))
        })
        .collect::<Result<_, StartError>>()?;
    let relays = served
        .iter()
        .filter(|target| target.relayed.is_some())
        .map(|target| {
            let sockets = ContainerSockets::open(mark)
                .context(|| format!("cannot open the relay's sockets of {}", target.name))?;
            Ok((target.name.to_owned(), sockets))
        })
        .collect::<Result<_, StartError>>()?;
    Ok(Some(Interception { rules, packets, injectors, relays }))
}

/// Closes what a careless parent left open: a runtime waits for its pipes to be closed.
fn close_inherited() {
    const FIRST: libc::c_uint = 3;
    // SAFETY: nothing of this process is open yet but the standard streams. Before Linux 5.9
    // there is no such call; the hook's own descriptors are CLOEXEC anyway.
    unsafe { libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, 0) };
}

/// Survives the caller's session and keeps no directory of its busy.
fn leave_parent() -> io::Result<()> {
    // The leader of a process group, as a shell makes one, has left already.
    let _ = nix::unistd::setsid();
    std::env::set_current_dir("/")
}

/// Nothing may hold the hook's pipes, and nothing may be printed into a socket.
fn silence_standard_streams() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    Ok(())
}

/// A runtime protects itself from the OOM killer, and its children inherit that. A value above
/// zero stays: lowering it takes CAP_SYS_RESOURCE.
fn reset_oom_score() {
    const FILE: &str = "/proc/self/oom_score_adj";
    if let Ok(value) = std::fs::read_to_string(FILE)
        && value.starts_with('-')
    {
        // Without it the proxy works as well.
        let _ = std::fs::write(FILE, "0");
    }
}
