//! The options of a network, and the attachment that a container on it gets. The options are the
//! attachment's keys, except those whose values docker has.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::attachment::{
    Attachment, Driver, IpAssignment, Networks, SpecError, option_pairs, parse_each,
};
use crate::docker_network::protocol::DockerId;
use crate::primitives::{InterfaceName, MacAddr, MacvlanMode, printable};

/// Characters of an option that are shown.
const MAX_SHOWN: usize = 200;

/// Why options are refused: one line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum OptionError {
    /// The attachment that they make is none.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// What only a docker network is refused.
    #[error("{0}")]
    Network(String),
}

/// What docker says of one container's interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Interface {
    /// Its addresses.
    pub(super) addresses: Vec<IpNet>,
    /// The network's gateways.
    pub(super) gateways: Vec<IpAddr>,
    /// Its MAC address; none where the parent's or the kernel's choice counts.
    pub(super) mac: Option<MacAddr>,
    /// Its name, where docker was told one.
    pub(super) name: Option<InterfaceName>,
}

/// The options whose values docker has, and where they are given.
const DOCKERS: [(&str, &str); 4] = [
    (
        "ip",
        "docker gives the address: docker network create --subnet, docker run --ip, or ipv4_address of compose",
    ),
    ("gw", "docker knows the gateway: docker network create --gateway, and --internal for none"),
    (
        "mac",
        "a MAC address is one container's: docker run --mac-address, or mac_address of compose",
    ),
    ("interface", "it is for driver=relay, and a docker network makes an interface of its own"),
];

/// Why a network cannot have this driver of attachments.
const RELAY: &str = "a docker network makes an interface, and relay makes none; the drivers are macvlan \
                     and ipvlan";

/// The attachment of one container that is on a network with these options.
///
/// # Errors
/// [`OptionError`], which names the option, its value and what would be right.
pub(super) fn attachment(
    options: &BTreeMap<String, String>,
    interface: &Interface,
    networks: &Networks,
) -> Result<Attachment, OptionError> {
    let mut text = pairs(options, networks)?;
    text.extend(interface.addresses.iter().map(|net| format!("ip={net}")));
    let on_link = |gateway: &&IpAddr| interface.addresses.iter().any(|net| net.contains(*gateway));
    let gateways = interface.gateways.iter().filter(on_link);
    text.extend(gateways.map(|gateway| format!("gw={gateway}")));
    text.extend(interface.mac.map(|mac| format!("mac={mac}")));
    if let Some(name) = &interface.name {
        text.retain(|pair| !pair.starts_with("name="));
        text.push(format!("name={name}"));
    }
    let mut attachments = parse_each([text.join(",").as_str()], networks)?;
    match (attachments.pop(), attachments.as_slice()) {
        (Some(attachment), []) if matches!(attachment.driver, Driver::Relay { .. }) => {
            Err(OptionError::Network(format!("driver=relay: {RELAY}")))
        }
        (Some(attachment), []) => Ok(attachment),
        _ => Err(OptionError::Network("the options of a network make one attachment".into())),
    }
}

/// Checks the options of a network by themselves.
///
/// # Errors
/// As [`attachment`]; the attachment has no address then.
pub(super) fn check(
    options: &BTreeMap<String, String>,
    gateways: &[IpNet],
    networks: &Networks,
) -> Result<Attachment, OptionError> {
    // What depends on an address, such as a route's gateway, is checked with one that a container
    // could have.
    let example = |gateway: &IpNet| {
        let mut hosts = gateway.trunc().hosts();
        let other = hosts.find(|address| *address != gateway.addr())?;
        IpNet::new(other, gateway.prefix_len()).ok()
    };
    let interface = Interface {
        addresses: gateways.iter().filter_map(example).collect(),
        gateways: gateways.iter().map(IpNet::addr).collect(),
        ..Interface::default()
    };
    let attachment = attachment(options, &interface, networks)?;
    Ok(Attachment { ip: IpAssignment::None, ..attachment })
}

/// The options as `KEY=VALUE`, one for each value.
fn pairs(
    options: &BTreeMap<String, String>,
    networks: &Networks,
) -> Result<Vec<String>, OptionError> {
    if options.is_empty() {
        return match networks.default_name() {
            Ok(Some(name)) => Ok(vec![format!("net={name}")]),
            _ => Err(OptionError::Network(
                "parent is missing: name the LAN interface of the host, as in docker network create \
                 -d mcrun -o parent=eth0"
                    .into(),
            )),
        };
    }
    let mut pairs = Vec::new();
    for (name, value) in options {
        let shown = || printable(&format!("{name}={value}"), MAX_SHOWN);
        let refuse = |why: &str| Err(OptionError::Network(format!("{}: {why}", shown())));
        if let Some((_, why)) = DOCKERS.iter().find(|(docker, _)| docker == name) {
            return refuse(why);
        }
        if name == "driver" && value == "relay" {
            return refuse(RELAY);
        }
        match option_pairs(name, value) {
            Ok(own) => pairs.extend(own),
            Err(why) => return refuse(why),
        }
    }
    Ok(pairs)
}

/// The MAC address of an interface to which docker gives none: always the same one for an address on
/// a network, so that neighbours find a container that was started again. `None` where the driver
/// has it from the parent.
pub(super) fn mac_address(
    attachment: &Attachment,
    network: &DockerId,
    endpoint: &DockerId,
) -> Option<MacAddr> {
    match attachment.driver {
        Driver::Macvlan(MacvlanMode::Passthru) | Driver::Ipvlan { .. } | Driver::Relay { .. } => {
            return None;
        }
        Driver::Macvlan(_) => {}
    }
    let mut hasher = DefaultHasher::new();
    network.hash(&mut hasher);
    match attachment.ip.addresses().first() {
        Some(net) => net.addr().hash(&mut hasher),
        None => endpoint.hash(&mut hasher),
    }
    let [_, _, a, b, c, d, e, f] = hasher.finish().to_be_bytes();
    // Unicast, and administered locally (IEEE 802).
    MacAddr::from_slice(&[a & 0xfc | 0x02, b, c, d, e, f])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn networks() -> Networks {
        Networks::of("/nonexistent")
    }

    fn refusal(pairs: &[(&str, &str)]) -> String {
        let gateways = ["10.9.0.1/24".parse().unwrap()];
        check(&options(pairs), &gateways, &networks()).unwrap_err().to_string()
    }

    #[test]
    fn options_and_what_docker_knows_make_an_attachment() {
        let options = options(&[
            ("parent", "eth1"),
            ("vlan", "100"),
            ("allow", "239.1.0.0/16,239.2.0.0/16"),
            ("name", "media0"),
        ]);
        let interface = Interface {
            addresses: vec!["10.9.0.5/24".parse().unwrap()],
            gateways: vec!["10.9.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            mac: Some("02:00:00:00:00:01".parse().unwrap()),
            name: Some("red0".parse().unwrap()),
        };
        let attachment = attachment(&options, &interface, &networks()).unwrap();
        assert_eq!(attachment.parent_link().as_str(), "eth1.100");
        assert_eq!(attachment.policy.allow.len(), 2);
        assert_eq!(attachment.ip.addresses(), interface.addresses);
        // A gateway of a family that the interface does not have is none of it.
        assert_eq!(attachment.gateways, interface.gateways[..1]);
        assert_eq!(attachment.mac, interface.mac);
        assert_eq!(attachment.interface_name(3).as_str(), "red0");
    }

    #[test]
    fn a_bad_option_is_told_with_what_is_right() {
        assert!(refusal(&[]).starts_with("parent is missing: name the LAN interface"));
        assert!(refusal(&[("vlan", "1")]).starts_with("parent= is missing"));
        let text = refusal(&[("parent", "eth1"), ("ip", "10.9.0.5/24")]);
        assert!(text.starts_with("ip=10.9.0.5/24: docker gives the address: "), "{text}");
        let text = refusal(&[("parnt", "eth1")]);
        assert_eq!(text, "attachment key \"parnt\" is unknown; did you mean parent?");
        let text = refusal(&[("parent", "eth1"), ("vlan", "5000")]);
        assert!(text.starts_with("vlan=5000: "), "{text}");
        let text = refusal(&[("parent", "eth1"), ("driver", "relay")]);
        assert!(text.ends_with("the drivers are macvlan and ipvlan"), "{text}");
        for value in ["eth1,l2=open", "eth1;parent=eth2"] {
            assert_eq!(refusal(&[("parent", value)]), format!("parent={value}: it has one value"));
        }
        let text = refusal(&[("parent", "eth1"), ("l2=open,x", "1")]);
        assert!(text.starts_with("l2=open,x=1: the name of an option has"), "{text}");
        let text = refusal(&[("parent", "eth1"), ("allow", " ")]);
        assert!(text.starts_with("allow= has no value"), "{text}");
        let text = refusal(&[("parent", "eth1"), ("route", "10.0.0.0/8@10.8.0.1")]);
        assert!(text.contains("is in no subnet of the interface"), "{text}");
        let text = refusal(&[("net", "nothing-here")]);
        assert!(text.starts_with("net=nothing-here: there is no such network"), "{text}");
    }

    #[test]
    fn an_address_on_a_network_has_one_mac_address() {
        let id = |text: &str| DockerId::try_from(text.to_owned()).unwrap();
        let options = options(&[("parent", "eth1")]);
        let mac = |network: &str, endpoint: &str, address: Option<&str>| {
            let addresses = address.iter().map(|net| net.parse().unwrap()).collect();
            let interface = Interface { addresses, ..Interface::default() };
            let attachment = attachment(&options, &interface, &networks()).unwrap();
            mac_address(&attachment, &id(network), &id(endpoint)).unwrap()
        };
        let (one, other) = (Some("10.9.0.5/24"), Some("10.9.0.6/24"));
        assert_eq!(mac("a", "1", one), mac("a", "2", one));
        assert_ne!(mac("a", "1", one), mac("a", "1", other));
        assert_ne!(mac("a", "1", one), mac("b", "1", one));
        assert_ne!(mac("a", "1", None), mac("a", "2", None));
        assert_eq!(mac("a", "1", one).octets()[0] & 3, 2);
    }

    proptest! {
        #[test]
        fn no_option_gets_past_its_own_key(
            name in "parent|allow|deny|vlan|net|l2|[ -~]{0,12}", value in "[ -~]{0,30}|\\PC{0,30}",
        ) {
            let options = BTreeMap::from([
                ("parent".to_owned(), "eth1".to_owned()), (name.clone(), value),
            ]);
            if let Ok(attachment) = check(&options, &[], &networks()) {
                prop_assert!(name == "parent" || attachment.parent.as_str() == "eth1");
                prop_assert!(name == "l2" || attachment.l2.is_closed());
                prop_assert!(attachment.mac.is_none() && attachment.gateways.is_empty());
            }
        }
    }
}
