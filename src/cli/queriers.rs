//! The queriers of LANs, of IGMP and of MLD, as commands show them.

use std::net::IpAddr;

use crate::proxy::{InterfaceStatus, QuerierStatus};

/// A protocol in which a LAN has a querier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Protocol {
    Igmp,
    Mld,
}

impl Protocol {
    /// Both, in the order in which people read about them.
    pub(super) const ALL: [Protocol; 2] = [Protocol::Igmp, Protocol::Mld];

    /// The one of groups and queriers of this address's family.
    pub(super) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Protocol::Igmp } else { Protocol::Mld }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Protocol::Igmp => "IGMP",
            Protocol::Mld => "MLD",
        }
    }

    /// The querier of an interface's status; `None`: the proxy does not speak the protocol there.
    pub(super) fn place(self, entry: &mut InterfaceStatus) -> Option<&mut Option<QuerierStatus>> {
        match self {
            Protocol::Igmp => Some(&mut entry.querier),
            Protocol::Mld => entry.mld.as_mut().map(|mld| &mut mld.querier),
        }
    }
}

/// What is known of the querier of an interface's LAN in one protocol.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heard<'e> {
    pub(super) protocol: Protocol,
    pub(super) querier: Option<&'e QuerierStatus>,
    /// Seconds for which a querier was listened for; `None`: nobody listens.
    pub(super) listening_s: Option<u64>,
    /// After so many seconds without a query there is no querier (RFC 9776 §8.5, RFC 9777 §9.5).
    pub(super) timeout_s: u64,
}

impl<'e> Heard<'e> {
    /// `None`: the proxy does not speak the protocol there.
    pub(super) fn of(entry: &'e InterfaceStatus, protocol: Protocol) -> Option<Self> {
        let (querier, timeout_s) = match protocol {
            Protocol::Igmp => (&entry.querier, entry.querier_timeout_s),
            Protocol::Mld => {
                let mld = entry.mld.as_ref()?;
                (&mld.querier, mld.querier_timeout_s)
            }
        };
        let listening_s = entry.listening_s;
        Some(Heard { protocol, querier: querier.as_ref(), listening_s, timeout_s })
    }

    /// In each protocol that the proxy speaks there.
    pub(super) fn all(entry: &'e InterfaceStatus) -> impl Iterator<Item = Self> {
        Protocol::ALL.into_iter().filter_map(|protocol| Heard::of(entry, protocol))
    }

    /// Whether it is certain that there is none: nothing was heard for as long as one may be silent.
    pub(super) fn is_missing(&self) -> bool {
        let silence = self.listening_s.filter(|_| self.querier.is_none());
        silence.is_some_and(|seconds| seconds >= self.timeout_s)
    }

    /// What is said of a querier that was not heard: for how long, until that is certain.
    pub(super) fn unheard(&self) -> String {
        match self.listening_s {
            Some(seconds) if !self.is_missing() => format!(" heard for {seconds} s"),
            _ => String::new(),
        }
    }
}

/// The queriers of an interface's LAN in one cell: `10.0.0.1 v3, MLD none heard for 12 s`. `-`: nobody
/// listens.
pub(super) fn cell<'e>(heard: impl Iterator<Item = Heard<'e>>) -> String {
    let texts: Vec<_> = heard
        .map(|heard| {
            let protocol = match heard.protocol {
                Protocol::Igmp => "",
                Protocol::Mld => "MLD ",
            };
            match heard.querier {
                Some(q) => format!("{protocol}{} v{}{}", q.address, q.version, kind(q)),
                None => format!("{protocol}none{}", heard.unheard()),
            }
        })
        .collect();
    if texts.is_empty() { "-".to_owned() } else { texts.join(", ") }
}

/// What is said of a querier without an address, which only switches send (RFC 4541 §2.1.1).
pub(super) fn kind(querier: &QuerierStatus) -> &'static str {
    if querier.address.is_unspecified() { " (proxy querier)" } else { "" }
}
