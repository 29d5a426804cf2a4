//! A small synchronous netlink client: requests with their acknowledgement, batches, dumps.
//!
//! A hook makes a few requests and waits for each: an event loop would bring no gain. Notifications
//! are read on a socket of their own by the code that subscribes to them.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use crate::net::netns::NetNs;

/// Flags of a request that creates an object and fails if the object exists.
pub use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};

/// Why a netlink request failed.
#[derive(Debug)]
pub struct NetlinkError {
    /// The kernel's error number, positive; 0 when the answer could not be understood.
    pub errno: i32,
    /// The kernel's error text (`NLMSGERR_ATTR_MSG`), if it gave one.
    pub message: Option<String>,
}

impl fmt::Display for NetlinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.message, self.errno) {
            (Some(message), 0) => f.write_str(message),
            (Some(message), errno) => {
                write!(f, "{} ({message})", nix::errno::Errno::from_raw(errno).desc())
            }
            (None, errno) => f.write_str(nix::errno::Errno::from_raw(errno).desc()),
        }
    }
}

impl std::error::Error for NetlinkError {}

impl From<io::Error> for NetlinkError {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(errno) => NetlinkError { errno, message: None },
            None => NetlinkError { errno: 0, message: Some(error.to_string()) },
        }
    }
}

fn garbled(what: impl fmt::Display) -> NetlinkError {
    NetlinkError { errno: 0, message: Some(format!("netlink answer not understood: {what}")) }
}

/// A request: a message and its flags beyond `NLM_F_REQUEST | NLM_F_ACK`.
pub type Request = (RouteNetlinkMessage, u16);

/// A NETLINK_ROUTE socket in one network namespace.
pub struct RouteSocket {
    socket: Socket,
    sequence: u32,
}

impl RouteSocket {
    /// Opens a socket in the caller's namespace.
    ///
    /// # Errors
    /// That of socket(2) or bind(2).
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        // Both options are old (Linux 4.12 and 4.3) and only improve the error text.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(RouteSocket { socket, sequence: 0 })
    }

    /// Opens a socket in another namespace.
    ///
    /// # Errors
    /// Those of [`NetNs::run`] and [`RouteSocket::open`].
    pub fn open_in(ns: &NetNs) -> io::Result<Self> {
        ns.run(Self::open)?
    }

    /// Makes one request and waits for its acknowledgement.
    ///
    /// # Errors
    /// The kernel's.
    pub fn request(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), NetlinkError> {
        match self.batch(vec![(message, flags)])?.pop() {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }

    /// Makes several requests with one system call and returns those that the kernel refused, by
    /// position. The kernel handles all of them in order, including those behind a refused one.
    ///
    /// # Errors
    /// Those of the socket itself.
    pub fn batch(
        &mut self,
        requests: Vec<Request>,
    ) -> Result<Vec<(usize, NetlinkError)>, NetlinkError> {
        let first = self.sequence.wrapping_add(1);
        let count = requests.len();
        let mut buffer = Vec::new();
        for (message, flags) in requests {
            self.append(&mut buffer, message, NLM_F_REQUEST | NLM_F_ACK | flags);
        }
        let mut refused = Vec::new();
        let mut answered = 0;
        if count > 0 {
            self.socket.send(&buffer, 0)?;
        }
        while answered < count {
            self.receive(|message| {
                let index = message.header.sequence_number.wrapping_sub(first) as usize;
                if index < count
                    && let NetlinkPayload::Error(error) = &message.payload
                {
                    answered += 1;
                    if let Err(error) = result(error) {
                        refused.push((index, error));
                    }
                }
                Ok(())
            })?;
        }
        Ok(refused)
    }

    /// Asks for one object, such as a link by name.
    ///
    /// # Errors
    /// The kernel's, such as `ENODEV`.
    pub fn get(
        &mut self,
        message: RouteNetlinkMessage,
    ) -> Result<RouteNetlinkMessage, NetlinkError> {
        self.transact(message, 0)?.into_iter().next().ok_or_else(|| garbled("no object in it"))
    }

    /// Asks for all objects of a kind.
    ///
    /// # Errors
    /// The kernel's.
    pub fn dump(
        &mut self,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        self.transact(message, NLM_F_DUMP)
    }

    /// As [`RouteSocket::dump`], with the kernel's filter of what the message names (Linux 4.20). An
    /// older kernel gives all objects of the kind.
    ///
    /// # Errors
    /// The kernel's.
    pub fn filtered_dump(
        &mut self,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        let strict = self.socket.set_netlink_get_strict_chk(true).is_ok();
        let answers = self.dump(message);
        if strict {
            self.socket.set_netlink_get_strict_chk(false)?;
        }
        answers
    }

    fn transact(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        let mut buffer = Vec::new();
        // A single object is followed by an acknowledgement, a dump by its end.
        let ack = if flags & NLM_F_DUMP == NLM_F_DUMP { 0 } else { NLM_F_ACK };
        let sequence = self.append(&mut buffer, message, NLM_F_REQUEST | ack | flags);
        self.socket.send(&buffer, 0)?;
        let mut objects = Vec::new();
        let mut complete = false;
        while !complete {
            self.receive(|message| {
                if message.header.sequence_number != sequence {
                    return Ok(());
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(object) => objects.push(object),
                    NetlinkPayload::Done(_) => complete = true,
                    NetlinkPayload::Error(error) => {
                        result(&error)?;
                        complete = true;
                    }
                    _ => {}
                }
                Ok(())
            })?;
        }
        Ok(objects)
    }

    /// The bytes of a request that is to be acknowledged, and its sequence number.
    pub(crate) fn acknowledged(&mut self, message: RouteNetlinkMessage) -> (Vec<u8>, u32) {
        let mut bytes = Vec::new();
        let sequence = self.append(&mut bytes, message, NLM_F_REQUEST | NLM_F_ACK);
        (bytes, sequence)
    }

    /// Subscribes to the notifications of a group, or ends the subscription. Requests skip them.
    pub(crate) fn subscribe(&self, group: u32, subscribe: bool) -> io::Result<()> {
        if subscribe {
            self.socket.add_membership(group)
        } else {
            self.socket.drop_membership(group)
        }
    }

    fn append(&mut self, buffer: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(message);
        message.header.flags = flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let start = buffer.len();
        buffer.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut buffer[start..]);
        self.sequence
    }

    /// Receives one datagram and hands over each message in it.
    pub(crate) fn receive(
        &mut self,
        mut each: impl FnMut(NetlinkMessage<RouteNetlinkMessage>) -> Result<(), NetlinkError>,
    ) -> Result<(), NetlinkError> {
        let (datagram, _) = self.socket.recv_from_full()?;
        let mut rest = &datagram[..];
        while rest.len() >= 16 {
            let message =
                NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(garbled)?;
            let length = (message.header.length as usize).next_multiple_of(4);
            if length < 16 {
                return Err(garbled("a message of no length"));
            }
            rest = rest.get(length..).unwrap_or(&[]);
            each(message)?;
        }
        Ok(())
    }
}

impl AsFd for RouteSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The result that an acknowledgement carries.
pub(crate) fn result(answer: &ErrorMessage) -> Result<(), NetlinkError> {
    match answer.code {
        None => Ok(()),
        Some(code) => Err(kernel_error(code.get(), &answer.header)),
    }
}

/// Reads an NLMSG_ERROR: the code, and the text among the attributes behind the echoed header
/// (`NETLINK_CAP_ACK` leaves the 16 bytes of the header alone, `NLMSGERR_ATTR_MSG` is 1).
fn kernel_error(code: i32, payload: &[u8]) -> NetlinkError {
    const ATTR_MSG: u16 = 1;
    let mut message = None;
    let mut rest = payload.get(16..).unwrap_or(&[]);
    while let [l0, l1, t0, t1, tail @ ..] = rest {
        let length = usize::from(u16::from_ne_bytes([*l0, *l1]));
        let Some(value) = length.checked_sub(4).and_then(|n| tail.get(..n)) else { break };
        if u16::from_ne_bytes([*t0, *t1]) & 0x3fff == ATTR_MSG {
            let text = value.split(|b| *b == 0).next().unwrap_or(&[]);
            message = Some(String::from_utf8_lossy(text).into_owned());
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    }
    NetlinkError { errno: code.unsigned_abs() as i32, message }
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::{LinkAttribute, LinkMessage};

    use super::*;

    fn link_by_name(name: &str) -> RouteNetlinkMessage {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName(name.into()));
        RouteNetlinkMessage::GetLink(link)
    }

    #[test]
    fn one_object_all_objects_and_an_error() {
        let mut route = RouteSocket::open_in(&NetNs::create().unwrap()).unwrap();
        let RouteNetlinkMessage::NewLink(link) = route.get(link_by_name("lo")).unwrap() else {
            panic!("not a link");
        };
        assert_eq!(link.header.index, 1);
        let all = route.dump(RouteNetlinkMessage::GetLink(LinkMessage::default())).unwrap();
        assert_eq!(all.len(), 1);
        assert_eq!(route.get(link_by_name("none")).unwrap_err().errno, libc::ENODEV);
        // The socket's sequence numbers still match after an error.
        assert!(route.get(link_by_name("lo")).is_ok());
    }

    #[test]
    fn a_batch_names_the_requests_that_were_refused() {
        let mut route = RouteSocket::open_in(&NetNs::create().unwrap()).unwrap();
        let up = |index| {
            let mut link = LinkMessage::default();
            link.header.index = index;
            link.attributes.push(LinkAttribute::Mtu(1400));
            (RouteNetlinkMessage::SetLink(link), 0)
        };
        let refused = route.batch(vec![up(1), up(77), up(1), up(78)]).unwrap();
        let refused: Vec<_> = refused.iter().map(|(index, error)| (*index, error.errno)).collect();
        assert_eq!(refused, [(1, libc::ENODEV), (3, libc::ENODEV)]);
        assert!(route.batch(vec![up(1)]).unwrap().is_empty());
        assert!(route.batch(Vec::new()).unwrap().is_empty());
    }
}
