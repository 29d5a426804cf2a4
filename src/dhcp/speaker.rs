//! The process that speaks to servers: it has no privilege, and reads what strangers send.
//!
//! It has three descriptors: a packet socket that receives DHCP of the container's interface and sends
//! there, one by which it asks the LAN who has an address, and a socket to the
//! [holder](crate::dhcp::holder), which it asks for addresses.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{read, write};
use socket2::{Domain, SockFilter, Socket, Type};

use crate::dhcp::order::Order;
use crate::dhcp::protocol::{Protocol, Step};
use crate::dhcp::{frame, frame_v6};
use crate::net::address_probe;
use crate::net::arp_announcement::{bound_link, link_address};
use crate::sys::sockopt;

/// What the holder says when the address is to be given back.
pub(super) const RELEASE: u8 = b'R';
/// What it says when an order is carried out.
pub(super) const DONE: u8 = b'D';
/// What it says when the order could not be carried out.
pub(super) const FAILED: u8 = b'F';
/// Longest frame that is read.
const LONGEST_FRAME: usize = 2048;
/// Bytes of an answer that are read: of ARP, or of neighbour discovery with one option.
const ANSWER_FRAME: usize = 128;
/// When a link that was set down is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// Frames that are read one after the other.
const BURST: usize = 64;

/// The packet socket, in the calling thread's namespace.
///
/// # Errors
/// `EPERM` without CAP_NET_RAW, `ENODEV` for an index without an interface.
pub(super) fn open_socket(index: u32) -> io::Result<Socket> {
    open(index, &dhcp_alone(), libc::ETH_P_IP as u16)
}

/// The packet socket for DHCPv6.
///
/// # Errors
/// As those of [`open_socket`].
pub(super) fn open_socket_v6(index: u32) -> io::Result<Socket> {
    open(index, &dhcpv6_alone(), libc::ETH_P_IPV6 as u16)
}

/// The socket that asks who has an address of IPv6.
///
/// # Errors
/// As those of [`open_socket`].
pub(super) fn open_probe_socket_v6(index: u32) -> io::Result<Socket> {
    open(index, &address_probe::answers(), libc::ETH_P_IPV6 as u16)
}

/// The socket that asks who has an address, in the calling thread's namespace.
///
/// # Errors
/// As those of [`open_socket`].
pub(super) fn open_probe_socket(index: u32) -> io::Result<Socket> {
    open(index, &answers(), libc::ETH_P_ARP as u16)
}

fn open(index: u32, filter: &[SockFilter], protocol: u16) -> io::Result<Socket> {
    // Protocol 0: nothing is queued before the filter is there.
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
    socket.attach_filter(filter)?;
    sockopt::lock_filter(&socket)?;
    socket.set_nonblocking(true)?;
    socket.bind(&link_address(index, protocol))?;
    Ok(socket)
}

/// A socket filter that accepts what shows that somebody has an address: replies, announcements, and
/// questions from no address. The questions of a busy LAN wake nobody.
fn answers() -> [SockFilter; 9] {
    /// Offsets in a frame of ARP: the operation, the sender's address, the target's.
    const OPERATION: u32 = 20;
    const SENDER: u32 = 28;
    const TARGET: u32 = 38;
    let op = |code: u32, jt, jf, k| SockFilter::new(code as u16, jt, jf, k);
    let equal = libc::BPF_JMP | libc::BPF_JEQ;
    let word = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    [
        op(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 0, 0, OPERATION),
        op(equal | libc::BPF_K, 5, 0, 2),
        op(word, 0, 0, SENDER),
        op(equal | libc::BPF_K, 3, 0, 0),
        op(libc::BPF_MISC | libc::BPF_TAX, 0, 0, 0),
        op(word, 0, 0, TARGET),
        op(equal | libc::BPF_X, 0, 1, 0),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, ANSWER_FRAME as u32),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ]
}

/// A socket filter that accepts UDP to the port of clients.
fn dhcp_alone() -> [SockFilter; 9] {
    let op = |code: u32, jt, jf, k| SockFilter::new(code as u16, jt, jf, k);
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    [
        op(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, 23),
        op(equal, 0, 6, libc::IPPROTO_UDP as u32),
        op(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 0, 0, 20),
        // More fragments, or an offset.
        op(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 4, 0, 0x3fff),
        op(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0, 0, 14),
        op(libc::BPF_LD | libc::BPF_H | libc::BPF_IND, 0, 0, 16),
        op(equal, 0, 1, frame::CLIENT_PORT.into()),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, LONGEST_FRAME as u32),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ]
}

/// A socket filter that accepts UDP of IPv6 to the port of clients, without extension headers.
fn dhcpv6_alone() -> [SockFilter; 6] {
    let op = |code: u32, jt, jf, k| SockFilter::new(code as u16, jt, jf, k);
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    [
        op(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, 20),
        op(equal, 0, 3, libc::IPPROTO_UDP as u32),
        op(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 0, 0, 56),
        op(equal, 0, 1, frame_v6::CLIENT_PORT.into()),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, LONGEST_FRAME as u32),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ]
}

/// A speaker.
pub(super) struct Speaker {
    pub(super) protocol: Protocol,
    pub(super) packets: Socket,
    /// `None`: the LAN is not asked.
    pub(super) probes: Option<Socket>,
    pub(super) holder: OwnedFd,
}

impl Speaker {
    /// Speaks until the holder has gone or wants the address to be given back, or the interface has
    /// gone.
    ///
    /// # Errors
    /// Those of poll(2).
    pub(super) fn run(mut self) -> io::Result<()> {
        let mut was_down = false;
        while self.act() {
            let left = self.protocol.poll_timeout();
            let left = left.map(|at| at.saturating_duration_since(Instant::now()));
            // A link that goes is down first, and says nothing when it has gone.
            let left = match (left, was_down) {
                (Some(left), true) => Some(left.min(LOOK_AGAIN)),
                (None, true) => Some(LOOK_AGAIN),
                (left, false) => left,
            };
            // Rounded up, so that the time has come then.
            let timeout = left.map(|left| PollTimeout::try_from(left + Duration::from_millis(1)));
            let timeout = timeout.map_or(PollTimeout::NONE, |t| t.unwrap_or(PollTimeout::MAX));
            let mut awaited = vec![
                PollFd::new(self.packets.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.holder.as_fd(), PollFlags::POLLIN),
            ];
            awaited.extend(self.probes.as_ref().map(|p| PollFd::new(p.as_fd(), PollFlags::POLLIN)));
            match poll(&mut awaited, timeout) {
                Err(error) if error != nix::errno::Errno::EINTR => return Err(error.into()),
                _ => {}
            }
            if awaited[1].any() == Some(true) {
                if self.hear_holder() == Some(RELEASE) {
                    self.protocol.release();
                    self.act();
                }
                return Ok(());
            }
            was_down = self.receive();
            if bound_link(&self.packets).is_ok_and(|index| index == u32::MAX || index == 0) {
                return Ok(());
            }
            // An answer that is there counts, also when the wait is over.
            let now = Instant::now();
            self.receive_answers(now);
            self.protocol.handle_timeout(now);
        }
        Ok(())
    }

    /// Does what the client says; `false`: the holder has gone.
    fn act(&mut self) -> bool {
        while let Some(step) = self.protocol.next_step() {
            match step {
                // What is lost is sent again.
                Step::Send(frame) => {
                    let _ = write(&self.packets, &frame);
                }
                Step::Ask(frame) => {
                    // Whoever cannot be asked does not answer.
                    if let Some(probes) = &self.probes {
                        let _ = write(probes, &frame);
                    }
                }
                Step::Order(order) => {
                    if !self.order(&order) {
                        return false;
                    }
                }
            }
        }
        true
    }

    /// Asks the holder and waits for its answer.
    fn order(&mut self, order: &Order) -> bool {
        if write(&self.holder, &order.bytes()).is_err() {
            return false;
        }
        match self.hear_holder() {
            Some(RELEASE) => {
                self.protocol.release();
                while let Some(step) = self.protocol.next_step() {
                    if let Step::Send(frame) = step {
                        let _ = write(&self.packets, &frame);
                    }
                }
                false
            }
            heard => heard == Some(DONE),
        }
    }

    fn hear_holder(&self) -> Option<u8> {
        let mut byte = [0];
        match read(&self.holder, &mut byte) {
            Ok(1) => Some(byte[0]),
            _ => None,
        }
    }

    /// Reads who has which address.
    fn receive_answers(&mut self, now: Instant) {
        let Some(probes) = &self.probes else { return };
        let mut buffer = [0; ANSWER_FRAME];
        for _ in 0..BURST {
            let Ok(length) = read(probes, &mut buffer) else { return };
            let Some(frame) = buffer.get(..length) else { return };
            self.protocol.handle_answer(frame, now);
        }
    }

    /// Receives what is there. `true`: the link has been set down, and may have gone.
    fn receive(&mut self) -> bool {
        let mut buffer = [0; LONGEST_FRAME];
        for _ in 0..BURST {
            let length = match read(&self.packets, &mut buffer) {
                Ok(length) => length,
                Err(error) => return error == nix::errno::Errno::ENETDOWN,
            };
            let Some(frame) = buffer.get(..length) else { return false };
            self.protocol.handle_frame(frame, Instant::now());
        }
        false
    }
}
