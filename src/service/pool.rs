//! Addresses of networks' pools: which of them a container gets.
//!
//! The claim decides who has an address, as for every other one. What is here only chooses: the
//! address that the container had last, else one that nobody had, else the one whose last container
//! ended the longest ago. The lease file is locked meanwhile, so that many containers that start at
//! once do not all try the same address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::attachment::{Addressing, Attachment, IpAssignment, NetworkName};
use crate::link::taken::Taken;
use crate::primitives::InterfaceName;
use crate::service::proxies::ProxyUsers;
use crate::service::{AttachError, claims};
use crate::state::{Claimed, Lease, LockedLeases, PlannedInterface, RecordedContainer, Store};

/// The pools that attachments ask for, locked.
pub(super) struct Pools {
    locked: BTreeMap<NetworkName, LockedLeases>,
}

/// What a choice is made for.
pub(super) struct Choice<'c> {
    pub(super) container: &'c RecordedContainer,
    /// Who is on the LAN.
    pub(super) taken: &'c Taken,
    pub(super) users: ProxyUsers<'c>,
    /// What the container cannot have.
    pub(super) refused: &'c BTreeSet<IpAddr>,
}

impl Pools {
    /// Locks the pools of attachments.
    ///
    /// # Errors
    /// Those of the state directory.
    pub(super) fn lock(added: &[PlannedInterface], store: &Store) -> Result<Self, AttachError> {
        let asks = |added: &&PlannedInterface| added.attachment.pool.is_some();
        let networks = added.iter().filter(asks).filter_map(|i| i.attachment.network.as_ref());
        // In the order of their names: two containers that want two pools do not wait for each other.
        let names: BTreeSet<_> = networks.map(|network| network.name.clone()).collect();
        let locked = names.into_iter().map(|name| {
            let leases = store.lock_leases(&name)?;
            Ok((name, leases))
        });
        Ok(Pools { locked: locked.collect::<Result<_, AttachError>>()? })
    }

    /// Gives each attachment that asks for a pool an address of each subnet. What an attachment has
    /// already, and is not refused, stays.
    ///
    /// # Errors
    /// [`AttachError::PoolExhausted`], and those of the state directory.
    pub(super) fn choose(
        &self,
        added: &mut [PlannedInterface],
        choice: &Choice<'_>,
    ) -> Result<(), AttachError> {
        for position in 0..added.len() {
            let attachment = &added[position].attachment;
            let (Some(pool), Some(network)) = (&attachment.pool, &attachment.network) else {
                continue;
            };
            let Some(locked) = self.locked.get(&network.name) else { continue };
            let mut chosen: Vec<IpNet> = attachment.ip.addresses().to_vec();
            chosen.retain(|net| !choice.refused.contains(&net.addr()));
            let elsewhere: BTreeSet<IpAddr> = added
                .iter()
                .enumerate()
                .filter(|(other, i)| {
                    *other != position && i.attachment.parent_link() == attachment.parent_link()
                })
                .flat_map(|(_, i)| i.attachment.ip.addresses().iter().map(IpNet::addr))
                .collect();
            for subnet in &pool.subnets {
                if chosen.iter().any(|net| subnet.contains(net)) {
                    continue;
                }
                let is_possible = |address: IpAddr| {
                    !elsewhere.contains(&address)
                        && !choice.refused.contains(&address)
                        && !attachment.has_gateway(address)
                        && !choice.taken.has_address(address)
                };
                let pool = Candidates { pool, subnet: *subnet, is_possible };
                let free = pool.first_free(&added[position], locked, choice)?;
                let address = free.ok_or_else(|| AttachError::PoolExhausted {
                    network: network.name.clone(),
                    subnet: *subnet,
                    count: pool.all().count(),
                })?;
                // The prefix length is that of a valid network.
                chosen.extend(IpNet::new(address, subnet.prefix_len()));
            }
            added[position].attachment.ip = IpAssignment::Pool(chosen);
        }
        Ok(())
    }

    /// Remembers what the attachments have, which is claimed, and unlocks the pools.
    ///
    /// # Errors
    /// Those of the state directory.
    pub(super) fn remember(
        self,
        container: &RecordedContainer,
        added: &[PlannedInterface],
        store: &Store,
    ) -> Result<(), AttachError> {
        for (name, locked) in self.locked {
            let of_it = || added.iter().filter(|i| is_of_pool(&i.attachment, &name));
            let leases = of_it().flat_map(|interface| {
                interface.attachment.ip.addresses().iter().map(|net| Lease {
                    address: net.addr(),
                    container: container.id.clone(),
                    name: container.name.clone(),
                    interface: interface.name.clone(),
                })
            });
            let parents: BTreeSet<_> = of_it().map(|i| i.attachment.parent_link()).collect();
            let is_in_use = |address| parents.iter().any(|p| !is_free(store, p, address));
            locked.remember(leases, is_in_use)?;
        }
        Ok(())
    }
}

/// The network from whose pool [`Pools::choose`] has chosen an address of attachments; `None`: it is
/// not chosen. That of an interface that is made anew is the container's: no other one is chosen.
pub(super) fn chosen_from(attachments: &[Attachment], address: IpAddr) -> Option<&NetworkName> {
    let is_its = |attachment: &&Attachment| {
        attachment.pool.is_some()
            && attachment.ip.addresses().iter().any(|net| net.addr() == address)
    };
    Some(&attachments.iter().find(is_its)?.network.as_ref()?.name)
}

fn is_of_pool(attachment: &Attachment, network: &NetworkName) -> bool {
    matches!(attachment.ip, IpAssignment::Pool(_))
        && attachment.network.as_ref().is_some_and(|used| used.name == *network)
}

fn is_free(store: &Store, parent: &InterfaceName, address: IpAddr) -> bool {
    match store.claimed(parent, address) {
        Ok(claimed) => claimed.is_none(),
        // It is unknown whether the container of an unreadable record is alive.
        Err(_) => false,
    }
}

/// The addresses that a pool can give one interface. A pool may have tens of thousands: they are
/// gone through only as far as needed.
struct Candidates<'p, P> {
    pool: &'p Addressing,
    subnet: IpNet,
    /// Whether the interface can have an address of the pool, as far as claims do not matter.
    is_possible: P,
}

impl<P: Fn(IpAddr) -> bool> Candidates<'_, P> {
    fn all(&self) -> impl Iterator<Item = IpAddr> {
        self.pool.pool(self.subnet).filter(|address| (self.is_possible)(*address))
    }

    fn has(&self, address: IpAddr) -> bool {
        self.pool.gives(address, self.subnet) && (self.is_possible)(address)
    }

    /// The first that nobody has, in the order of preference.
    fn first_free(
        &self,
        interface: &PlannedInterface,
        locked: &LockedLeases,
        choice: &Choice<'_>,
    ) -> Result<Option<IpAddr>, AttachError> {
        let parent = interface.attachment.parent_link();
        let store = choice.users.store;
        let is_free = |address: &IpAddr| is_free(store, parent, *address);
        let leases = locked.leases();
        let own = leases.of(choice.container, &interface.name);
        if let Some(address) = own.into_iter().find(|a| self.has(*a) && is_free(a)) {
            return Ok(Some(address));
        }
        let leased = leases.addresses();
        let order = || {
            let never = self.all().filter(|address| !leased.contains(address));
            let before = leases.all().iter().map(|lease| lease.address);
            never.chain(before.filter(|address| self.has(*address)))
        };
        if let Some(address) = order().find(is_free) {
            return Ok(Some(address));
        }
        // What a program that was killed has left is finished before the pool is called exhausted.
        for address in order() {
            if let Ok(Some(Claimed::Unfinished { id, .. })) = store.claimed(parent, address)
                && id != choice.container.id
                && claims::finish(&id, choice.users)?
                && is_free(&address)
            {
                return Ok(Some(address));
            }
        }
        Ok(None)
    }
}
