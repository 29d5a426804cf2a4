//! What a proxy opens at its start, as root and in both namespaces.
//!
//! In three steps: [`Opened`] is what needs no interface of the container, and is opened while the hook
//! makes these; then the rules are put in place, and the link_monitor may come up; [`Parts`] is all.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::time::Instant;

use crate::attachment::IgmpMode;
use crate::net::arp_announcement::{Announcer, FrameSocket};
use crate::net::link_monitor::LinkMonitor;
use crate::net::netns::NetNs;
use crate::net::nfnetlink::NfSocket;
use crate::net::sysctl::Sysctls;
use crate::notice::Notice;
use crate::proxy::config::{CreatedInterface, InterfaceTask, ProxyTask};
use crate::proxy::container::injection::QueryInjector;
use crate::proxy::container::interception::NflogSocket;
use crate::proxy::container::membership_files::MembershipFiles;
use crate::proxy::container::receive_filter::ReceiveFilterSocket;
use crate::proxy::container::rtnl_barrier::RtnlBarrier;
use crate::proxy::container::rules;
use crate::proxy::container::rules::InterceptedInterface;
use crate::proxy::event_loop::Predecessor;
use crate::proxy::lan::early_report::Reporter;
use crate::proxy::lan::joins::LimitFiles;
use crate::proxy::lan::query_socket::LanSocket;
use crate::proxy::main::{Context, StartError, refuse};
use crate::proxy::process::container_dir::{CONTROL_SOCKET, ContainerDir};
use crate::proxy::process::log::Log;
use crate::proxy::relay::{ContainerSockets, HostSockets};
use crate::sys::process::ProcessRef;

/// Name of the nf_tables tables.
const TABLE: &str = "mcrun";

/// What needs no interface of the container, and then the rules.
pub(super) struct Opened {
    config: ProxyTask,
    container: OwnedFd,
    namespace: NetNs,
    home: ContainerDir,
    log: Log,
    inside: Inside,
    lan: Vec<LanSocket>,
    announcer: Option<Announcer>,
    barrier: RtnlBarrier,
    limits: LimitFiles,
    /// The host's.
    sysctls: Sysctls,
    notices: Vec<Notice>,
}

/// All that a running proxy holds.
pub(crate) struct Parts {
    pub(crate) config: ProxyTask,
    /// The container's init.
    pub(crate) container: OwnedFd,
    /// Its network namespace.
    pub(crate) namespace: NetNs,
    pub(crate) home: ContainerDir,
    pub(crate) log: Log,
    pub(crate) inside: Inside,
    pub(crate) lan: Vec<LanSocket>,
    /// The host's side of each relay, by interface name.
    pub(crate) relays: Vec<(String, HostSockets)>,
    pub(crate) reporters: Vec<Reporter>,
    /// `None` where no address is to be announced.
    pub(crate) announcer: Option<Announcer>,
    pub(crate) barrier: RtnlBarrier,
    pub(crate) limits: LimitFiles,
    /// The proxy that this one replaces.
    pub(crate) predecessor: Option<Predecessor>,
    pub(crate) listener: UnixListener,
    pub(crate) notices: Vec<Notice>,
}

/// What is opened in the container's namespace.
pub(crate) struct Inside {
    /// `None`: its kernel speaks for itself.
    pub(crate) interception: Option<Interception>,
    pub(crate) link_monitor: LinkMonitor,
    /// What the container's kernel has joined.
    pub(crate) membership_files: MembershipFiles,
    /// `None`: no interface has such a filter, or the kernel has no packet sockets.
    pub(crate) receive_filter_socket: Option<ReceiveFilterSocket>,
    /// The container's side of an [`Announcer`], which takes it.
    frames: Option<FrameSocket>,
}

/// The rules and the sockets on both sides of them.
pub(crate) struct Interception {
    /// Owns the tables: they go when it is closed.
    pub(crate) rules: NfSocket,
    pub(crate) packets: NflogSocket,
    /// By interface name.
    pub(crate) injectors: Vec<(String, QueryInjector)>,
    /// The container's side of each relay, by interface name.
    pub(crate) relays: Vec<(String, ContainerSockets)>,
}

impl Opened {
    /// Opens it, in the host's namespace.
    pub(super) fn open(mut config: ProxyTask, now: Instant) -> Result<Self, StartError> {
        let (namespace, container) = find_container(&config)?;
        let mut notices = Vec::new();
        let mut inside =
            namespace.run(|| Inside::open(&mut config, &mut notices)).context(|| {
                format!("cannot enter the network namespace of process {}", config.pid)
            })??;
        let home =
            ContainerDir::open(&crate::state::state_dir(), &config.container).context(|| {
                format!("cannot open the state directory of container {}", config.container)
            })?;
        let log = Log::open(&home, &config.container, now);
        let lan = match inside.interception {
            Some(_) => open_lan(&config.interfaces)?,
            None => Vec::new(),
        };
        let announcer = inside
            .frames
            .take()
            .map(|container| FrameSocket::open().map(|host| Announcer { host, container }));
        let announcer = announcer.transpose().context(|| "cannot open a packet socket".into())?;
        let barrier = RtnlBarrier::open().context(|| "cannot open a socket".into())?;
        let sysctls = Sysctls::default();
        let limits = LimitFiles::open(&sysctls);
        Ok(Opened {
            config,
            container,
            namespace,
            home,
            log,
            inside,
            lan,
            announcer,
            barrier,
            limits,
            sysctls,
            notices,
        })
    }

    /// Puts the rules in place, now that the interfaces are there; those of relays may be yet to come.
    pub(super) fn install(&mut self, made: &[CreatedInterface]) -> Result<(), StartError> {
        let interfaces = &mut self.config.interfaces;
        if made.len() != interfaces.len() {
            let what = format!("{} indexes for {} interfaces", made.len(), interfaces.len());
            return refuse(what, "each has one");
        }
        for (interface, CreatedInterface { index, mac }) in interfaces.iter_mut().zip(made) {
            interface.mac = *mac;
            // What a relay takes was looked up.
            if interface.relay.is_none() {
                interface.index = *index;
            }
        }
        let Some(interception) = &self.inside.interception else { return Ok(()) };
        if !interception.install(&self.config, &mut self.notices)? {
            self.inside.interception = None;
            self.lan.clear();
        }
        Ok(())
    }

    /// Opens the rest, in the host's namespace.
    pub(super) fn complete(self, now: Instant) -> Result<Parts, StartError> {
        let (mut relays, mut reporters) = (Vec::new(), Vec::new());
        if self.inside.interception.is_some() {
            relays = open_relays(&self.config.interfaces)?;
            // What is new to the host is told by notifications alone.
            if self.config.notifications {
                reporters = open_reporters(&self.lan, &self.sysctls, now)?;
            }
        }
        // In whose place the listener comes. One that has ended has left nothing.
        let takes_over = self.config.takes_over && !relays.is_empty();
        let predecessor = takes_over.then(|| Predecessor::connect(&self.home).ok()).flatten();
        // Last, so that nobody finds a socket whose proxy does not start.
        let listener = self.home.listen().context(|| format!("cannot make {CONTROL_SOCKET}"))?;
        Ok(Parts {
            config: self.config,
            container: self.container,
            namespace: self.namespace,
            home: self.home,
            log: self.log,
            inside: self.inside,
            lan: self.lan,
            relays,
            reporters,
            announcer: self.announcer,
            barrier: self.barrier,
            limits: self.limits,
            predecessor,
            listener,
            notices: self.notices,
        })
    }
}

/// The container's namespace, and a descriptor of its init that is certain to be the one meant.
fn find_container(config: &ProxyTask) -> Result<(NetNs, OwnedFd), StartError> {
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

fn open_lan(interfaces: &[InterfaceTask]) -> Result<Vec<LanSocket>, StartError> {
    let mut lan: Vec<LanSocket> = Vec::new();
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

fn open_relays(interfaces: &[InterfaceTask]) -> Result<Vec<(String, HostSockets)>, StartError> {
    let relayed = interfaces.iter().filter(|i| i.relay.is_some());
    relayed
        .map(|interface| {
            let sockets = HostSockets::open(&interface.upstream, interface.upstream_index)
                .context(|| format!("cannot open the relay's sockets on {}", interface.upstream))?;
            Ok((interface.name.clone(), sockets))
        })
        .collect()
}

/// Where joins can be reported without delay; without notifications there are none.
fn open_reporters(
    lan: &[LanSocket],
    host: &Sysctls,
    now: Instant,
) -> Result<Vec<Reporter>, StartError> {
    let mut reporters = Vec::new();
    for socket in lan {
        let reporter = Reporter::open(socket.name(), socket.index, host, now);
        let what = || format!("cannot open the report socket of {}", socket.name());
        reporters.extend(reporter.context(what)?);
    }
    Ok(reporters)
}

impl Inside {
    /// The caller's thread is in the namespace.
    fn open(config: &mut ProxyTask, notices: &mut Vec<Notice>) -> Result<Self, StartError> {
        let link_monitor = LinkMonitor::open(config.notifications)
            .context(|| "cannot watch the container's interfaces".into())?;
        // What a relay takes as it is may be there, or be told of.
        for interface in config.interfaces.iter_mut().filter(|i| i.relay.is_some()) {
            interface.index = nix::net::if_::if_nametoindex(interface.name.as_str()).unwrap_or(0);
        }
        let interception = match config.interfaces.iter().any(|i| i.igmp == IgmpMode::Proxy) {
            true => Interception::open(config, notices)?,
            false => None,
        };
        let membership_files = MembershipFiles::open()
            .context(|| "cannot open the container's /proc/net/igmp".into())?;
        let announcing = config.interfaces.iter().any(|i| !i.announce.is_empty());
        let frames = announcing.then(FrameSocket::open).transpose();
        let frames = frames.context(|| "cannot open a packet socket".into())?;
        let filtered = config.interfaces.iter().any(|i| i.relay.is_none());
        // Without it the container has more to do, and nothing is missing.
        let receive_filter_socket = filtered.then(|| ReceiveFilterSocket::open().ok()).flatten();
        Ok(Inside { interception, link_monitor, membership_files, receive_filter_socket, frames })
    }
}

impl Interception {
    /// Opens the sockets; `None`, with a notice, where the kernel does not have what the rules take.
    fn open(config: &ProxyTask, notices: &mut Vec<Notice>) -> Result<Option<Self>, StartError> {
        let sockets = NflogSocket::open().and_then(|packets| Ok((packets, NfSocket::open()?)));
        let (packets, rules) = match sockets {
            Ok(sockets) => sockets,
            Err(error) => return go_without(error, config, notices).map(|()| None),
        };
        let (mut injectors, mut relays) = (Vec::new(), Vec::new());
        for interface in config.interfaces.iter().filter(|i| i.igmp == IgmpMode::Proxy) {
            let name = &interface.name;
            let injector = QueryInjector::open(config.mark)
                .context(|| format!("cannot open the query socket of {name}"))?;
            injectors.push((name.clone(), injector));
            if interface.relay.is_some() {
                let sockets = ContainerSockets::open(config.mark)
                    .context(|| format!("cannot open the relay's sockets of {name}"))?;
                relays.push((name.clone(), sockets));
            }
        }
        Ok(Some(Interception { rules, packets, injectors, relays }))
    }

    /// Puts the rules in place; `false`, with a notice, where the kernel does not take them.
    fn install(&self, config: &ProxyTask, notices: &mut Vec<Notice>) -> Result<bool, StartError> {
        let served: Vec<InterceptedInterface<'_>> = config
            .interfaces
            .iter()
            .filter(|i| i.igmp == IgmpMode::Proxy)
            .map(|i| InterceptedInterface {
                name: &i.name,
                index: i.index,
                data_filter: i.policy.data_filter(),
                relayed: i.relay.as_ref().map(|_| i.policy.relayed_link_scope_groups()),
            })
            .collect();
        for (target, (_, injector)) in served.iter().zip(&self.injectors) {
            if target.index != 0 {
                injector
                    .set_interface(target.index)
                    .context(|| format!("cannot open the query socket of {}", target.name))?;
            }
        }
        // The second name is for a container that has a table of the first, or a proxy that is
        // being replaced. One with an owner gives EPERM.
        let names = [TABLE.to_owned(), format!("{TABLE}-{}", std::process::id())];
        let attempt = || -> io::Result<&str> {
            let mut last = io::Error::from_raw_os_error(libc::EEXIST);
            for name in &names {
                let group = self.packets.group();
                match rules::install_interception(&self.rules, name, &served, config.mark, group) {
                    Ok(()) => return Ok(name),
                    Err(e) if matches!(e.raw_os_error(), Some(libc::EEXIST | libc::EPERM)) => {
                        last = e;
                    }
                    Err(e) => return Err(e),
                }
            }
            Err(last)
        };
        let table = match attempt() {
            Ok(table) => table,
            Err(error) => return go_without(error, config, notices).map(|()| false),
        };
        if let Err(e) = rules::install_egress_rules(&self.rules, table, &served) {
            notices.push(Notice::FramesNotIntercepted { error: e.to_string() });
        }
        Ok(true)
    }
}

/// Says that there are no rules, where it is possible to do without.
fn go_without(
    error: io::Error,
    config: &ProxyTask,
    notices: &mut Vec<Notice>,
) -> Result<(), StartError> {
    // These pass, and a container that is let start would stay without for good.
    if matches!(error.raw_os_error(), Some(libc::ENOMEM | libc::EMFILE | libc::ENFILE)) {
        return Err(error).context(|| "cannot install the interception rules".into());
    }
    // The container's own IGMP would go to a network that has nothing for it.
    if config.interfaces.iter().any(|interface| interface.relay.is_some()) {
        return Err(error).context(|| {
            "this kernel does not take the nf_tables rules without which nothing can be relayed; \
             they need nf_tables with owned tables (Linux 5.12) and nfnetlink_log"
                .into()
        });
    }
    notices.push(Notice::IgmpNotIntercepted { error: error.to_string() });
    Ok(())
}
