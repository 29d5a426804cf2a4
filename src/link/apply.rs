//! Carrying a plan out: the only code that changes links, with its undo.

mod answers;
mod host_links;
mod shims;

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use ipnet::{IpNet, Ipv6Net};
use netlink_packet_route::RouteNetlinkMessage;

use crate::link::facts::link;
use crate::link::plan::{HostInterface, InterfacePlan, LinkPlan};
use crate::link::removal;
use crate::net::devconf::DevConf;
use crate::net::messages::{
    CHILD_GROUP, Ipvlan, Link, Macvlan, all_multicast, get_links, new_address, new_ipvlan,
    new_macvlan, new_route, read_link, set_devconf, set_up,
};
use crate::net::neighbour_discovery;
use crate::net::netlink::{NLM_F_CREATE, NLM_F_EXCL, NetlinkError, RouteSocket};
use crate::net::netns::NetNs;
use crate::net::sysctl::Sysctl;
use crate::net::sysctl::{SysctlError, Sysctls};
use crate::primitives::MacAddr;
use crate::primitives::MacvlanMode;

pub use crate::link::apply::answers::{keep_answers, release_answers, rules_for_answers};
pub use crate::link::apply::host_links::{delete_host_link, made_host_links, make_host_links};
pub(crate) use crate::link::apply::shims::is_shim;
pub use crate::link::apply::shims::{
    MadeShim, Neighbour, SHIM, change_route, delete_shim, find_shim, keep_routes, made_shims,
    make_shim, mark_shim, parent_source,
};

/// How long the MAC address of an ended container may stay busy. The proxy keeps the namespace for
/// a moment, and the kernel removes namespaces one after the other: 0.1 to 0.3 s for one alone, and
/// more than 2 s were seen while many ended. A live container that mcrun knows is refused at once.
const BUSY_PATIENCE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(256);

/// What went wrong while a plan was carried out.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A step that the kernel refused.
    #[error("{step}: {source}")]
    Step {
        /// What was to be done.
        step: String,
        /// The kernel's answer.
        source: NetlinkError,
    },
    /// The parent cannot have this child.
    #[error("{0}")]
    Parent(String),
    /// Something else has taken the parent for itself.
    #[error(
        "parent={}: it cannot have {driver} children, since it has children of another kind or is a port of a bridge or switch",
        parent.name
    )]
    ParentHeld {
        /// The parent.
        parent: HostInterface,
        /// What it was to have.
        driver: &'static str,
    },
    /// A hardware address that somebody else on the parent has.
    #[error("mac={mac}: in use by another child of {parent}")]
    MacInUse {
        /// The address.
        mac: String,
        /// The parent.
        parent: String,
    },
    /// A setting.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// The namespace could not be entered.
    #[error("cannot enter the container's network namespace: {0}")]
    Namespace(#[from] io::Error),
}

/// An interface of the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// Its index there; none if the container gets it later.
    pub index: Option<u32>,
    /// Its hardware address.
    pub mac: Option<MacAddr>,
}

/// One request of a batch, and what to call it when it is refused.
struct BatchStep {
    name: String,
    message: RouteNetlinkMessage,
    may_exist: bool,
}

/// An attachment that is being made. Dropping it before [`Applying::commit`] undoes its steps.
pub struct Applying<'a> {
    host: &'a mut RouteSocket,
    container: &'a mut RouteSocket,
    namespace: &'a NetNs,
    plans: &'a [InterfacePlan],
    sysctls: Sysctls,
    created: Vec<Created>,
    /// Rules for answers were added.
    keeps_answers: bool,
    committed: bool,
}

impl<'a> Applying<'a> {
    /// Creates the links, down.
    ///
    /// # Errors
    /// The first step that failed; nothing is left of those before it.
    pub fn create(
        plans: &'a [InterfacePlan],
        host: &'a mut RouteSocket,
        container: &'a mut RouteSocket,
        namespace: &'a NetNs,
    ) -> Result<Self, ApplyError> {
        let mut this = Applying {
            host,
            container,
            namespace,
            plans,
            sysctls: Sysctls::apart(),
            created: Vec::new(),
            keeps_answers: false,
            committed: false,
        };
        for plan in plans {
            this.create_link(plan)?;
        }
        Ok(this)
    }

    /// Makes the settings that must stand before the links come up, and adds the addresses.
    ///
    /// # Errors
    /// The first step that failed; drop the value to take all of it back.
    pub fn prepare(&mut self) -> Result<(), ApplyError> {
        self.apply_sysctls(|sysctl| !is_limit(sysctl))?;
        self.batch(|plan, created, index| {
            let settings = settings_step(plan, index, &plan.settings);
            let link_local = created.mac.filter(|_| plan.link_local);
            let link_local = link_local.map(link_local_net);
            let addresses = plan.addresses.iter().copied().chain(link_local);
            let addresses = addresses.map(|address| BatchStep {
                name: format!("cannot add address {address} to {}", plan.name),
                message: new_address(index, address),
                may_exist: false,
            });
            settings.into_iter().chain(addresses).collect()
        })
    }

    /// What exists now, in the order of the plans.
    pub fn created(&self) -> &[Created] {
        &self.created
    }

    fn create_link(&mut self, plan: &InterfacePlan) -> Result<(), ApplyError> {
        let name = plan.name.as_str();
        let Some(parent) = plan.parent.index else {
            let source = NetlinkError { errno: libc::ENODEV, message: None };
            let step = format!("cannot find {}", plan.parent.name);
            return Err(ApplyError::Step { step, source });
        };
        let target = self.namespace.as_fd();
        let message = match plan.link {
            LinkPlan::Macvlan { mode, mac, bcqueuelen, bclim } => {
                let mtu = plan.mtu;
                let child = Macvlan { name, parent, mode, mac, mtu, bcqueuelen, bclim };
                new_macvlan(&child, target)
            }
            LinkPlan::Ipvlan { mode, flag } => {
                new_ipvlan(&Ipvlan { name, parent, mode, flag, mtu: plan.mtu }, target)
            }
            LinkPlan::Existing { there } => {
                let (index, mac) = (there.map(|(index, _)| index), there.and_then(|(_, mac)| mac));
                self.created.push(Created { index, mac });
                return Ok(());
            }
        };
        if let Err(source) = self.host.request(message, NLM_F_CREATE | NLM_F_EXCL) {
            return Err(self.explain_create(plan, source));
        }
        let step = || format!("cannot find the new interface {}", plan.name);
        // The link exists: the undo must know it from here on.
        match link(self.container, plan.name.as_str()) {
            Ok(Some(link)) => {
                self.created.push(Created { index: Some(link.index), mac: link.mac });
                Ok(())
            }
            Ok(None) => {
                let source = NetlinkError { errno: libc::ENODEV, message: None };
                Err(ApplyError::Step { step: step(), source })
            }
            Err(source) => Err(ApplyError::Step { step: step(), source }),
        }
    }

    fn explain_create(&mut self, plan: &InterfacePlan, source: NetlinkError) -> ApplyError {
        let parent = &plan.parent.name;
        let driver = match plan.link {
            LinkPlan::Ipvlan { .. } => "ipvlan",
            _ => "macvlan",
        };
        match (source.errno, &plan.link) {
            (libc::EBUSY, _) => ApplyError::ParentHeld { parent: plan.parent.clone(), driver },
            (libc::EINVAL, LinkPlan::Macvlan { mode: MacvlanMode::Passthru, .. }) => {
                ApplyError::Parent(format!(
                    "mode=passthru: {parent} has another macvlan child, and passthru takes the parent for itself"
                ))
            }
            (libc::EINVAL, LinkPlan::Macvlan { mode, .. }) => ApplyError::Parent(format!(
                "parent={parent}: the kernel refuses a macvlan child of mode {} there; a passthru child takes the parent for itself",
                mode.name()
            )),
            (libc::EOPNOTSUPP, _) => ApplyError::Parent(format!(
                "driver={driver}: the kernel has no {driver} (module {driver})"
            )),
            _ => ApplyError::Step {
                step: format!("cannot create {driver} {} on {parent}", plan.name),
                source,
            },
        }
    }

    /// Sets the links up, adds the routes and announces the addresses; and raises the limits, which
    /// concern nobody before the container's command runs.
    ///
    /// # Errors
    /// The first step that failed; drop the value to take all of it back.
    pub fn activate(&mut self) -> Result<(), ApplyError> {
        for (position, plan) in self.plans.iter().enumerate() {
            if !matches!(plan.link, LinkPlan::Existing { .. })
                && let Some(index) = self.created[position].index
            {
                self.set_up(position, index)?;
            }
        }
        self.batch(|plan, _, index| {
            let routes = plan.routes.iter().map(|route| BatchStep {
                name: format!("cannot add route {route} through {}", plan.name),
                message: new_route(index, route.destination, route.gateway, route.metric),
                may_exist: route.may_exist,
            });
            routes.chain(settings_step(plan, index, &plan.late_settings)).collect()
        })?;
        let makes = |plan: &InterfacePlan| !matches!(plan.link, LinkPlan::Existing { .. });
        if self.plans.iter().any(makes) {
            // Where it cannot be done, `mcrun ps` tells who gets no answer.
            let made: Vec<_> = self.created.iter().filter_map(|created| created.index).collect();
            self.keeps_answers = keep_answers(self.container, &made).unwrap_or(false);
        }
        self.announce();
        self.apply_sysctls(is_limit)
    }

    fn apply_sysctls(&self, which: impl Fn(&Sysctl) -> bool) -> Result<(), ApplyError> {
        let mut chosen =
            self.plans.iter().flat_map(|plan| &plan.sysctls).filter(|s| which(s)).peekable();
        if chosen.peek().is_some() {
            self.namespace.run(|| chosen.try_for_each(|sysctl| self.sysctls.apply(sysctl)))??;
        }
        Ok(())
    }

    /// Makes the requests of all interfaces in one batch on the container's socket.
    fn batch(
        &mut self,
        of: impl Fn(&InterfacePlan, &Created, u32) -> Vec<BatchStep>,
    ) -> Result<(), ApplyError> {
        let all = self.plans.iter().zip(&self.created);
        // An interface that the container gets later has no steps.
        let there = all.filter_map(|(plan, created)| Some((plan, created, created.index?)));
        let steps: Vec<_> =
            there.flat_map(|(plan, created, index)| of(plan, created, index)).collect();
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        let requests = steps.iter().map(|step| (step.message.clone(), flags)).collect();
        let fail =
            |step: &BatchStep, source| Err(ApplyError::Step { step: step.name.clone(), source });
        let refused = match (self.container.batch(requests), steps.first()) {
            (Ok(refused), _) => refused,
            (Err(source), Some(step)) => return fail(step, source),
            (Err(_), None) => return Ok(()),
        };
        let tolerated = |(index, error): &(usize, NetlinkError)| {
            steps[*index].may_exist && error.errno == libc::EEXIST
        };
        match refused.into_iter().find(|refusal| !tolerated(refusal)) {
            Some((index, source)) => fail(&steps[index], source),
            None => Ok(()),
        }
    }

    /// Sets a link up. A macvlan child in a namespace that is being torn down keeps its hardware
    /// address busy for some milliseconds (`macvlan_addr_busy` in drivers/net/macvlan.c), as when
    /// a container with a fixed one restarts.
    fn set_up(&mut self, position: usize, index: u32) -> Result<(), ApplyError> {
        let plan = &self.plans[position];
        let deadline = Instant::now() + BUSY_PATIENCE;
        let mut pause = Duration::from_millis(2);
        loop {
            match self.container.request(set_up(index), 0) {
                Ok(()) => return Ok(()),
                Err(error) if is_busy(&error) && Instant::now() < deadline => {
                    thread::sleep(pause);
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Err(error) if is_busy(&error) => {
                    let mac = self.created[position].mac;
                    return Err(ApplyError::MacInUse {
                        mac: mac.map_or_else(|| "?".into(), |mac| mac.to_string()),
                        parent: plan.parent.name.to_string(),
                    });
                }
                Err(source) => {
                    return Err(ApplyError::Step {
                        step: format!("cannot set {} up", plan.name),
                        source,
                    });
                }
            }
        }
    }

    /// Announces IPv6 addresses, and asks routers to advertise. A lost announcement costs a neighbour
    /// its cache's lifetime, not the attachment, and the kernel repeats a lost question.
    fn announce(&self) {
        let pairs: Vec<_> = self.plans.iter().zip(&self.created).collect();
        let v6: Vec<_> = pairs
            .iter()
            .flat_map(|(plan, created)| plan.addresses.iter().map(|net| (*created, net.addr())))
            .filter_map(|(created, address)| match address {
                IpAddr::V6(address) => Some((created.index?, address, created.mac?)),
                IpAddr::V4(_) => None,
            })
            .collect();
        let soliciting = pairs.iter().filter(|(plan, _)| plan.solicits_routers);
        let soliciting: Vec<_> =
            soliciting.filter_map(|(_, created)| created.index.zip(created.mac)).collect();
        if !v6.is_empty() || !soliciting.is_empty() {
            let _ = self.namespace.run(|| {
                for (index, address, mac) in v6 {
                    let _ = neighbour_discovery::advertise(index, address, mac);
                }
                for (index, mac) in soliciting {
                    let _ = neighbour_discovery::solicit_routers(index, mac);
                }
            });
        }
    }

    /// Takes all of it back.
    pub fn undo(&mut self) {
        for (plan, created) in self.plans.iter().zip(self.created.drain(..)).rev() {
            let (LinkPlan::Macvlan { .. } | LinkPlan::Ipvlan { .. }, Some(index)) =
                (&plan.link, created.index)
            else {
                continue;
            };
            // Addresses and routes go with the link. A link that cannot be deleted now goes
            // with the namespace of the container that does not start.
            let _ = removal::delete(self.container, index);
        }
        if std::mem::take(&mut self.keeps_answers) {
            // Without an interface of mcrun's they change nothing.
            let _ = release_answers(self.container);
        }
    }

    /// Keeps what was made. The result is what takes the kernel long to close.
    pub fn commit(mut self) -> Option<OwnedFd> {
        self.committed = true;
        std::mem::take(&mut self.sysctls).into_own_instance()
    }
}

impl Drop for Applying<'_> {
    fn drop(&mut self) {
        if !self.committed {
            self.undo();
        }
    }
}

/// The link-local address of a MAC address, with its prefix.
fn link_local_net(mac: MacAddr) -> IpNet {
    let address = mac.link_local_address();
    IpNet::V6(Ipv6Net::new_assert(address, 64))
}

fn settings_step(
    plan: &InterfacePlan,
    index: u32,
    settings: &[(DevConf, u32)],
) -> Option<BatchStep> {
    (!settings.is_empty()).then(|| BatchStep {
        name: format!("cannot make the settings of {}", plan.name),
        message: set_devconf(index, settings),
        may_exist: false,
    })
}

fn is_limit(sysctl: &Sysctl) -> bool {
    matches!(sysctl, Sysctl::Raise(..))
}

/// The hardware address is in use on the parent (`macvlan_open` in drivers/net/macvlan.c, which has
/// said EBUSY and says EADDRINUSE).
fn is_busy(error: &NetlinkError) -> bool {
    matches!(error.errno, libc::EBUSY | libc::EADDRINUSE)
}

/// Sends the container's multicast through this interface, unless it goes through another already:
/// the one that had the route may be gone.
///
/// # Errors
/// The kernel's refusal.
pub fn keep_multicast_route(container: &mut RouteSocket, index: u32) -> Result<(), NetlinkError> {
    let message = new_route(index, all_multicast(), None, 0);
    match container.request(message, NLM_F_CREATE | NLM_F_EXCL) {
        Err(error) if error.errno != libc::EEXIST => Err(error),
        _ => Ok(()),
    }
}

/// Deletes those child links of a container that mcrun has made and that `is_unwanted` says are to
/// go. Returns whether there was one.
///
/// # Errors
/// The kernel's first refusal.
pub fn delete_made(
    container: &mut RouteSocket,
    is_unwanted: impl Fn(&Link) -> bool,
) -> Result<bool, NetlinkError> {
    let links = container.dump(get_links())?.into_iter().filter_map(read_link);
    let made = links.filter(|link| link.group == Some(CHILD_GROUP) && is_unwanted(link));
    let mut any = false;
    for link in made.collect::<Vec<_>>() {
        match removal::delete(container, link.index) {
            Err(error) if error.errno != libc::ENODEV => return Err(error),
            _ => any = true,
        }
    }
    Ok(any)
}

/// Deletes interfaces of a container by name and hardware address; one that is gone, or is another
/// by now, is left alone.
///
/// # Errors
/// The first refusal of the kernel; the others are tried all the same.
pub fn delete_interfaces<'i>(
    container: &mut RouteSocket,
    interfaces: impl IntoIterator<Item = (&'i str, Option<MacAddr>)>,
) -> Result<(), NetlinkError> {
    let mut result = Ok(());
    for (name, mac) in interfaces {
        let outcome = match link(container, name) {
            Ok(Some(found)) if mac.is_none() || found.mac == mac => {
                removal::delete(container, found.index)
            }
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        match outcome {
            Err(error) if error.errno != libc::ENODEV => result = result.and(Err(error)),
            _ => {}
        }
    }
    result
}
