//! What a killed proxy had in hand: packets that it had received, and not sent yet.
//!
//! The proxy of a container is trusted no more than the container. So its file is read, never
//! mapped: the file may be of any kind, size and content. What is found in it is as a packet that a
//! socket gives: each is checked and counted as if it were received now.

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::mem::offset_of;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use crate::proxy::relay::batch::memory::{BATCH, MAX_PARTS, NAME, ORIGINAL, SLOT, Shared};
use crate::proxy::relay::batch::{Batch, Flow, Wire};
use crate::proxy::relay::family::Relayed;
use crate::proxy::relay::{Relay, Watch};

/// Packets that a killed proxy has received and not sent.
#[derive(Debug)]
pub(crate) struct InHand {
    /// Name of the container's interface.
    pub(crate) interface: String,
    flow: Flow,
    /// Each as [`Batch::open`] gives it.
    packets: Vec<Vec<u8>>,
    /// One of the packets, and how many parts of it were sent.
    sent: Option<(usize, usize)>,
}

impl InHand {
    /// Takes what is in the file of a [`Batch`] of this address family, and makes the file empty: what
    /// makes one proxy fail is not given to the next one again. `None`: nothing is in it that is
    /// understood.
    pub(crate) fn take<A: Wire>(file: OwnedFd) -> Option<Self> {
        let file = File::from(file);
        let read = read::<A>(&file).ok()?;
        // Before they are sent: at most once.
        file.set_len(0).ok()?;
        read
    }
}

fn read<A: Wire>(file: &File) -> io::Result<Option<InHand>> {
    let meta = file.metadata()?;
    if !meta.is_file() || meta.len() != Shared::<A>::SIZE as u64 {
        return Ok(None);
    }
    let mut shared = vec![0; size_of::<Shared<A>>()];
    file.read_exact_at(&mut shared, 0)?;
    let shared = Words::<A>(&shared, PhantomData);
    let flow = match shared.word(offset_of!(Shared<A>, flow)) {
        flow if flow == Flow::Inbound as u32 => Flow::Inbound,
        flow if flow == Flow::Outbound as u32 => Flow::Outbound,
        _ => return Ok(None),
    };
    if shared.word(offset_of!(Shared<A>, layout)) != A::LAYOUT {
        return Ok(None);
    }
    let name = shared.bytes(offset_of!(Shared<A>, interface), NAME);
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    let mut in_hand = InHand {
        interface: String::from_utf8_lossy(name).into_owned(),
        flow,
        packets: Vec::new(),
        sent: None,
    };
    let lead = if flow == Flow::Inbound { A::LEAD } else { 0 };
    let saved = shared.word(offset_of!(Shared<A>, saved)) as usize;
    for position in 0..BATCH {
        let length = shared.header(offset_of!(Shared<A>, incoming), position) as usize;
        let Some(sent) = shared.sent(position).filter(|_| (1..=SLOT - lead).contains(&length))
        else {
            continue;
        };
        let mut packet = vec![0; lead + length];
        file.read_exact_at(&mut packet, (Shared::<A>::SLOTS + position * SLOT) as u64)?;
        if lead > 0 {
            let size = size_of::<A::Arrival>();
            let arrival = shared.bytes(offset_of!(Shared<A>, arrivals) + position * size, size);
            A::complete(arrival, length, &mut packet);
        }
        if position < saved {
            let original = offset_of!(Shared<A>, originals) + position * ORIGINAL;
            let original = shared.bytes(original, ORIGINAL.min(packet.len()));
            packet[..original.len()].copy_from_slice(original);
        }
        if sent > 0 {
            in_hand.sent = Some((in_hand.packets.len(), sent));
        }
        in_hand.packets.push(packet);
    }
    Ok(Some(in_hand))
}

/// The bytes of a [`Shared`].
struct Words<'a, A>(&'a [u8], PhantomData<A>);

impl<'a, A: Wire> Words<'a, A> {
    fn bytes(&self, at: usize, length: usize) -> &'a [u8] {
        self.0.get(at..at + length).unwrap_or_default()
    }

    fn word(&self, at: usize) -> u32 {
        self.bytes(at, 4).try_into().map_or(0, u32::from_ne_bytes)
    }

    /// `msg_len` of a header of the array that begins there.
    fn header(&self, array: usize, position: usize) -> u32 {
        let header = array + position * size_of::<libc::mmsghdr>();
        self.word(header + offset_of!(libc::mmsghdr, msg_len))
    }

    /// How many parts of a packet were sent; `None`: the packet is done.
    fn sent(&self, position: usize) -> Option<usize> {
        let is_sent = (0..BATCH).any(|place| {
            let of = self.word(offset_of!(Shared<A>, positions) + place * 4);
            of as usize == position && self.header(offset_of!(Shared<A>, outgoing), place) > 0
        });
        if is_sent {
            return None;
        }
        if self.word(offset_of!(Shared<A>, part_of)) as usize != position + 1 {
            return Some(0);
        }
        let headers = offset_of!(Shared<A>, part_headers);
        let sent = (0..MAX_PARTS).take_while(|part| self.header(headers, *part) > 0).count();
        match self.word(offset_of!(Shared<A>, parts)) as usize {
            0 => Some(sent),
            all if sent >= all => None,
            // A receiver puts fragments of both together, or forgets the first.
            _ => Some(0),
        }
    }
}

impl<A: Relayed> Relay<A> {
    /// Relays what a killed proxy had in hand. `watch` as in [`Relay::send`].
    pub(crate) fn resume(
        &mut self,
        now: Instant,
        in_hand: &InHand,
        batch: &mut Batch<A>,
        watch: Watch<'_>,
    ) {
        let InHand { flow, packets, sent, .. } = in_hand;
        let count = batch.load(*flow, &self.interface, packets, *sent);
        self.refresh_upstream(now);
        match flow {
            Flow::Inbound => self.inject(now, batch, count),
            Flow::Outbound => self.send_batch(now, batch, count, watch, self.is_on_upstream()),
        }
    }
}

#[cfg(test)]
mod tests;
