//! The host fence: nf_tables rules in the host's namespace that keep from its sockets the data of
//! groups that only containers have joined.
//!
//! What a proxy has joined is the host's membership, and the kernel hands the data to any socket of
//! the host that is bound to the port and has joined nothing (IP_MULTICAST_ALL, ip(7)), such as one
//! of docker's proxy. The table belongs to the netlink socket, as those in containers do. As nft(8)
//! shows it, for each interface:
//!
//! ```text
//! table ip mcrun-fence { flags owner
//!   chain input { type filter hook input priority -1000
//!     @nh,128,8 >= 224 iif INDEX ip protocol udp ip daddr @groups-INDEX counter drop }
//!   set groups-INDEX { type ipv4_addr; elements = { ... } }
//! }
//! ```
//!
//! The hook is where packets go to sockets of the host: packet sockets, ports of bridges, macvlan
//! and ipvlan links and multicast routes are not concerned. IGMP passes, since the host answers the
//! queries.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;

use crate::net::nfnetlink::NfSocket;
use crate::proxy::container::rules::nftables::{Base, Operator, Tables, Verdict};
use crate::proxy::container::rules::{
    FAMILY_IPV4, IP_DESTINATION, IP_PROTOCOL, META_IIF, MULTICAST, UDP,
};

const TABLE: &str = "mcrun-fence";
const CHAIN: &str = "input";

/// The fence. It ends with the value.
pub(crate) struct HostFence {
    socket: NfSocket,
    is_installed: bool,
}

impl HostFence {
    /// A fence without groups, in the caller's namespace. No rule is there yet.
    ///
    /// # Errors
    /// `EPROTONOSUPPORT` where the kernel has no netfilter netlink.
    pub(crate) fn open() -> io::Result<Self> {
        Ok(HostFence { socket: NfSocket::open()?, is_installed: false })
    }

    /// Fences these groups in place of those before, in one step. Without groups there is no rule.
    ///
    /// # Errors
    /// Those of nf_tables: then what was fenced before stays. `EEXIST` where another process has a
    /// table of this name, `EINVAL` before Linux 5.12.
    pub(crate) fn set(&mut self, groups: &BTreeSet<(u32, Ipv4Addr)>) -> io::Result<()> {
        if groups.is_empty() && !self.is_installed {
            return Ok(());
        }
        let mut tables = Tables::new(TABLE);
        if self.is_installed {
            tables.remove_table(FAMILY_IPV4);
        }
        if !groups.is_empty() {
            add_rules(&mut tables, groups);
        }
        self.socket.transact(&tables.finish())?;
        self.is_installed = !groups.is_empty();
        Ok(())
    }
}

fn add_rules(tables: &mut Tables<'_>, groups: &BTreeSet<(u32, Ipv4Addr)>) {
    let mut by_interface: BTreeMap<u32, Vec<Ipv4Addr>> = BTreeMap::new();
    for &(index, group) in groups {
        by_interface.entry(index).or_default().push(group);
    }
    tables.add_table(FAMILY_IPV4);
    tables.add_base_chain(CHAIN, libc::NF_INET_LOCAL_IN as u32, None);
    for (index, groups) in by_interface {
        let set = tables.add_set_of(format!("groups-{index}"), &groups);
        tables.add_rule(CHAIN, |rule| {
            // Most packets of a host are no multicast.
            rule.payload(Base::Network, IP_DESTINATION, Operator::AtLeast, &[MULTICAST]);
            rule.meta(META_IIF, Operator::Equal, &index.to_ne_bytes());
            rule.payload(Base::Network, IP_PROTOCOL, Operator::Equal, &[UDP]);
            rule.address_in::<Ipv4Addr>(IP_DESTINATION, &set);
            rule.counter();
            rule.verdict(&Verdict::Drop);
        });
    }
}
