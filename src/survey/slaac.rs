//! The addresses that a container's interface has made from the prefixes of routers (RFC 4862 §5.5).

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

use ipnet::{IpNet, Ipv6Net};

use crate::attachment::Attachment;
use crate::net::address_probe::AddressProbe;
use crate::net::ipv6_addresses;
use crate::net::netns::NetNs;
use crate::notice::Notice;
use crate::primitives::MacAddr;
use crate::survey::HostLinks;

/// `RTF_ADDRCONF` and `RTF_PREFIX_RT` of linux/ipv6_route.h: the route of a prefix that a router has
/// advertised as being on the link.
const PREFIX_OF_ROUTER: u32 = 0x0004_0000 | 0x0008_0000;
/// Bits of a prefix from which an Ethernet address makes an address (RFC 2464 §4).
const PREFIX_LENGTH: u8 = 64;

/// What the kernel of a container shows of IPv6.
#[derive(Debug, Clone, Default)]
pub struct Ipv6Tables {
    addresses: String,
    routes: String,
}

impl Ipv6Tables {
    /// In the namespace of this process.
    ///
    /// # Errors
    /// Those of open(2), when the process has ended.
    pub fn of_process(pid: i32) -> io::Result<Self> {
        Self::read(&format!("/proc/{pid}/net"))
    }

    /// In the namespace that is mounted there.
    ///
    /// # Errors
    /// Those of open(2) and setns(2).
    pub fn at(namespace: &Path) -> io::Result<Self> {
        NetNs::open(namespace)?.run(|| Self::read("/proc/thread-self/net"))?
    }

    fn read(directory: &str) -> io::Result<Self> {
        let file = |name: &str| std::fs::read_to_string(format!("{directory}/{name}"));
        Ok(Ipv6Tables { addresses: file("if_inet6")?, routes: file("ipv6_route")? })
    }

    /// The lines that end with the name of an interface.
    fn lines<'t>(table: &'t str, interface: &'t str) -> impl Iterator<Item = &'t str> {
        let is_own =
            move |line: &&str| line.split_ascii_whitespace().next_back() == Some(interface);
        table.lines().filter(is_own)
    }

    /// The addresses that an interface has made from prefixes of routers, and can use.
    pub fn slaac_addresses(&self, interface: &str, attachment: &Attachment) -> Vec<Ipv6Net> {
        let own = Self::lines(&self.addresses, interface).flat_map(ipv6_addresses::parse);
        let is_made = |address: &Ipv6Net| {
            !address.addr().is_unicast_link_local()
                && !attachment.ip.addresses().contains(&IpNet::V6(*address))
        };
        own.filter(|own| own.is_certain).map(|own| own.address).filter(is_made).collect()
    }

    /// The addresses that an interface of this MAC address would make from prefixes of routers, and
    /// has not: its kernel tries one for 1 to 2 s, and drops it when another station has it
    /// (`addrconf_dad_stop` in net/ipv6/addrconf.c).
    fn missing(&self, interface: &str, mac: MacAddr) -> Vec<Ipv6Addr> {
        let identifier = mac.link_local_address().to_bits() & u128::from(u64::MAX);
        let prefix = |line: &str| {
            let mut words = line.split_ascii_whitespace();
            let prefix = u128::from_str_radix(words.next()?, 16).ok()?;
            let length = u8::from_str_radix(words.next()?, 16).ok()?;
            let flags = u32::from_str_radix(words.nth(6)?, 16).ok()?;
            let is_routers = flags & PREFIX_OF_ROUTER == PREFIX_OF_ROUTER;
            (is_routers && length == PREFIX_LENGTH).then_some(prefix)
        };
        let made = Self::lines(&self.routes, interface).filter_map(prefix);
        let made = made.map(|prefix| Ipv6Addr::from_bits(prefix | identifier));
        let own: Vec<_> =
            Self::lines(&self.addresses, interface).flat_map(ipv6_addresses::parse).collect();
        let has = |made: &Ipv6Addr| own.iter().any(|o| o.is_certain && o.address.addr() == *made);
        made.filter(|made| !has(made)).collect()
    }

    /// What is said of addresses that another station of the parent's LAN has. The calling thread is in
    /// the host's namespace, and asks the LAN who that is: an answer comes within some milliseconds.
    pub fn duplicates(
        &self,
        interface: &str,
        mac: MacAddr,
        attachment: &Attachment,
        links: &HostLinks,
    ) -> Vec<Notice> {
        let parent = attachment.parent_link().to_string();
        let Some(link) = links.link(&parent) else { return Vec::new() };
        let notice = |address: Ipv6Addr| {
            let station = station(link.index, address).filter(|station| *station != mac)?;
            Some(Notice::DuplicateAddress {
                interface: interface.to_owned(),
                address,
                parent: parent.clone(),
                station: station.to_string(),
            })
        };
        self.missing(interface, mac).into_iter().filter_map(notice).collect()
    }
}

/// The station that has an address on the LAN of the host's interface of this index; `None`: none
/// answers, or none can be asked without root.
fn station(index: u32, address: Ipv6Addr) -> Option<MacAddr> {
    let asked = AddressProbe::send([(index, IpAddr::V6(address))]).ok()??;
    asked.wait().ok()?.map(|conflict| conflict.mac)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attachment::parse_spec;

    #[test]
    fn addresses_of_routers_are_told_from_those_that_were_asked_for_and_from_missing_ones() {
        let attachment = parse_spec("parent=eth1,ip=slaac,ip=fd00::5/64").unwrap();
        let mac: MacAddr = "02:00:5e:10:00:07".parse().unwrap();
        let addresses = "fe8000000000000000005efffe100007 0c 40 20 80 mc0\n\
                         fd000000000000000000000000000005 0c 40 00 80 mc0\n\
                         20010db80007000000005efffe100007 0c 40 00 00 mc0\n\
                         20010db80008000000005efffe100007 0c 40 00 40 mc0\n\
                         20010db80009000000005efffe100007 0d 40 00 00 mc01\n";
        let route = |prefix: &str, length: &str, flags: &str, interface: &str| {
            let zero = "0".repeat(32);
            format!(
                "{prefix:0<32} {length} {zero} 00 {zero} 00000100 00000001 00000000 {flags} {interface}\n"
            )
        };
        let routes = [
            route("20010db80007", "40", "004c0001", "mc0"),
            route("20010db80008", "40", "004c0001", "mc0"),
            route("20010db80009", "40", "004c0001", "mc0"),
            // Of another interface, of a router, of the kernel, and of another length.
            route("20010db8000a", "40", "004c0001", "mc01"),
            route("20010db8000b", "40", "00440003", "mc0"),
            route("fe80", "40", "00000001", "mc0"),
            route("20010db8000c", "38", "004c0001", "mc0"),
        ];
        let tables = Ipv6Tables { addresses: addresses.into(), routes: routes.concat() };
        let made = ["2001:db8:7::5eff:fe10:7/64".parse().unwrap()];
        assert_eq!(tables.slaac_addresses("mc0", &attachment), made);
        let missing: [Ipv6Addr; 2] =
            ["2001:db8:8::5eff:fe10:7", "2001:db8:9::5eff:fe10:7"].map(|a| a.parse().unwrap());
        assert_eq!(tables.missing("mc0", mac), missing);
        assert_eq!(Ipv6Tables::default().missing("mc0", mac), [Ipv6Addr::UNSPECIFIED; 0]);
    }
}
