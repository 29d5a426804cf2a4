//! Where the interfaces are that are relayed to: on which bridge, and whether the kernel can pass packets
//! on to them.
//!
//! A relay to the bridge that the container is on is a mistake, which the hook refuses where the
//! interface exists when it is called, and which is seen here where the interface comes later.

use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::igmp::Igmp;
use crate::mld::Mld;
use crate::net::netns::NetNs;
use crate::net::route_query::{LinkFacts, RouteQuery};
use crate::notice::Notice;
use crate::primitives::MacAddr;
use crate::proxy::event_loop::interface::Interface;
use crate::proxy::event_loop::speakers::{Mode, Speaker};
use crate::proxy::event_loop::{EventLoop, Phase};
use crate::proxy::process::log::Log;
use crate::proxy::relay::Peer;

/// An address outside of each subnet (RFC 5737): the route to it is the default route.
const FAR_AWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Time between two looks at a link while packets arrive that the kernel could relay. An engine adds
/// routes after the link has come up, of which nobody tells.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

impl EventLoop {
    /// Looks at all interfaces that are up: somebody wants to know how they are.
    pub(super) fn check_relay_links_now(&mut self, now: Instant, log: &mut Log) {
        self.interfaces.iter_mut().for_each(|i| i.needs_look |= i.up_since.is_some());
        self.check_relay_links(now, log);
    }

    /// Looks at interfaces that have come, come up or changed. One that is on the upstream bridge itself has its
    /// packets relayed in one direction only. The kernel relays to the others where it can.
    pub(super) fn check_relay_links(&mut self, now: Instant, log: &mut Log) {
        // Until the takeover the predecessor relays, or the kernel for the predecessor.
        if !matches!(self.phase, Phase::Serving) {
            return;
        }
        for position in 0..self.interfaces.len() {
            let interface = self.interfaces.get_mut(position);
            if interface.is_some_and(|i| std::mem::take(&mut i.needs_look)) {
                self.check_relay_link(now, position, log);
            }
        }
    }

    /// Looks at an interface again to which the proxy itself has just relayed.
    pub(super) fn look_for_peer(&mut self, now: Instant, position: u32, log: &mut Log) {
        let position = position as usize;
        let Some(interface) = self.interfaces.get_mut(position) else { return };
        let is_due = interface.looked_at.is_none_or(|at| now >= at + LOOK_INTERVAL);
        if is_due && interface.wants_peer() {
            self.check_relay_link(now, position, log);
        }
    }

    fn check_relay_link(&mut self, now: Instant, position: usize, log: &mut Log) {
        let EventLoop { upstreams, container, interfaces, counter, .. } = self;
        let (Some(host), Some(routes)) = (&upstreams.links, &container.routes) else { return };
        let Some(interface) = interfaces.get_mut(position) else { return };
        interface.looked_at = Some(now);
        let (index, upstream) = (interface.task.index, interface.task.upstream_index);
        let link_name = interface.task.name.clone();
        if interface.relay::<Igmp>().is_none() {
            return;
        }
        let Ok(link) = routes.link(index) else { return interface.set_peer(None) };
        let other_end = link.parent.and_then(|other| host.link(other).ok());
        let bridge = other_end.as_ref().and_then(|end| end.port_of.filter(|_| end.is_veth));
        let is_on_upstream = bridge == Some(upstream);
        if let Some(counter) = counter {
            counter.follow(&link_name, index);
        }
        let peer = match is_on_upstream {
            true => Err("the interface is on the bridge that it is relayed to"),
            false => peer(index, &link, other_end.as_ref(), host, &container.namespace)
                .and_then(|peer| check_routes(index, routes).map(|()| peer))
                .map(|peer| Peer { upstream_mac: hardware_address(upstream, host), ..peer }),
        };
        interface.set_peer(peer.ok());
        let changes = interface.set_on_upstream(is_on_upstream);
        interface.not_in_kernel = peer.err().filter(|_| interface.wants_peer());
        if changes && let Some(notice) = interface.own_bridge_notice() {
            log.notice(now, notice);
        }
    }

    /// Has the kernel relay what it can, as soon as this proxy relays. It needs capabilities that the
    /// proxy gives up afterwards. Where a proxy is replaced, this one may take over that one's programs,
    /// and needs none of its own.
    pub(super) fn load_kernel_relays(&mut self, now: Instant, log: &mut Log) {
        for interface in &mut self.interfaces {
            if !interface.task.relay.as_ref().is_some_and(|relay| relay.in_kernel) {
                continue;
            }
            let Some(Err(error)) = interface.enter_kernel() else {
                continue;
            };
            let reason = match error.raw_os_error() {
                Some(libc::EINVAL | libc::ENOSYS) => format!("it needs Linux 6.6 ({error})"),
                Some(libc::ERANGE) => "64 programs are at the interface already".to_owned(),
                Some(libc::EPERM) => format!("a sysctl or a lockdown forbids it ({error})"),
                _ => error.to_string(),
            };
            let interface = interface.task.name.clone();
            let notice = Notice::RelayNotInKernel { interface, reason };
            let replaces = matches!(self.phase, Phase::WaitingForPredecessor(Some(_)));
            if !(replaces && error.raw_os_error() == Some(libc::ERANGE)) {
                log.notice(now, notice.clone());
            }
            self.start_notices.push(notice);
        }
    }

    /// Forgets why the own programs were not loaded, where those of another proxy relay.
    pub(super) fn note_kernel_relays(&mut self) {
        let EventLoop { interfaces, start_notices, .. } = self;
        for interface in interfaces {
            if interface.relay::<Igmp>().is_some_and(|relay| relay.has_kernel()) {
                let name = &interface.task.name;
                start_notices.retain(|notice| {
                    !matches!(notice, Notice::RelayNotInKernel { interface, .. } if interface == name)
                });
            }
        }
    }
}

impl Interface {
    fn wants_peer(&mut self) -> bool {
        fn wants<P: Speaker>(interface: &mut Interface) -> bool {
            interface.relay::<P>().is_some_and(|relay| relay.wants_peer())
        }
        wants::<Igmp>(self) || wants::<Mld>(self)
    }

    /// Its relays pass packets on by this link from now on.
    pub(super) fn set_peer(&mut self, peer: Option<Peer>) {
        if let Some(relay) = self.relay::<Igmp>() {
            relay.set_peer(peer);
        }
        if let Some(relay) = self.relay::<Mld>() {
            relay.set_peer(peer);
        }
    }

    /// Says whether it is a port of the upstream bridge itself. Tells whether that is new.
    fn set_on_upstream(&mut self, is_on_upstream: bool) -> bool {
        if let Some(relay) = self.relay::<Mld>() {
            relay.set_on_upstream(is_on_upstream);
        }
        let Some(relay) = self.relay::<Igmp>() else { return false };
        let changes = is_on_upstream != relay.is_on_upstream();
        relay.set_on_upstream(is_on_upstream);
        changes
    }

    /// Has the kernel relay what it can; `None`: nothing is relayed.
    fn enter_kernel(&mut self) -> Option<std::io::Result<()>> {
        let entered = self.relay::<Igmp>()?.enter_kernel();
        let Some(relay) = self.relay::<Mld>().filter(|_| entered.is_ok()) else {
            return Some(entered);
        };
        Some(relay.enter_kernel())
    }

    /// A notice when the kernel does not relay because of the container's link.
    pub(super) fn not_in_kernel_notice(&self) -> Option<Notice> {
        let why_left = || match &self.mode {
            Mode::Proxied(proxied) => proxied.relay.as_ref().and_then(|relay| relay.why_left()),
            Mode::Observed { .. } => None,
        };
        let reason = self.not_in_kernel.or_else(why_left)?.to_owned();
        Some(Notice::RelayNotInKernel { interface: self.task.name.clone(), reason })
    }
}

/// The ends of the container's veth link, if the host's namespace has the other one. Two links in other
/// namespaces may have the same indexes: so both ends have to name each other, with their namespaces.
fn peer(
    index: u32,
    link: &LinkFacts,
    other_end: Option<&LinkFacts>,
    host: &RouteQuery,
    container: &NetNs,
) -> Result<Peer, &'static str> {
    let is_peer = |end: &&LinkFacts| {
        let number = host.namespace_number(container.as_fd()).ok().flatten();
        end.is_veth
            && end.parent == Some(index)
            && number.is_some()
            && end.parent_namespace == number
    };
    let is_there = link.is_veth && other_end.filter(is_peer).is_some();
    match (link.parent, link.mac) {
        (Some(other), Some(mac)) if is_there => {
            Ok(Peer { index: other, mac: MacAddr::from(mac), mtu: link.mtu, upstream_mac: None })
        }
        _ => Err("the interface is no veth link to the host"),
    }
}

fn hardware_address(index: u32, host: &RouteQuery) -> Option<MacAddr> {
    host.link(index).ok()?.mac.map(MacAddr::from)
}

/// Checks that the container's kernel takes packets from anywhere that arrive by its interface: with
/// `rp_filter` (RFC 3704) it wants a route back to their source. Engines set it after the interface has
/// come.
fn check_routes(index: u32, routes: &RouteQuery) -> Result<(), &'static str> {
    let route = || routes.interface_towards(FAR_AWAY).ok().flatten();
    // The kernel takes the larger one (`IN_DEV_RPFILTER` in linux/inetdevice.h).
    let filters = [routes.reverse_path_filter(index), routes.reverse_path_filter_of_all()];
    match filters.into_iter().map(|filter| filter.unwrap_or(0)).max().unwrap_or(0) {
        0 => Ok(()),
        1 if route() == Some(index) => Ok(()),
        1 => Err("the container has rp_filter=1, and its default route leads by another interface"),
        _ if route().is_some() => Ok(()),
        _ => Err("the container has rp_filter=2 and no default route"),
    }
}
