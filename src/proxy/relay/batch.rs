//! Batches of packets that are received by `recvmmsg`, changed in place, and sent from the same
//! memory by `sendmmsg`.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr;

pub(super) use crate::proxy::relay::batch::memory::BATCH;
use crate::proxy::relay::batch::memory::{MAX_PARTS, Memory, ORIGINAL, SLOT, mark_header};
pub(crate) use crate::proxy::relay::batch::wire::Wire;

pub(super) mod memory;
pub(super) mod wire;

/// Which way packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    /// From the LAN into the container.
    Inbound = 1,
    /// From the container to the LAN.
    Outbound = 2,
}

/// Buffers for one batch. A page of them occupies memory once a packet was written to it: 128 KiB
/// in all for packets of the usual size.
pub(crate) struct Batch<A: Wire = Ipv4Addr> {
    /// No reference to it is ever made, except to the bytes of a packet.
    memory: Memory<A>,
    filled: usize,
    queued: usize,
    /// Bytes in front of each packet that was received.
    lead: usize,
    /// A packet that was received by another proxy, and how many parts of it were sent by that one.
    sent_before: Option<(usize, usize)>,
}

impl<A: Wire> Batch<A> {
    /// An empty batch. None of its slots occupies memory yet.
    pub(crate) fn new() -> Self {
        Batch::with(Memory::private())
    }

    /// An empty batch in a file that somebody else can hold. Where the kernel gives no file, packets
    /// that were received and not sent die with the process.
    pub(crate) fn in_file() -> Self {
        Batch::with(Memory::file().unwrap_or_else(|_| Memory::private()))
    }

    fn with(memory: Memory<A>) -> Self {
        Batch { memory, filled: 0, queued: 0, lead: 0, sent_before: None }
    }

    /// The file, for [`InHand::take`](crate::proxy::relay::InHand::take) when this process is dead.
    pub(crate) fn file(&self) -> Option<BorrowedFd<'_>> {
        self.memory.as_file()
    }

    /// Receives the packets that are queued in a socket, at most [`BATCH`], without blocking.
    /// Returns their number. `flow` and the name of the container's interface say where they go.
    ///
    /// # Errors
    /// As recvmmsg(2): `WouldBlock` when nothing is queued.
    pub(super) fn receive(
        &mut self,
        socket: impl AsFd,
        flow: Flow,
        interface: &str,
    ) -> io::Result<usize> {
        self.clear();
        self.memory.set_flow(flow as u32, interface);
        self.set_lead(flow);
        if A::LEAD > 0 {
            self.memory.prepare(self.lead);
        }
        // SAFETY: the descriptor is borrowed; each header points to its vector, and each vector to
        // a slot of the memory with its length, all of which outlive the call. Nobody else has a
        // reference to any of them. The call of the kernel, not of a library, which might make
        // several of it.
        let received = unsafe {
            libc::syscall(
                libc::SYS_recvmmsg,
                socket.as_fd().as_raw_fd(),
                self.memory.incoming(0),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT,
                ptr::null_mut::<libc::timespec>(),
            )
        };
        let count = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        self.filled = count.min(BATCH);
        if self.lead > 0 {
            (0..self.filled).for_each(|position| self.memory.complete(position));
        }
        Ok(self.filled)
    }

    /// What a socket of the host receives may need room in front of it.
    fn set_lead(&mut self, flow: Flow) {
        self.lead = if flow == Flow::Inbound { A::LEAD } else { 0 };
    }

    /// Puts packets in place of those of [`Batch::receive`], at most [`BATCH`], each as
    /// [`Batch::open`] gives it. Of one, so many parts were sent before.
    pub(super) fn load(
        &mut self,
        flow: Flow,
        interface: &str,
        packets: &[Vec<u8>],
        sent_before: Option<(usize, usize)>,
    ) -> usize {
        self.clear();
        self.memory.set_flow(flow as u32, interface);
        self.set_lead(flow);
        for (position, packet) in packets.iter().take(BATCH).enumerate() {
            let length = packet.len().min(SLOT);
            let bytes = self.memory.part(position * SLOT, length);
            // SAFETY: a part of the memory, with as many bytes.
            unsafe {
                bytes.iov_base.cast::<u8>().copy_from_nonoverlapping(packet.as_ptr(), length)
            };
            mark_header(self.memory.incoming(position), length.saturating_sub(self.lead) as u32);
            self.filled += 1;
        }
        self.sent_before = sent_before;
        self.filled
    }

    /// The room of one packet, for bytes that are no part of a batch, and a way to send it in parts.
    /// The packets of the last batch are gone.
    pub(super) fn scratch(&mut self) -> (&mut [u8], Parts<'_, A>) {
        self.clear();
        let parts = Parts { memory: &self.memory, position: 0, next: 0, skipped: 0 };
        let bytes = self.memory.part(0, SLOT);
        // SAFETY: a part of the memory, which is initialized, and borrowed as long as `self` is;
        // `parts` changes none of it.
        let bytes = unsafe { std::slice::from_raw_parts_mut(bytes.iov_base.cast(), bytes.iov_len) };
        (bytes, parts)
    }

    /// The bytes of packet `position` of the last [`Batch::receive`], with the room in front of it, to be
    /// changed and then queued, sent in parts, or dropped; empty past the last packet. Open them in
    /// their order.
    pub(super) fn open(&mut self, position: usize) -> (&mut [u8], Parts<'_, A>) {
        let sent_before = self.sent_before.filter(|(of, _)| *of == position);
        let skipped = sent_before.map_or(0, |(_, sent)| sent);
        let parts = Parts { memory: &self.memory, position, next: 0, skipped };
        if position >= self.filled {
            return (&mut [], parts);
        }
        self.memory.save(position);
        let bytes = self.memory.part(position * SLOT, self.length(position));
        // SAFETY: a part of the memory, which is initialized, and borrowed as long as `self` is;
        // `parts` changes none of it.
        let bytes = unsafe { std::slice::from_raw_parts_mut(bytes.iov_base.cast(), bytes.iov_len) };
        (bytes, parts)
    }

    /// Bytes of packet `position`, and of the room in front of it.
    fn length(&self, position: usize) -> usize {
        (self.lead + self.memory.length(position)).min(SLOT)
    }

    /// Packet `position` needs nothing more.
    pub(super) fn drop_packet(&mut self, position: usize) {
        if position < self.filled {
            mark_header(self.memory.incoming(position), 0);
        }
    }

    /// Queues `length` bytes of a packet from `offset` on, to be sent to an address.
    pub(super) fn queue(
        &mut self,
        position: usize,
        offset: usize,
        length: usize,
        to: A::SocketAddress,
    ) {
        let within = position < BATCH && offset.saturating_add(length) <= SLOT;
        if within && self.queued < BATCH {
            let bytes = self.memory.part(position * SLOT + offset, length);
            self.memory.enqueue(self.queued, position, bytes, to);
            self.queued += 1;
        }
    }

    /// Sends the queued packets. `refused` gets each packet that the socket refuses, with the
    /// reason; the others are sent. Then nothing of the batch is left.
    pub(super) fn send(
        &mut self,
        socket: impl AsFd,
        mut refused: impl FnMut(&mut [u8], &mut Parts<'_, A>, io::Error),
    ) {
        let mut sent = 0;
        while sent < self.queued {
            match send_messages(&socket, self.memory.outgoing(sent), self.queued - sent) {
                Ok(0) => break,
                Ok(more) => sent += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let (position, bytes) = self.memory.enqueued(sent);
                    // SAFETY: a part of the memory, which is initialized, and lent to nobody else.
                    let bytes = unsafe {
                        std::slice::from_raw_parts_mut(bytes.iov_base.cast(), bytes.iov_len)
                    };
                    let mut parts = Parts { memory: &self.memory, position, next: 0, skipped: 0 };
                    refused(bytes, &mut parts, error);
                    mark_header(self.memory.outgoing(sent), 1);
                    sent += 1;
                }
            }
        }
        self.clear();
    }

    /// Everything was sent or dropped. In this order: a packet whose sending is not marked any more
    /// is not marked as received any more.
    fn clear(&mut self) {
        for position in 0..self.filled {
            mark_header(self.memory.incoming(position), 0);
        }
        for place in 0..self.queued {
            mark_header(self.memory.outgoing(place), 0);
        }
        if self.filled > 0 {
            self.memory.forget();
        }
        self.filled = 0;
        self.queued = 0;
        self.sent_before = None;
    }
}

/// A packet that is sent as several.
pub(super) struct Parts<'b, A: Wire = Ipv4Addr> {
    memory: &'b Memory<A>,
    position: usize,
    next: usize,
    /// Parts that were sent before.
    skipped: usize,
}

impl<A: Wire> Parts<'_, A> {
    /// Says that parts follow. `together`: of no use before that many were sent, so that all are sent
    /// again if the process is killed before; `None`: each is one of its own.
    pub(super) fn begin(&mut self, together: Option<usize>) {
        self.next = 0;
        self.memory.begin_parts(self.position, together.unwrap_or(0));
    }

    /// Sends the next part.
    ///
    /// # Errors
    /// Those of sendmmsg(2).
    pub(super) fn send(
        &mut self,
        socket: impl AsFd,
        bytes: &[u8],
        to: A::SocketAddress,
    ) -> io::Result<()> {
        let part = self.next;
        self.next += 1;
        // What is beyond the marks is sent with the last of them.
        let header = self.memory.part_header(part.min(MAX_PARTS - 1), bytes, to);
        if part < self.skipped {
            mark_header(header, 1);
            return Ok(());
        }
        let sent = send_messages(socket, header, 1);
        if sent.is_err() {
            mark_header(header, 1);
        }
        sent.map(|_| ())
    }
}

/// Sends the messages of so many headers, without blocking. Returns how many were sent.
fn send_messages(socket: impl AsFd, first: *mut libc::mmsghdr, count: usize) -> io::Result<usize> {
    // SAFETY: the descriptor is borrowed; the caller has as many headers in a row, each of which
    // points to its vector and name, and each vector to bytes, all of which outlive the call. The
    // call of the kernel, not of a library, which might make several of it.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_sendmmsg,
            socket.as_fd().as_raw_fd(),
            first,
            count as libc::c_uint,
            libc::MSG_DONTWAIT,
        )
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// What is saved of a packet covers all that is changed.
const _: () = assert!(ORIGINAL >= 10 + 14 + 60 + 8);
