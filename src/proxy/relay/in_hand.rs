//! What a killed proxy had in hand: packets that it had received, and not sent yet.
//!
//! The proxy of a container is trusted no more than the container. So its file is read, never
//! mapped: the file may be of any kind, size and content. What is found in it is as a packet that a
//! socket gives: each is checked and counted as if it were received now.

use std::fs::File;
use std::io;
use std::mem::offset_of;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use crate::proxy::relay::batch::memory::{
    BATCH, LAYOUT, MAX_PARTS, NAME, ORIGINAL, SIZE, SLOT, SLOTS, Shared,
};
use crate::proxy::relay::batch::{Batch, Flow};
use crate::proxy::relay::{Relay, Watch};

/// Packets that a killed proxy has received and not sent.
#[derive(Debug)]
pub(crate) struct InHand {
    /// Name of the container's interface.
    pub(crate) interface: String,
    flow: Flow,
    packets: Vec<Vec<u8>>,
    /// One of the packets, and how many parts of it were sent.
    sent: Option<(usize, usize)>,
}

impl InHand {
    /// Takes what is in the file of a [`Batch`], and makes the file empty: what makes one proxy fail
    /// is not given to the next one again. `None`: nothing is in it that is understood.
    pub(crate) fn take(file: OwnedFd) -> Option<Self> {
        let file = File::from(file);
        let read = read(&file).ok()?;
        // Before they are sent: at most once.
        file.set_len(0).ok()?;
        read
    }
}

fn read(file: &File) -> io::Result<Option<InHand>> {
    let meta = file.metadata()?;
    if !meta.is_file() || meta.len() != SIZE as u64 {
        return Ok(None);
    }
    let mut shared = vec![0; size_of::<Shared>()];
    file.read_exact_at(&mut shared, 0)?;
    let shared = Words(&shared);
    let flow = match shared.word(offset_of!(Shared, flow)) {
        flow if flow == Flow::Inbound as u32 => Flow::Inbound,
        flow if flow == Flow::Outbound as u32 => Flow::Outbound,
        _ => return Ok(None),
    };
    if shared.word(offset_of!(Shared, layout)) != LAYOUT {
        return Ok(None);
    }
    let name = shared.bytes(offset_of!(Shared, interface), NAME);
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    let mut in_hand = InHand {
        interface: String::from_utf8_lossy(name).into_owned(),
        flow,
        packets: Vec::new(),
        sent: None,
    };
    let saved = shared.word(offset_of!(Shared, saved)) as usize;
    for position in 0..BATCH {
        let length = shared.header(offset_of!(Shared, incoming), position) as usize;
        let Some(sent) = shared.sent(position).filter(|_| (1..=SLOT).contains(&length)) else {
            continue;
        };
        let mut packet = vec![0; length];
        file.read_exact_at(&mut packet, (SLOTS + position * SLOT) as u64)?;
        if position < saved {
            let original = offset_of!(Shared, originals) + position * ORIGINAL;
            let original = shared.bytes(original, ORIGINAL.min(length));
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
struct Words<'a>(&'a [u8]);

impl<'a> Words<'a> {
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
            let of = self.word(offset_of!(Shared, positions) + place * 4);
            of as usize == position && self.header(offset_of!(Shared, outgoing), place) > 0
        });
        if is_sent {
            return None;
        }
        if self.word(offset_of!(Shared, part_of)) as usize != position + 1 {
            return Some(0);
        }
        let headers = offset_of!(Shared, part_headers);
        let sent = (0..MAX_PARTS).take_while(|part| self.header(headers, *part) > 0).count();
        match self.word(offset_of!(Shared, parts)) as usize {
            0 => Some(sent),
            all if sent >= all => None,
            // A receiver puts fragments of both together, or forgets the first.
            _ => Some(0),
        }
    }
}

impl Relay {
    /// Relays what a killed proxy had in hand. `watch` as in [`Relay::send`].
    pub(crate) fn resume(
        &mut self,
        now: Instant,
        in_hand: &InHand,
        batch: &mut Batch,
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
