//! The RTP fixed header (RFC 3550 §5.1) and what our own sender puts behind it.

/// Length of the fixed header in bytes, without contributing sources.
pub const HEADER: usize = 12;
/// Length of [`SenderInfo`] in bytes.
pub const SENDER_INFO: usize = 16;

/// The fields of a header that a measurement needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Payload type, 0 to 127.
    pub payload_type: u8,
    /// Sequence number; wraps.
    pub sequence: u16,
    /// Sampling instant in units of the payload's clock; wraps.
    pub timestamp: u32,
    /// Synchronisation source.
    pub ssrc: u32,
}

impl Header {
    /// Reads the header of a datagram of `length` bytes of which `start` is the beginning.
    ///
    /// `None` when the datagram is not RTP: another version, too short for the contributing
    /// sources and the extension it claims, or a payload type from 72 to 76, which is where
    /// RTCP appears on the same port (RFC 5761 §4).
    pub fn parse(start: &[u8], length: usize) -> Option<Self> {
        let fixed: &[u8; HEADER] = start.first_chunk()?;
        if fixed[0] >> 6 != 2 {
            return None;
        }
        let sources = usize::from(fixed[0] & 0x0f);
        let extension = if fixed[0] & 0x10 != 0 { 4 } else { 0 };
        let payload_type = fixed[1] & 0x7f;
        if length < HEADER + 4 * sources + extension || (72..=76).contains(&payload_type) {
            return None;
        }
        Some(Header {
            payload_type,
            sequence: u16::from_be_bytes([fixed[2], fixed[3]]),
            timestamp: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
            ssrc: u32::from_be_bytes([fixed[8], fixed[9], fixed[10], fixed[11]]),
        })
    }

    /// Writes the header: version 2, no padding, extension, contributing sources or marker.
    pub fn write(&self, out: &mut [u8; HEADER]) {
        out[0] = 2 << 6;
        out[1] = self.payload_type & 0x7f;
        out[2..4].copy_from_slice(&self.sequence.to_be_bytes());
        out[4..8].copy_from_slice(&self.timestamp.to_be_bytes());
        out[8..12].copy_from_slice(&self.ssrc.to_be_bytes());
    }

    /// Clock rate of the payload type in Hz: that of RFC 3551 §6 where the type is static,
    /// 90 kHz, the clock of video, where it is not.
    pub fn clock_rate(payload_type: u8) -> u32 {
        match payload_type {
            0 | 3..=5 | 7..=9 | 12 | 13 | 15 | 18 => 8_000,
            6 => 16_000,
            10 | 11 => 44_100,
            16 => 11_025,
            17 => 22_050,
            _ => 90_000,
        }
    }
}

/// The start of our own sender's payload: a mark, and the sequence number in full.
///
/// 16 bits wrap in 0.7 s at 94000 packets/s, so the RTP sequence number alone cannot tell how
/// much a long blackout cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SenderInfo {
    /// Packets sent before this one, plus the random first sequence number.
    pub sequence: u64,
}

impl SenderInfo {
    const MARK: [u8; 8] = *b"mcrunRTP";

    /// Reads it from the start of a datagram whose RTP header is `header`.
    pub fn parse(start: &[u8], header: &Header) -> Option<Self> {
        // Our sender uses neither contributing sources nor an extension.
        let (mark, rest) = start.get(HEADER..)?.split_first_chunk()?;
        let sequence = u64::from_be_bytes(*rest.first_chunk()?);
        (*mark == Self::MARK && start[0] == 2 << 6 && sequence as u16 == header.sequence)
            .then_some(SenderInfo { sequence })
    }

    /// Writes it.
    pub fn write(&self, out: &mut [u8; SENDER_INFO]) {
        out[..8].copy_from_slice(&Self::MARK);
        out[8..].copy_from_slice(&self.sequence.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet() -> [u8; HEADER + SENDER_INFO] {
        let mut bytes = [0; HEADER + SENDER_INFO];
        let header = Header { payload_type: 96, sequence: 0x1234, timestamp: 7, ssrc: 0xdead_beef };
        header.write(bytes.first_chunk_mut().unwrap());
        SenderInfo { sequence: 0x51234 }.write(bytes.last_chunk_mut().unwrap());
        bytes
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = packet();
        let header = Header::parse(&bytes, bytes.len()).unwrap();
        assert_eq!(bytes[..2], [0x80, 96]);
        assert_eq!((header.sequence, header.timestamp, header.ssrc), (0x1234, 7, 0xdead_beef));
        assert_eq!(SenderInfo::parse(&bytes, &header), Some(SenderInfo { sequence: 0x51234 }));
    }

    #[test]
    fn other_datagrams_are_not_rtp() {
        let good = packet();
        for length in 0..HEADER {
            assert_eq!(Header::parse(&good[..length], length), None, "{length} bytes");
        }
        let mut version1 = good;
        version1[0] = 0x40;
        assert_eq!(Header::parse(&version1, version1.len()), None);
        let mut rtcp = good;
        rtcp[1] = 200;
        assert_eq!(Header::parse(&rtcp, rtcp.len()), None, "an RTCP sender report");
        let mut lying = good;
        lying[0] |= 15;
        assert_eq!(Header::parse(&lying, lying.len()), None, "15 contributing sources");
        assert!(Header::parse(&lying, HEADER + 60).is_some(), "they may lie beyond what was kept");
    }

    #[test]
    fn a_mark_alone_is_not_believed() {
        let mut bytes = packet();
        bytes[HEADER + SENDER_INFO - 1] ^= 1;
        let header = Header::parse(&bytes, bytes.len()).unwrap();
        assert_eq!(SenderInfo::parse(&bytes, &header), None, "the sequence numbers differ");
        assert_eq!(SenderInfo::parse(&bytes[..HEADER + 15], &header), None);
    }
}
