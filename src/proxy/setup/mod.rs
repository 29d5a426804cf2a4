//! The setup of a proxy: everything that is opened as root, in both namespaces.
//!
//! Each step is a type. [`Setup`] needs no interface of the container, and is opened while the
//! service creates the interfaces. [`Installed`] has the rules, so that the links may come up.
//! [`Resources`] is complete.

mod error;
mod interception;

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv6Addr;
use std::time::Instant;

use crate::attachment::IgmpMode;
use crate::net::arp_announcement::{Announcer, BoundFrameSocket, FrameSocket};
use crate::net::link_monitor::{Family, LinkMonitor};
use crate::net::link_watch::LinkWatch;
use crate::net::netns::NetNs;
use crate::net::route_query::RouteQuery;
use crate::net::sysctl::Sysctls;
use crate::notice::Notice;
use crate::proxy::config::{
    CreatedInterface, InterfaceTask, PARENT_FRAME_SOCKET, ProxyTask, TAP_SOCKETS,
};
use crate::proxy::container::end_watch::EndWatch;
use crate::proxy::container::injection::QueryInjector;
use crate::proxy::container::membership_files::MembershipFiles;
use crate::proxy::container::receive_filter::ReceiveFilterSocket;
use crate::proxy::container::rtnl_barrier::RtnlBarrier;
use crate::proxy::container::stream_counter::{CountSockets, InheritedCounter};
use crate::proxy::event_loop::{
    AllMembershipFiles, Container, DropCounters, Interception, InterfaceSockets, MldLimits,
    MldUpstream, Predecessor, RelaySockets, Resources, Role, Upstream, Upstreams,
    predecessors_counter, predecessors_status,
};
use crate::proxy::lan::early_report::EarlyReporter;
use crate::proxy::lan::host_groups::HostGroups;
use crate::proxy::lan::input_probe::InputProbe;
use crate::proxy::lan::joins::LimitFiles;
use crate::proxy::lan::mld_query_socket::MldQuerySocket;
use crate::proxy::lan::query_socket::QuerySocket;
use crate::proxy::lan::query_tap::QueryTap;
use crate::proxy::lan::report_socket::{ReportSocket, SpareReportSocket};
use crate::proxy::process::container_dir::{CONTROL_SOCKET, ContainerDir, SUCCESSOR_SOCKET};
use crate::proxy::process::log::Log;
use crate::proxy::process::user::ProxyUser;
use crate::proxy::relay::family::Relayed;
use crate::proxy::relay::{ContainerSockets, HostSockets, RETURNS};
pub(super) use crate::proxy::setup::error::{Context, StartError};
use crate::proxy::setup::interception::{install_rules, open_interception};
use crate::state::Lifetime;

/// Everything that needs no interface of the container.
pub(super) struct Setup {
    /// Without its interfaces.
    task: ProxyTask,
    user: ProxyUser,
    container_dir: ContainerDir,
    log: Log,
    container: Container,
    interception: Option<Interception>,
    interfaces: Vec<InterfaceSetup>,
    query_sockets: Vec<QuerySocket>,
    taps: Vec<(u32, QueryTap)>,
    announcer: Option<Announcer>,
    limits: LimitFiles,
    /// `None`: the proxy speaks MLD for no interface.
    mld_limits: Option<MldLimits>,
    /// The host's.
    sysctls: Sysctls,
    notices: Vec<Notice>,
}

/// A setup with its rules in place.
pub(super) struct Installed(Setup);

/// One interface of the task.
struct InterfaceSetup {
    task: InterfaceTask,
    /// `None`: the interface is only observed.
    sockets: Option<InjectionSockets>,
}

/// What is opened in the container's namespace for one proxied interface.
struct InjectionSockets {
    injector: QueryInjector,
    /// `None`: the container's kernel speaks MLD itself.
    mld_injector: Option<QueryInjector<Ipv6Addr>>,
    /// `None`: nothing is relayed.
    relay: Option<ContainerSockets>,
    /// `None`: no data of IPv6 is relayed.
    relay_v6: Option<ContainerSockets<Ipv6Addr>>,
}

/// What is opened in the container's namespace.
struct InNamespace {
    interception: Option<Interception>,
    interfaces: Vec<InterfaceSetup>,
    link_monitor: LinkMonitor,
    routes: Option<RouteQuery>,
    membership_files: AllMembershipFiles,
    receive_filter_socket: Option<ReceiveFilterSocket>,
    count_sockets: Option<CountSockets>,
    drop_counter: Option<RouteQuery>,
    /// The container's side of an [`Announcer`].
    frame_socket: Option<FrameSocket>,
}

impl Setup {
    /// Opens it all. The caller's thread is in the host's namespace.
    pub(super) fn open(mut task: ProxyTask, now: Instant) -> Result<Self, StartError> {
        let (namespace, end_watch) = find_container(&task)?;
        let mut notices = Vec::new();
        if let Some(error) = task.group_notice.take() {
            notices.push(Notice::ControlGroupIncomplete { error });
        }
        // First, while its number is free.
        let parent_frame_socket = open_parent_frame_socket(&task.interfaces);
        let taps = open_taps(&task.interfaces);
        let state_dir = crate::state::state_dir();
        let container_dir = ContainerDir::open(&state_dir, &task.container).context(|| {
            format!("cannot open the state directory of container {}", task.container)
        })?;
        let inherits_count = task.takes_over && task.count;
        let inherited = inherits_count.then(|| predecessors_counter(&container_dir)).flatten();
        let inside = namespace
            .run(|| InNamespace::open(&mut task, inherited, &mut notices))
            .context(|| "cannot enter the container's network namespace".into())??;
        let id = &task.container;
        let user = ProxyUser::hold(&state_dir, task.user)
            .context(|| format!("cannot become user {}", task.user))?;
        let log = Log::open(&container_dir, id, now);
        let query_sockets = open_query_sockets(&inside.interfaces)?;
        let announcer =
            inside.frame_socket.map(|container| Announcer { host: parent_frame_socket, container });
        let rtnl_barrier = RtnlBarrier::open().context(|| "cannot open a UDP socket".into())?;
        let sysctls = Sysctls::default();
        let speaks_mld = inside.membership_files.mld.is_some();
        let mld_limits = speaks_mld.then(|| MldLimits {
            limits: LimitFiles::open(&sysctls),
            host_groups: HostGroups::open().ok(),
        });
        // Without them, what is lost on the way is not told.
        let drops = inside
            .drop_counter
            .and_then(|container| Some(DropCounters { host: RouteQuery::open().ok()?, container }));
        Ok(Setup {
            container: Container {
                id: id.clone(),
                end_watch,
                namespace,
                link_monitor: inside.link_monitor,
                routes: inside.routes,
                membership_files: inside.membership_files,
                rtnl_barrier,
                receive_filter_socket: inside.receive_filter_socket,
                count_sockets: inside.count_sockets,
                drops,
            },
            task,
            user,
            container_dir,
            log,
            interception: inside.interception,
            interfaces: inside.interfaces,
            query_sockets,
            taps,
            announcer,
            limits: LimitFiles::open(&sysctls),
            mld_limits,
            sysctls,
            notices,
        })
    }

    /// Installs the rules. The interfaces exist now, except possibly those of relays.
    pub(super) fn install(mut self, created: &[CreatedInterface]) -> Result<Installed, StartError> {
        let interfaces = &mut self.interfaces;
        if created.len() != interfaces.len() {
            let what = format!("{} indexes for {} interfaces", created.len(), interfaces.len());
            return Err(StartError::new(what, "each interface of the task needs one"));
        }
        for (interface, CreatedInterface { index, mac }) in interfaces.iter_mut().zip(created) {
            let InterfaceSetup { task, sockets } = interface;
            task.mac = *mac;
            // The index of an interface that mcrun has not made was looked up in the namespace.
            if task.relay.as_ref().is_none_or(|relay| !relay.translate) {
                task.index = *index;
            }
            if let Some(sockets) = sockets
                && task.index != 0
            {
                sockets
                    .set_interface(task.index)
                    .context(|| format!("cannot open the query socket of {}", task.name))?;
            }
        }
        let tasks: Vec<_> = self.interfaces.iter().map(|interface| &interface.task).collect();
        if let Some(interception) = &mut self.interception {
            let (mark, now) = (self.task.mark, Instant::now());
            install_rules(interception, &tasks, mark, now, &mut self.notices)?;
            if interception.nflog.is_none() {
                self.interfaces.iter_mut().for_each(|interface| interface.sockets = None);
                self.query_sockets.clear();
            }
        }
        Ok(Installed(self))
    }
}

impl Installed {
    /// Opens the rest. The caller's thread is in the host's namespace.
    pub(super) fn complete(self, now: Instant) -> Result<Resources, StartError> {
        let mut setup = self.0;
        let mut taps = std::mem::take(&mut setup.taps);
        let interfaces = setup
            .interfaces
            .into_iter()
            .map(|InterfaceSetup { task, sockets }| {
                let sockets = sockets.map(|sockets| sockets.complete(&task)).transpose()?;
                Ok((task, sockets))
            })
            .collect::<Result<Vec<_>, StartError>>()?;
        let relays = interfaces.iter().map(|(task, _)| task).filter(|task| task.relay.is_some());
        let relayed: BTreeSet<u32> = relays.map(|task| task.upstream_index).collect();
        let spoken = interfaces.iter().filter(|(_, sockets)| {
            sockets.as_ref().is_some_and(|sockets| sockets.mld_injector.is_some())
        });
        let speaks_mld: BTreeSet<u32> = spoken.map(|(task, _)| task.upstream_index).collect();
        let mut open_upstream = |query_socket: QuerySocket| {
            // Only notifications show which joins are new to the host.
            let reporter = match setup.task.notifications {
                true => open_reporter(&query_socket, &setup.sysctls, now)?,
                false => None,
            };
            let (name, index) = (query_socket.name().to_owned(), query_socket.index);
            let report_socket = reporter.is_none().then(|| ReportSocket::open(&name, index));
            let report_socket = report_socket
                .transpose()
                .context(|| format!("cannot open the report socket of {name}"))?;
            let input_probe = relayed.contains(&index).then(|| InputProbe::open(&name));
            let input_probe = input_probe
                .transpose()
                .context(|| format!("cannot open the firewall's probe on {name}"))?;
            let tap = taps.iter().position(|(of, _)| *of == index).map(|at| taps.swap_remove(at).1);
            let link_watch = LinkWatch::open(&name, index)
                .context(|| format!("cannot watch the link {name}"))?;
            let reports = (reporter, report_socket);
            let mut upstream =
                Upstream::new(query_socket, reports, input_probe, tap, link_watch, now);
            if speaks_mld.contains(&index) {
                let reports = setup.task.notifications.then_some(&setup.sysctls);
                let returns = if relayed.contains(&index) { RETURNS } else { 0 };
                upstream.mld = Some(open_mld(&name, index, reports, returns, now)?);
            }
            if relayed.contains(&index) {
                let spares = std::iter::repeat_with(SpareReportSocket::open).take(RETURNS);
                upstream.spare_report_sockets = spares
                    .collect::<io::Result<_>>()
                    .context(|| format!("cannot open the spare sockets of {name}"))?;
            }
            Ok(upstream)
        };
        let upstreams = setup.query_sockets.into_iter().map(&mut open_upstream);
        let upstreams = upstreams.collect::<Result<Vec<_>, StartError>>()?;
        let links = (!relayed.is_empty()).then(RouteQuery::open).transpose();
        let links = links.context(|| "cannot open a netlink socket".into())?;
        // The connection to the predecessor comes before this proxy's own socket takes its place. A
        // predecessor that has ended has no relays to take over.
        let relays = |(_, sockets): &(_, Option<InterfaceSockets>)| {
            sockets.as_ref().is_some_and(|sockets| sockets.relay.is_some())
        };
        let role = match setup.task.takes_over {
            true if interfaces.iter().any(relays) => {
                Role::Successor(Predecessor::connect(&setup.container_dir).ok())
            }
            true => Role::Successor(None),
            false => Role::First,
        };
        let inherited = setup.task.takes_over.then(|| predecessors_status(&setup.container_dir));
        // The control socket comes last, so that nobody connects to a proxy that does not start.
        // The one of a successor gets its place when the record names the successor.
        let name = if setup.task.takes_over { SUCCESSOR_SOCKET } else { CONTROL_SOCKET };
        let listener = setup.container_dir.listen(name);
        let listener = listener.context(|| format!("cannot make {name}"))?;
        Ok(Resources {
            user: setup.user,
            container_dir: setup.container_dir,
            log: setup.log,
            container: setup.container,
            interception: setup.interception,
            interfaces,
            upstreams: Upstreams {
                list: upstreams,
                limits: setup.limits,
                links,
                host_groups: HostGroups::open().ok(),
                mld: setup.mld_limits,
            },
            announcer: setup.announcer,
            role,
            inherited: inherited.flatten(),
            listener,
            notices: setup.notices,
        })
    }
}

/// The container's network namespace, and the watch for its end.
fn find_container(task: &ProxyTask) -> Result<(NetNs, EndWatch), StartError> {
    let (namespace, watch, what) = match &task.lifetime {
        // The watch fails for a process that has got the pid of one that has ended. The process that
        // is found has existed since before the namespace was opened: the namespace is its own.
        Lifetime::Process(process) => {
            let namespace = NetNs::of_pid(process.pid);
            (namespace, EndWatch::open(&task.lifetime), format!("process {}", process.pid))
        }
        // A path that is removed after the watch was opened is noticed.
        Lifetime::NamespacePath(path) => {
            let watch = EndWatch::open(&task.lifetime);
            (NetNs::open(path), watch, path.display().to_string())
        }
    };
    let watch = watch.context(|| format!("cannot watch {what} for the end of the container"))?;
    let namespace = namespace.context(|| format!("cannot open the network namespace of {what}"))?;
    let host = NetNs::current().and_then(|ns| ns.id());
    let host = host.context(|| "cannot identify the host's network namespace".into())?;
    let own = namespace.id();
    let own = own.context(|| "cannot identify the container's network namespace".into())?;
    if host == own {
        return Err(StartError::new(
            format!("{what} is in the host's network namespace"),
            "a container needs one of its own",
        ));
    }
    Ok((namespace, watch))
}

/// The socket that announces addresses on the parent of the first interface that has any. `None`
/// where it cannot be had: the container's own socket announces then, which costs other containers
/// more.
fn open_parent_frame_socket(interfaces: &[InterfaceTask]) -> Option<BoundFrameSocket> {
    let is_on_parent = |i: &&InterfaceTask| !i.announce.is_empty() && i.parent == i.upstream;
    let interface = interfaces.iter().find(is_on_parent)?;
    BoundFrameSocket::open_as(interface.upstream_index, PARENT_FRAME_SOCKET).ok()
}

/// The socket that hears queries at the link of each upstream of a relay, for the first of them. None
/// where it cannot be had: what is joined is reported again and again then, where the host is deaf.
fn open_taps(interfaces: &[InterfaceTask]) -> Vec<(u32, QueryTap)> {
    let relayed = interfaces.iter().filter(|i| i.relay.is_some() && i.igmp == IgmpMode::Proxy);
    let upstreams: BTreeSet<u32> = relayed.map(|interface| interface.upstream_index).collect();
    let tap = |(number, index)| Some((index, QueryTap::open_as(number).ok()?));
    TAP_SOCKETS.zip(upstreams).filter_map(tap).collect()
}

/// One socket for each upstream of a proxied interface.
fn open_query_sockets(interfaces: &[InterfaceSetup]) -> Result<Vec<QuerySocket>, StartError> {
    let mut sockets: Vec<QuerySocket> = Vec::new();
    for InterfaceSetup { task, .. } in interfaces.iter().filter(|i| i.sockets.is_some()) {
        let (name, index) = (&task.upstream, task.upstream_index);
        if sockets.iter().all(|socket| socket.index != index) {
            let socket = QuerySocket::open(name, index)
                .context(|| format!("cannot listen for queries on {name}"))?;
            sockets.push(socket);
        }
        // The other links end with their parent.
        if task.relay.is_some()
            && let Some(socket) = sockets.iter_mut().find(|socket| socket.index == index)
        {
            socket
                .prepare_returns(RETURNS)
                .context(|| format!("cannot open the spare sockets of {name}"))?;
        }
    }
    Ok(sockets)
}

/// The sender of early reports on an upstream; `None` where the kernel does not notify of joins.
fn open_reporter(
    socket: &QuerySocket,
    host: &Sysctls,
    now: Instant,
) -> Result<Option<EarlyReporter>, StartError> {
    EarlyReporter::open(socket.name(), socket.index, host, now)
        .context(|| format!("cannot open the report socket of {}", socket.name()))
}

/// The sockets for MLD on an upstream, which may go and come again so often. Without `sysctls` nothing is
/// reported early.
fn open_mld(
    name: &str,
    index: u32,
    sysctls: Option<&Sysctls>,
    returns: usize,
    now: Instant,
) -> Result<MldUpstream, StartError> {
    let mut query_socket = MldQuerySocket::open(name)
        .context(|| format!("cannot listen for MLD queries on {name}"))?;
    let reporter = sysctls.map(|sysctls| EarlyReporter::open(name, index, sysctls, now));
    let reporter =
        reporter.transpose().context(|| format!("cannot open the MLD report socket of {name}"))?;
    let spares = std::iter::repeat_with(SpareReportSocket::open).take(returns);
    let spares = spares.collect::<io::Result<_>>().and_then(|spares| {
        query_socket.prepare_returns(returns)?;
        Ok(spares)
    });
    let mut upstream = MldUpstream::new(query_socket, reporter.flatten(), now);
    upstream.spare_report_sockets =
        spares.context(|| format!("cannot open the spare MLD sockets of {name}"))?;
    Ok(upstream)
}

impl InjectionSockets {
    /// The caller's thread is in the container's namespace.
    fn open(interface: &InterfaceTask, mark: u32) -> Result<Self, StartError> {
        let name = &interface.name;
        let injector = QueryInjector::open(mark)
            .context(|| format!("cannot open the query socket of {name}"))?;
        let relay = interface.relay.as_ref().map(|_| ContainerSockets::open(mark)).transpose();
        let relay = relay.context(|| format!("cannot open the relay's sockets of {name}"))?;
        let relay_v6 = relays_v6(interface).then(|| ContainerSockets::open(mark)).transpose();
        let relay_v6 =
            relay_v6.context(|| format!("cannot open the IPv6 relay's sockets of {name}"))?;
        let mld_injector = interface.mld.then(|| QueryInjector::open(mark)).transpose();
        let mld_injector =
            mld_injector.context(|| format!("cannot open the MLD query socket of {name}"))?;
        Ok(InjectionSockets { injector, mld_injector, relay, relay_v6 })
    }

    /// Injects on the interface of this index from now on.
    fn set_interface(&self, index: u32) -> io::Result<()> {
        self.injector.set_interface(index)?;
        self.mld_injector.as_ref().map_or(Ok(()), |mld| mld.set_interface(index))
    }

    /// Adds the sockets in the host's namespace, where the caller's thread is.
    fn complete(self, interface: &InterfaceTask) -> Result<InterfaceSockets, StartError> {
        let InjectionSockets { injector, mld_injector, relay, relay_v6 } = self;
        let relay = relay.map(|container| relay_sockets(interface, container)).transpose()?;
        let relay_v6 = relay_v6.map(|container| relay_sockets(interface, container)).transpose()?;
        Ok(InterfaceSockets { injector, mld_injector, relay, relay_v6 })
    }
}

/// Whether data of IPv6 is relayed.
fn relays_v6(interface: &InterfaceTask) -> bool {
    interface.relay.is_some() && interface.mld
}

/// Adds the sockets of a relay in the host's namespace, where the caller's thread is.
fn relay_sockets<A: Relayed>(
    interface: &InterfaceTask,
    container: ContainerSockets<A>,
) -> Result<RelaySockets<A>, StartError> {
    let upstream = &interface.upstream;
    let host = HostSockets::open(upstream, interface.upstream_index)
        .context(|| format!("cannot open the relay's sockets on {upstream}"))?;
    Ok(RelaySockets { container, host })
}

impl InNamespace {
    /// The caller's thread is in the container's namespace.
    fn open(
        task: &mut ProxyTask,
        inherited: Option<InheritedCounter>,
        notices: &mut Vec<Notice>,
    ) -> Result<Self, StartError> {
        // First, while their numbers are free.
        let open = || CountSockets::open(&task.interfaces, inherited);
        let count_sockets = task.count.then(open).transpose();
        let count_sockets = match count_sockets {
            Ok(sockets) => sockets,
            Err(error) => {
                notices.push(Notice::NotCounted { error: error.to_string() });
                None
            }
        };
        let drop_counter = count_sockets.as_ref().and_then(|_| RouteQuery::open().ok());
        let speaks_mld = task.interfaces.iter().any(|interface| interface.mld);
        let families: &[Family] = match task.notifications {
            true if speaks_mld => &[Family::Ipv4, Family::Ipv6],
            true => &[Family::Ipv4],
            false => &[],
        };
        let link_monitor = LinkMonitor::open(families)
            .context(|| "cannot watch the container's interfaces".into())?;
        let relays = task.interfaces.iter().any(|interface| interface.relay.is_some());
        let routes = relays.then(RouteQuery::open).transpose();
        let routes = routes.context(|| "cannot open a netlink socket".into())?;
        // A relayed interface is not made by mcrun. If it does not exist yet, a notification will
        // follow.
        for interface in task.interfaces.iter_mut().filter(|i| i.relay.is_some()) {
            interface.index = nix::net::if_::if_nametoindex(interface.name.as_str()).unwrap_or(0);
        }
        let interception = open_interception(task, notices)?;
        let intercepts = interception.as_ref().is_some_and(|i| i.nflog.is_some());
        let mut interfaces = Vec::new();
        for interface in std::mem::take(&mut task.interfaces) {
            let proxied = intercepts && interface.igmp == IgmpMode::Proxy;
            let sockets =
                proxied.then(|| InjectionSockets::open(&interface, task.mark)).transpose()?;
            interfaces.push(InterfaceSetup { task: interface, sockets });
        }
        let membership_files = MembershipFiles::open()
            .context(|| "cannot open the container's /proc/net/igmp".into())?;
        let mld_membership_files = speaks_mld.then(MembershipFiles::open).transpose();
        let mld_membership_files = mld_membership_files
            .context(|| "cannot open the container's /proc/net/igmp6".into())?;
        let announces = interfaces.iter().any(|i| !i.task.announce.is_empty());
        let has_receive_filter = interfaces.iter().any(|i| i.task.relay.is_none());
        let frame_socket = match (announces || has_receive_filter).then(FrameSocket::open) {
            Some(Err(error)) if announces => {
                return Err(error).context(|| "cannot open a packet socket".into());
            }
            opened => opened.and_then(io::Result::ok),
        };
        // One socket serves both. Without it the container receives packets of groups that it has
        // left, and drops them.
        let filter = frame_socket.as_ref().filter(|_| has_receive_filter);
        let receive_filter_socket = filter.and_then(|s| ReceiveFilterSocket::of(s).ok());
        let frame_socket = frame_socket.filter(|_| announces);
        Ok(InNamespace {
            interception,
            interfaces,
            link_monitor,
            routes,
            membership_files: AllMembershipFiles {
                igmp: membership_files,
                mld: mld_membership_files,
            },
            receive_filter_socket,
            count_sockets,
            drop_counter,
            frame_socket,
        })
    }
}
