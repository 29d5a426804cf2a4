//! The state of the host and the container, read before anything is changed.

use std::collections::BTreeMap;

use crate::attachment::{Attachment, Driver};
use crate::link::mark::Mark;
use crate::link::taken::Taken;
use crate::net::bridge_port::bridge_of;
use crate::net::messages::{Link, get_link, get_links, read_link};
use crate::net::netlink::{NetlinkError, RouteSocket};
use crate::net::sysctl::Sysctls;
use crate::primitives::InterfaceName;

/// The facts that a plan for some attachments needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The host's links that the attachments name, by name. A link that does not exist has no
    /// entry.
    pub links: BTreeMap<InterfaceName, Link>,
    /// The names of all links of the host. They are read only if a named link does not exist.
    pub link_names: Vec<String>,
    /// Addresses that somebody has already.
    pub taken: Taken,
    /// The container's links that have one of the wanted names already.
    pub container_links: BTreeMap<InterfaceName, Link>,
    /// For interfaces that a relay uses: index of the host's bridge to which the interface belongs.
    pub bridges: BTreeMap<InterfaceName, u32>,
    /// For upstream interfaces of attachments that speak IPv6: where it is off on the host.
    pub without_ipv6: BTreeMap<InterfaceName, Ipv6Off>,
    /// The mark of the host's links that are made here.
    pub mark: Mark,
}

/// How IPv6 is off on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ipv6Off {
    /// The kernel has none.
    Kernel,
    /// On an interface, by the setting `disable_ipv6`.
    Interface,
}

impl Facts {
    /// Reads them through a socket in each namespace.
    ///
    /// # Errors
    /// The kernel's, other than that a link does not exist.
    pub fn gather(
        attachments: &[Attachment],
        mark: Mark,
        host: &mut RouteSocket,
        container: &mut RouteSocket,
    ) -> Result<Self, NetlinkError> {
        let mut facts = Facts { mark, ..Facts::default() };
        for (position, attachment) in attachments.iter().enumerate() {
            for name in [&attachment.parent, attachment.parent_link(), attachment.upstream()] {
                if !facts.links.contains_key(name)
                    && let Some(link) = link(host, name.as_str())?
                {
                    facts.links.insert(name.clone(), link);
                }
            }
            if attachment.speaks_ipv6()
                && let Some(off) = ipv6_off(attachment.upstream())
            {
                facts.without_ipv6.insert(attachment.upstream().clone(), off);
            }
            let name = attachment.interface_name(position);
            let Some(link) = link(container, name.as_str())? else { continue };
            if let Driver::Relay { .. } = attachment.driver
                && let Some(bridge) = bridge_of(&link, host)
            {
                facts.bridges.insert(name.clone(), bridge);
            }
            facts.container_links.insert(name, link);
        }
        // A VLAN link may be missing.
        let named = attachments.iter().flat_map(|a| [Some(&a.parent), a.upstream.as_ref()]);
        if named.flatten().any(|name| !facts.links.contains_key(name)) {
            let answers = host.dump(get_links())?;
            facts.link_names = answers.into_iter().filter_map(read_link).map(|l| l.name).collect();
        }
        let indexes = attachments.iter().filter_map(|a| facts.links.get(a.parent_link()));
        let mut parents: Vec<_> = indexes.map(|link| link.index).collect();
        parents.sort_unstable();
        parents.dedup();
        facts.taken = Taken::gather(attachments, &parents, host)?;
        Ok(facts)
    }
}

/// Whether, and how, IPv6 is off on an interface of the caller's namespace. One that is to be made, as a
/// VLAN link may be, begins with the setting of `default`.
fn ipv6_off(name: &InterfaceName) -> Option<Ipv6Off> {
    let sysctls = Sysctls::default();
    let of = |interface: &str| sysctls.number(&format!("ipv6/conf/{interface}/disable_ipv6"));
    match of(name.as_str()).or_else(|| of("default")) {
        Some(0) => None,
        Some(_) => Some(Ipv6Off::Interface),
        None => Some(Ipv6Off::Kernel),
    }
}

/// One link by name; `None` when there is none.
///
/// # Errors
/// The kernel's, except that the link does not exist.
pub fn link(socket: &mut RouteSocket, name: &str) -> Result<Option<Link>, NetlinkError> {
    match socket.get(get_link(name)) {
        Ok(answer) => Ok(read_link(answer)),
        Err(error) if error.errno == libc::ENODEV => Ok(None),
        Err(error) => Err(error),
    }
}
