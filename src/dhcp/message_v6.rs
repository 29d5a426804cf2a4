//! Messages of DHCPv6 (RFC 8415 §8 and §21): what a client writes, and what it reads of a server. Pure.

use std::net::Ipv6Addr;

/// Most options of one level, and most addresses, that are read.
const MAX_OPTIONS: usize = 64;
/// Longest identifier (RFC 8415 §11.1).
const LONGEST_DUID: usize = 130;
/// A lifetime that does not end.
pub const FOR_EVER: u32 = u32::MAX;

/// Codes of options (RFC 8415 §24).
mod option {
    pub(super) const CLIENT_ID: u16 = 1;
    pub(super) const SERVER_ID: u16 = 2;
    pub(super) const IA_NA: u16 = 3;
    pub(super) const IA_ADDRESS: u16 = 5;
    pub(super) const REQUESTED: u16 = 6;
    pub(super) const PREFERENCE: u16 = 7;
    pub(super) const ELAPSED: u16 = 8;
    pub(super) const STATUS: u16 = 13;
    pub(super) const RAPID_COMMIT: u16 = 14;
    pub(super) const FQDN: u16 = 39;
    pub(super) const SOL_MAX_RT: u16 = 82;
}

/// Codes of the status (RFC 8415 §21.13).
pub mod status {
    /// All is well.
    pub const SUCCESS: u16 = 0;
    /// The server does not know the addresses.
    pub const NO_BINDING: u16 = 3;
    /// The address is none of this LAN's.
    pub const NOT_ON_LINK: u16 = 4;
}

/// Kinds of messages (RFC 8415 §7.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Kind {
    Solicit = 1,
    Advertise = 2,
    Request = 3,
    Renew = 5,
    Rebind = 6,
    Reply = 7,
    Release = 8,
    Decline = 9,
}

/// What a client says.
#[derive(Debug, Clone)]
pub struct ClientMessage<'m> {
    /// What it is.
    pub kind: Kind,
    /// 24 bits.
    pub transaction: u32,
    /// Since the first message of the exchange, in hundredths of a second.
    pub elapsed: u16,
    /// The client's DUID.
    pub client: &'m [u8],
    /// The server's, if one is meant.
    pub server: Option<&'m [u8]>,
    /// The identity association.
    pub iaid: u32,
    /// The address that it has or wants.
    pub address: Option<Ipv6Addr>,
    /// The host name, if one is told.
    pub host_name: Option<&'m str>,
}

impl ClientMessage<'_> {
    /// As it is sent.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.kind as u8];
        bytes.extend(&self.transaction.to_be_bytes()[1..]);
        put(&mut bytes, option::CLIENT_ID, self.client);
        if let Some(server) = self.server {
            put(&mut bytes, option::SERVER_ID, server);
        }
        put(&mut bytes, option::ELAPSED, &self.elapsed.to_be_bytes());
        // The server chooses the times.
        let mut association = self.iaid.to_be_bytes().to_vec();
        association.extend([0; 8]);
        if let Some(address) = self.address {
            put(&mut association, option::IA_ADDRESS, &[&address.octets()[..], &[0; 8]].concat());
        }
        put(&mut bytes, option::IA_NA, &association);
        if matches!(self.kind, Kind::Release | Kind::Decline) {
            return bytes;
        }
        put(&mut bytes, option::REQUESTED, &option::SOL_MAX_RT.to_be_bytes());
        if self.kind == Kind::Solicit {
            put(&mut bytes, option::RAPID_COMMIT, &[]);
        }
        if let Some(name) = self.host_name {
            // No flag: the server does as it likes. A name without an end is no whole one (RFC 4704 §4.2).
            put(&mut bytes, option::FQDN, &[&[0, name.len() as u8], name.as_bytes()].concat());
        }
        bytes
    }
}

fn put(bytes: &mut Vec<u8>, code: u16, value: &[u8]) {
    bytes.extend(code.to_be_bytes());
    bytes.extend((value.len() as u16).to_be_bytes());
    bytes.extend(value);
}

/// What a server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerMessage {
    /// Advertise or Reply.
    pub kind: Kind,
    /// 24 bits.
    pub transaction: u32,
    /// The client's DUID.
    pub client: Vec<u8>,
    /// The server's DUID.
    pub server: Vec<u8>,
    /// How much the server wants to be chosen.
    pub preference: u8,
    /// Whether it is the answer to a Solicit that gives an address at once.
    pub is_rapid: bool,
    /// The status of the whole.
    pub status: u16,
    /// Longest wait between two Solicits in seconds, if the server says one (RFC 8415 §21.24).
    pub sol_max_rt: Option<u32>,
    /// The identity associations.
    pub associations: Vec<Association>,
}

/// An identity association for addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Association {
    /// Which of the client's.
    pub iaid: u32,
    /// When to renew, in seconds; 0: the client chooses.
    pub t1: u32,
    /// When to rebind, in seconds; 0: the client chooses.
    pub t2: u32,
    /// Its status.
    pub status: u16,
    /// The addresses.
    pub addresses: Vec<GivenAddress>,
}

/// An address of an identity association.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GivenAddress {
    /// The address.
    pub address: Ipv6Addr,
    /// For how many seconds it is preferred.
    pub preferred: u32,
    /// For how many seconds it is valid.
    pub valid: u32,
}

impl ServerMessage {
    /// Reads one. `None`: it is none, or lacks what it must have (RFC 8415 §16.3 and §16.10).
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let ([kind, a, b, c], rest) = bytes.split_first_chunk()?;
        let kind = match kind {
            2 => Kind::Advertise,
            7 => Kind::Reply,
            _ => return None,
        };
        let transaction = u32::from_be_bytes([0, *a, *b, *c]);
        let options = options(rest)?;
        let first = |code| options.iter().find(|o| o.0 == code).map(|o| o.1);
        let duid = |code| first(code).filter(|id| (3..=LONGEST_DUID).contains(&id.len()));
        let (client, server) = (duid(option::CLIENT_ID)?, duid(option::SERVER_ID)?);
        let associations = options.iter().filter(|o| o.0 == option::IA_NA);
        Some(ServerMessage {
            kind,
            transaction,
            client: client.to_vec(),
            server: server.to_vec(),
            preference: first(option::PREFERENCE).and_then(<[u8]>::first).copied().unwrap_or(0),
            is_rapid: first(option::RAPID_COMMIT).is_some(),
            status: status_of(&options)?,
            sol_max_rt: first(option::SOL_MAX_RT).and_then(number),
            associations: associations
                .map(|(_, value)| Association::parse(value))
                .collect::<Option<_>>()?,
        })
    }
}

impl Association {
    fn parse(value: &[u8]) -> Option<Self> {
        let (header, rest) = value.split_at_checked(12)?;
        let options = options(rest)?;
        let addresses = options.iter().filter(|o| o.0 == option::IA_ADDRESS);
        Some(Association {
            iaid: number(&header[..4])?,
            t1: number(&header[4..8])?,
            t2: number(&header[8..])?,
            status: status_of(&options)?,
            addresses: addresses
                .map(|(_, value)| GivenAddress::parse(value))
                .collect::<Option<_>>()?,
        })
    }
}

impl GivenAddress {
    fn parse(value: &[u8]) -> Option<Self> {
        let (address, rest) = value.split_first_chunk::<16>()?;
        let (lifetimes, rest) = rest.split_at_checked(8)?;
        let (preferred, valid) = (number(&lifetimes[..4])?, number(&lifetimes[4..])?);
        // An address whose status is not success is as good as ended.
        let valid = if status_of(&options(rest)?)? == status::SUCCESS { valid } else { 0 };
        Some(GivenAddress { address: (*address).into(), preferred, valid })
    }
}

fn number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

fn status_of(options: &[(u16, &[u8])]) -> Option<u16> {
    let Some((_, value)) = options.iter().find(|o| o.0 == option::STATUS) else {
        return Some(status::SUCCESS);
    };
    Some(u16::from_be_bytes(*value.first_chunk()?))
}

/// The options of one level; `None`: their lengths contradict that of the whole, or they are too many.
fn options(mut rest: &[u8]) -> Option<Vec<(u16, &[u8])>> {
    let mut options = Vec::new();
    while !rest.is_empty() {
        let ([a, b, c, d], behind) = rest.split_first_chunk()?;
        let length = usize::from(u16::from_be_bytes([*c, *d]));
        let (value, behind) = behind.split_at_checked(length)?;
        options.push((u16::from_be_bytes([*a, *b]), value));
        rest = behind;
        if options.len() > MAX_OPTIONS {
            return None;
        }
    }
    Some(options)
}

/// Whether a client can have an address: a global or local one of a single host.
pub fn is_host(address: Ipv6Addr) -> bool {
    !address.is_unspecified()
        && !address.is_loopback()
        && !address.is_multicast()
        && !address.is_unicast_link_local()
        && address.to_ipv4_mapped().is_none()
}

/// Reads what may be an answer, and checks what holds of every one: for tests and fuzzing.
///
/// # Panics
/// When it does not hold.
#[cfg(any(test, feature = "fuzzing"))]
pub fn check_answer(bytes: &[u8]) {
    let Some(message) = ServerMessage::parse(bytes) else { return };
    assert!(message.transaction < 1 << 24);
    assert!((3..=LONGEST_DUID).contains(&message.server.len()));
    assert!(message.associations.len() <= MAX_OPTIONS);
    for association in message.associations {
        assert!(association.addresses.len() <= MAX_OPTIONS);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in crate::dhcp) const SERVER: &[u8] = b"\0\x04server-1";

    /// A server's message that gives one address.
    pub(in crate::dhcp) fn answer(
        kind: Kind,
        (transaction, iaid): (u32, u32),
        client: &[u8],
        given: Option<GivenAddress>,
        (t1, t2): (u32, u32),
        code: u16,
    ) -> Vec<u8> {
        let mut bytes = vec![kind as u8];
        bytes.extend(&transaction.to_be_bytes()[1..]);
        put(&mut bytes, option::CLIENT_ID, client);
        put(&mut bytes, option::SERVER_ID, SERVER);
        let mut association = [iaid, t1, t2].map(u32::to_be_bytes).concat();
        if let Some(GivenAddress { address, preferred, valid }) = given {
            let lifetimes = [preferred, valid].map(u32::to_be_bytes).concat();
            let value = [&address.octets()[..], &lifetimes].concat();
            put(&mut association, option::IA_ADDRESS, &value);
        }
        if code != status::SUCCESS {
            put(&mut association, option::STATUS, &code.to_be_bytes());
        }
        put(&mut bytes, option::IA_NA, &association);
        bytes
    }

    fn whole() -> Vec<u8> {
        let given = GivenAddress { address: "fd00::7".parse().unwrap(), preferred: 60, valid: 120 };
        answer(Kind::Reply, (0x12_3456, 9), b"\0\x04client", Some(given), (30, 50), 0)
    }

    #[test]
    fn an_answer_is_read_with_all_that_it_gives() {
        let mut bytes = whole();
        put(&mut bytes, option::PREFERENCE, &[255]);
        put(&mut bytes, option::SOL_MAX_RT, &100u32.to_be_bytes());
        put(&mut bytes, option::RAPID_COMMIT, &[]);
        let message = ServerMessage::parse(&bytes).unwrap();
        assert_eq!((message.kind, message.transaction), (Kind::Reply, 0x12_3456));
        assert_eq!((message.preference, message.is_rapid), (255, true));
        assert_eq!((message.sol_max_rt, message.server.as_slice()), (Some(100), SERVER));
        let [association] = &message.associations[..] else { panic!("{message:?}") };
        assert_eq!((association.iaid, association.t1, association.t2), (9, 30, 50));
        assert_eq!(association.addresses[0].valid, 120);
    }

    #[test]
    fn what_is_cut_or_lacks_an_identifier_is_no_answer() {
        let good = whole();
        for length in 0..good.len() {
            // Behind both identifiers it is whole, and gives nothing.
            let read = ServerMessage::parse(&good[..length]);
            assert!(
                read.is_none_or(|m| length == 30 && m.associations.is_empty()),
                "{length} bytes"
            );
        }
        for (at, value) in [(0, 1), (5, 9), (17, 9)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert_eq!(ServerMessage::parse(&bad), None, "byte {at}");
        }
    }

    #[test]
    fn a_question_has_the_options_of_its_kind() {
        let message = ClientMessage {
            kind: Kind::Solicit,
            transaction: 0x01_0203,
            elapsed: 7,
            client: b"\0\x04client",
            server: None,
            iaid: 5,
            address: None,
            host_name: Some("cam"),
        };
        let bytes = message.bytes();
        assert_eq!(bytes[..4], [1, 1, 2, 3]);
        let read = options(&bytes[4..]).unwrap();
        let codes: Vec<_> = read.iter().map(|o| o.0).collect();
        assert_eq!(codes, [1, 8, 3, 6, 14, 39]);
        let address = "fd00::7".parse().ok();
        let release =
            ClientMessage { kind: Kind::Release, address, server: Some(SERVER), ..message };
        let bytes = release.bytes();
        let read = options(&bytes[4..]).unwrap();
        assert_eq!(read.iter().map(|o| o.0).collect::<Vec<_>>(), [1, 2, 8, 3]);
        assert_eq!(read[3].1.len(), 12 + 28);
    }

    proptest! {
        #[test]
        fn no_answer_is_a_surprise(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            at in 0usize..70,
            byte in any::<u8>(),
        ) {
            check_answer(&bytes);
            let mut changed = whole();
            let at = at % changed.len();
            changed[at] = byte;
            check_answer(&changed);
        }
    }
}
