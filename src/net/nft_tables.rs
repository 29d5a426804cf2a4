//! The nf_tables tables of a network namespace, as the kernel lists them.

use std::io;

use crate::net::nfnetlink::{DUMP, Message, Messages, NfSocket};

const SUBSYSTEM: u16 = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8;
const GET_TABLE: u16 = SUBSYSTEM | libc::NFT_MSG_GETTABLE as u16;
const NEW_TABLE: u16 = SUBSYSTEM | libc::NFT_MSG_NEWTABLE as u16;
/// `NFTA_TABLE_NAME` of linux/netfilter/nf_tables.h.
const NAME: u16 = 1;

/// A table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    /// Its family, as nft(8) names it.
    pub(crate) family: &'static str,
    /// Its name.
    pub(crate) name: String,
}

/// The tables of the caller's namespace whose names begin so.
///
/// # Errors
/// The kernel's, such as `EPERM` without CAP_NET_ADMIN.
pub(crate) fn named(beginning: &str) -> io::Result<Vec<Table>> {
    let mut request = Messages::default();
    request.push(GET_TABLE, DUMP, libc::AF_UNSPEC as u8, 0, |_| {});
    let mut tables = Vec::new();
    NfSocket::open()?.dump(&request, |message| tables.extend(read(&message)))?;
    tables.retain(|table| table.name.starts_with(beginning));
    Ok(tables)
}

fn read(message: &Message<'_>) -> Option<Table> {
    if message.kind != NEW_TABLE {
        return None;
    }
    let (_, name) = message.attributes().find(|(kind, _)| *kind == NAME)?;
    let name = String::from_utf8_lossy(name).trim_end_matches('\0').to_owned();
    Some(Table { family: family(*message.payload.first()?), name })
}

/// `NFPROTO_*` of linux/netfilter.h.
fn family(number: u8) -> &'static str {
    match i32::from(number) {
        libc::NFPROTO_INET => "inet",
        libc::NFPROTO_IPV4 => "ip",
        libc::NFPROTO_ARP => "arp",
        libc::NFPROTO_NETDEV => "netdev",
        libc::NFPROTO_BRIDGE => "bridge",
        libc::NFPROTO_IPV6 => "ip6",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::netns::NetNs;

    #[test]
    fn a_namespace_without_tables_has_none() {
        let namespace = NetNs::create().unwrap();
        assert_eq!(namespace.run(|| named("")).unwrap().unwrap(), []);
    }
}
