//! Arbitrary bytes as a packet to be relayed: nothing panics, and addresses, ports and payload are
//! what they were wherever the relay does not mean to change them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mcrun::proxy::check_relayed_packet;

fuzz_target!(|input: (u16, &[u8])| {
    let (size, data) = input;
    check_relayed_packet(data, size.into());
    // Hardly any bytes say how many they are, and that they are UDP.
    let mut mended = data.to_vec();
    if let (Some(header), Ok(length)) = (mended.first_chunk_mut::<20>(), u16::try_from(data.len()))
    {
        header[0] = 0x40 | header[0] & 0x0f;
        header[2..4].copy_from_slice(&length.to_be_bytes());
        header[9] = 17;
    }
    check_relayed_packet(&mended, size.into());
    let mut mended = data.to_vec();
    let length = data.len().checked_sub(40).and_then(|length| u16::try_from(length).ok());
    if let (Some(header), Some(length)) = (mended.first_chunk_mut::<40>(), length) {
        header[0] = 0x60 | header[0] & 0x0f;
        header[4..6].copy_from_slice(&length.to_be_bytes());
        // UDP, or a fragment header before it.
        header[6] = if header[6] == 44 { 44 } else { 17 };
    }
    check_relayed_packet(&mended, size.into());
});
