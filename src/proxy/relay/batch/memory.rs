//! The memory of a batch: packets, and the arguments of recvmmsg(2) and sendmmsg(2) with them.
//!
//! The kernel writes into an argument's `msg_len` how much of it was received or sent. A process
//! that is killed ends behind a system call, not within it. So this memory shows at each instruction
//! which packets were received and not sent. It may be a file, which a keeper holds: then the
//! successor of a killed proxy reads it ([`InHand`](crate::proxy::relay::in_hand::InHand)).

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::ptr::NonNull;
use std::sync::atomic::{Ordering, compiler_fence};

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::proxy::relay::batch::wire::{Wire, expect_nothing};

/// Most packets of one system call.
pub(in crate::proxy::relay) const BATCH: usize = 32;
/// Bytes for one packet: the largest IPv4 packet behind a `virtio_net_hdr` and a link header, or the
/// largest datagram of IPv6 behind two headers.
pub(in crate::proxy::relay) const SLOT: usize = 64 * 1024 + 64;
/// Bytes of a packet that are saved before the packet is changed: a `virtio_net_hdr`, a link header,
/// the longest IPv4 header and a UDP header have 92. Those of IPv6 have less.
pub(in crate::proxy::relay) const ORIGINAL: usize = 96;
/// Most parts of a packet that are sent with a mark: the kernel makes no more segments
/// (`UDP_MAX_SEGMENTS` of linux/udp.h).
pub(in crate::proxy::relay) const MAX_PARTS: usize = 128;
/// Bytes of an interface's name.
pub(in crate::proxy::relay) const NAME: usize = libc::IFNAMSIZ;

/// What is in the memory in front of the packets. Only this process changes it; a successor reads
/// it when this process is dead.
#[repr(C)]
pub(in crate::proxy::relay) struct Shared<A: Wire> {
    pub(in crate::proxy::relay) layout: u32,
    /// Which way the packets go: [`Flow`](super::Flow).
    pub(in crate::proxy::relay) flow: u32,
    /// The container's interface, with zeros behind it.
    pub(in crate::proxy::relay) interface: [u8; NAME],
    /// Packets whose beginning was saved.
    pub(in crate::proxy::relay) saved: u32,
    /// The packet that is being sent in parts, counted from 1.
    pub(in crate::proxy::relay) part_of: u32,
    /// Number of its parts if they count only together; 0: each counts.
    pub(in crate::proxy::relay) parts: u32,
    /// The packet that each of `outgoing` sends.
    pub(in crate::proxy::relay) positions: [u32; BATCH],
    /// `msg_len` is not 0: received, and not dropped.
    pub(in crate::proxy::relay) incoming: [libc::mmsghdr; BATCH],
    /// `msg_len` is not 0: sent, or refused.
    pub(in crate::proxy::relay) outgoing: [libc::mmsghdr; BATCH],
    incoming_vectors: [libc::iovec; BATCH],
    outgoing_vectors: [libc::iovec; BATCH],
    names: [A::SocketAddress; BATCH],
    pub(in crate::proxy::relay) arrivals: [A::Arrival; BATCH],
    /// How the packets began when they were received.
    pub(in crate::proxy::relay) originals: [[u8; ORIGINAL]; BATCH],
    /// `msg_len` is not 0: sent, or refused. Memory that is used for parts only.
    pub(in crate::proxy::relay) part_headers: [libc::mmsghdr; MAX_PARTS],
    part_vector: libc::iovec,
    part_name: A::SocketAddress,
}

impl<A: Wire> Shared<A> {
    /// Where the packets begin.
    pub(in crate::proxy::relay) const SLOTS: usize = size_of::<Self>().next_multiple_of(4096);
    /// Bytes of the whole.
    pub(in crate::proxy::relay) const SIZE: usize = Self::SLOTS + BATCH * SLOT;
    /// The alignment is one that needs no other function of the allocator, which would write to all
    /// pages.
    const HEAP: Layout = match Layout::from_size_align(Self::SIZE, align_of::<Self>()) {
        Ok(layout) => layout,
        Err(_) => panic!("the size is too large"),
    };
}

/// The memory, zeroed at first. A page of it is used once it was written to.
pub(super) struct Memory<A: Wire> {
    start: NonNull<u8>,
    /// `None`: it is on the heap.
    file: Option<OwnedFd>,
    family: PhantomData<A>,
}

/// Pointer to a field of the shared structure, or to an element of it.
macro_rules! field {
    ($memory:expr, $field:ident) => {
        // SAFETY: the memory is larger than the structure, and aligned for it.
        unsafe { &raw mut (*$memory.shared()).$field }
    };
    ($memory:expr, $field:ident[$position:expr]) => {{
        let position: usize = $position;
        // SAFETY: as above; the index is checked.
        unsafe { &raw mut (*$memory.shared()).$field[position] }
    }};
}

impl<A: Wire> Memory<A> {
    /// Memory of this process.
    pub(super) fn private() -> Self {
        // SAFETY: the layout is not empty.
        let start = unsafe { alloc_zeroed(Shared::<A>::HEAP) };
        let start = NonNull::new(start).unwrap_or_else(|| handle_alloc_error(Shared::<A>::HEAP));
        Memory { start, file: None, family: PhantomData }.initialized()
    }

    /// Memory that outlives this process when somebody else holds its file.
    ///
    /// # Errors
    /// Those of memfd_create(2), ftruncate(2) and mmap(2).
    pub(super) fn file() -> io::Result<Self> {
        let file = memfd_create("relay", MFdFlags::MFD_CLOEXEC)?;
        nix::unistd::ftruncate(&file, Shared::<A>::SIZE as libc::off_t)?;
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                Shared::<A>::SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Memory { start, file: Some(file), family: PhantomData }.initialized())
    }

    /// The file, if it is one.
    pub(super) fn as_file(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(AsFd::as_fd)
    }

    /// Sets the pointers, which never change.
    fn initialized(self) -> Self {
        for position in 0..BATCH {
            set_header(
                self.incoming(position),
                field!(self, incoming_vectors[position]),
                ptr::null_mut::<A::SocketAddress>(),
            );
            set_header(
                self.outgoing(position),
                field!(self, outgoing_vectors[position]),
                field!(self, names[position]),
            );
            let slot = self.part(position * SLOT, SLOT);
            let vector = field!(self, incoming_vectors[position]);
            // SAFETY: a field of the memory.
            unsafe { vector.write(slot) };
        }
        mark(field!(self, layout), A::LAYOUT);
        self
    }

    fn shared(&self) -> *mut Shared<A> {
        self.start.as_ptr().cast()
    }

    /// Which way the packets go, and by which interface. Nothing is in the memory.
    pub(super) fn set_flow(&self, flow: u32, interface: &str) {
        let mut name = [0; NAME];
        let bytes = interface.as_bytes();
        let length = bytes.len().min(NAME - 1);
        name[..length].copy_from_slice(&bytes[..length]);
        let (own_flow, own_name) = (field!(self, flow), field!(self, interface));
        // SAFETY: fields of the memory, of plain integers.
        unsafe {
            own_flow.write(flow);
            own_name.write(name);
        }
    }

    /// Has all headers receive packets, each behind `lead` bytes of its slot. With a lead, the socket is
    /// one of the host, which tells of a packet what [`Wire::complete`] needs.
    pub(super) fn prepare(&self, lead: usize) {
        for position in 0..BATCH {
            let slot = self.part(position * SLOT + lead, SLOT - lead);
            let (header, vector) =
                (self.incoming(position), field!(self, incoming_vectors[position]));
            let arrival = field!(self, arrivals[position]);
            // SAFETY: fields of the memory; nobody has a reference to any of them.
            unsafe {
                vector.write(slot);
                let header = &mut (*header).msg_hdr;
                match lead {
                    0 => expect_nothing(header),
                    _ => A::expect(header, arrival),
                }
            }
        }
    }

    /// Writes what the kernel has left out in front of packet `position`.
    pub(super) fn complete(&self, position: usize) {
        let (datagram, lead) = (self.length(position), self.part(position * SLOT, A::LEAD));
        let arrival = field!(self, arrivals[position]).cast::<u8>();
        // SAFETY: both are parts of the memory, initialized, apart from each other, and lent to nobody
        // else.
        let (arrival, lead) = unsafe {
            (
                std::slice::from_raw_parts(arrival, size_of::<A::Arrival>()),
                std::slice::from_raw_parts_mut(lead.iov_base.cast(), lead.iov_len),
            )
        };
        A::complete(arrival, datagram, lead);
    }

    /// The header by which packet `position` is received.
    pub(super) fn incoming(&self, position: usize) -> *mut libc::mmsghdr {
        field!(self, incoming[position])
    }

    /// The header by which the packet of this place in the queue is sent.
    pub(super) fn outgoing(&self, place: usize) -> *mut libc::mmsghdr {
        field!(self, outgoing[place])
    }

    /// Length of packet `position`, as it was received.
    pub(super) fn length(&self, position: usize) -> usize {
        // SAFETY: a header of the memory, initialized.
        let length = unsafe { (*self.incoming(position)).msg_len };
        (length as usize).min(SLOT)
    }

    /// Saves how packet `position` begins.
    pub(super) fn save(&self, position: usize) {
        let slot = self.part(position * SLOT, ORIGINAL);
        let original = field!(self, originals[position]).cast::<u8>();
        // SAFETY: both are within the memory, with as many bytes, and apart.
        unsafe { original.copy_from_nonoverlapping(slot.iov_base.cast(), ORIGINAL) };
        mark(field!(self, saved), position as u32 + 1);
    }

    /// Forgets what was saved, and the parts.
    pub(super) fn forget(&self) {
        mark(field!(self, saved), 0);
        mark(field!(self, part_of), 0);
    }

    /// Sets what the header of a place in the queue sends: bytes of packet `position`.
    pub(super) fn enqueue(
        &self,
        place: usize,
        position: usize,
        bytes: libc::iovec,
        to: A::SocketAddress,
    ) {
        let (of, name) = (field!(self, positions[place]), field!(self, names[place]));
        let vector = field!(self, outgoing_vectors[place]);
        // SAFETY: fields of the memory, of plain data.
        unsafe {
            of.write(position as u32);
            vector.write(bytes);
            name.write(to);
        }
    }

    /// What a place in the queue sends, and of which packet.
    pub(super) fn enqueued(&self, place: usize) -> (usize, libc::iovec) {
        let (of, vector) = (field!(self, positions[place]), field!(self, outgoing_vectors[place]));
        // SAFETY: fields of the memory, initialized.
        unsafe { (of.read() as usize, vector.read()) }
    }

    /// From now on, parts of packet `position` are sent. See [`Shared::parts`].
    pub(super) fn begin_parts(&self, position: usize, parts: usize) {
        mark(field!(self, part_of), 0);
        for part in 0..MAX_PARTS {
            let header = field!(self, part_headers[part]);
            // SAFETY: a header of the memory, initialized.
            if unsafe { (*header).msg_len } == 0 {
                break;
            }
            mark_header(header, 0);
        }
        mark(field!(self, parts), parts.min(MAX_PARTS) as u32);
        mark(field!(self, part_of), position as u32 + 1);
    }

    /// The header that sends these bytes as part number `part`.
    pub(super) fn part_header(
        &self,
        part: usize,
        bytes: &[u8],
        to: A::SocketAddress,
    ) -> *mut libc::mmsghdr {
        let (header, name) = (field!(self, part_headers[part]), field!(self, part_name));
        let vector = field!(self, part_vector);
        set_header(header, vector, name);
        let bytes =
            libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        // SAFETY: fields of the memory, of plain data.
        unsafe {
            vector.write(bytes);
            name.write(to);
        }
        header
    }

    /// `length` bytes of the packets' memory from `start` on, which must be within it.
    pub(super) fn part(&self, start: usize, length: usize) -> libc::iovec {
        assert!(start + length <= BATCH * SLOT, "{length} bytes at {start}");
        // SAFETY: within the memory.
        let base = unsafe { self.start.as_ptr().add(Shared::<A>::SLOTS + start) };
        libc::iovec { iov_base: base.cast(), iov_len: length }
    }
}

impl<A: Wire> Drop for Memory<A> {
    fn drop(&mut self) {
        let start = self.start.as_ptr();
        match &self.file {
            // SAFETY: allocated with the same layout, and nobody points to it any more.
            None => unsafe { dealloc(start, Shared::<A>::HEAP) },
            // SAFETY: mapped with the same size, and nobody points to it any more.
            Some(_) => _ = unsafe { libc::munmap(start.cast(), Shared::<A>::SIZE) },
        }
    }
}

fn set_header<N>(header: *mut libc::mmsghdr, vector: *mut libc::iovec, name: *mut N) {
    let length = if name.is_null() { 0 } else { size_of::<N>() };
    // SAFETY: a header of the memory, initialized.
    unsafe {
        (*header).msg_hdr.msg_iov = vector;
        (*header).msg_hdr.msg_iovlen = 1;
        (*header).msg_hdr.msg_name = name.cast();
        (*header).msg_hdr.msg_namelen = length as libc::socklen_t;
    }
}

/// Writes a mark that a successor may read. Whatever the program writes before it is in memory
/// before it, and nothing that the program writes later: a kill has no other effect on memory than
/// to end the program at an instruction.
fn mark(at: *mut u32, value: u32) {
    compiler_fence(Ordering::SeqCst);
    // SAFETY: a field of the memory.
    unsafe { at.write_volatile(value) };
    compiler_fence(Ordering::SeqCst);
}

/// Marks what a header receives or sends.
pub(super) fn mark_header(header: *mut libc::mmsghdr, value: u32) {
    // SAFETY: a header of the memory.
    mark(unsafe { &raw mut (*header).msg_len }, value);
}
