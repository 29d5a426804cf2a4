//! The Internet checksum (RFC 1071), for many bytes at a time.

use std::net::Ipv6Addr;

/// A one's complement sum of 16-bit words in network order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sum(u64);

impl Sum {
    /// The sum of bytes that begin at an even offset. A last odd byte counts as if a zero followed.
    /// At most 2^32 bytes.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        // The sum does not depend on the order of bytes but in its result (RFC 1071 §2 (B)). Two
        // sums of 64-bit words with their carries: what the processor adds beside each other, and
        // twice as fast as one where the compiler does not unroll.
        let (mut even, mut odd) = (0u128, 0u128);
        let mut blocks = bytes.chunks_exact(32);
        for block in &mut blocks {
            even += word(block, 0) + word(block, 16);
            odd += word(block, 8) + word(block, 24);
        }
        for rest in blocks.remainder().chunks(8) {
            let mut last = [0; 8];
            for (to, from) in last.iter_mut().zip(rest) {
                *to = *from;
            }
            even += word(&last, 0);
        }
        let sum = even + odd;
        // 2^16, and so 2^32 and 2^64, is 1 in this arithmetic.
        let (low, carries) = (sum as u64, (sum >> 64) as u64);
        Sum(u64::from(u16::from_be(fold((low & 0xffff_ffff) + (low >> 32) + carries))))
    }

    /// Adds another sum.
    pub(crate) fn add(&mut self, other: Sum) {
        self.0 += u64::from(other.folded());
    }

    /// Subtracts another sum.
    pub(crate) fn subtract(&mut self, other: Sum) {
        self.0 += u64::from(!other.folded());
    }

    /// The sum in 16 bits.
    pub(crate) fn folded(self) -> u16 {
        fold(self.0)
    }

    /// Whether this is the sum of bytes that contain their own correct checksum.
    pub(crate) fn is_whole(self) -> bool {
        self.folded() == 0xffff
    }

    /// The checksum for UDP, in which 0 stands for none (RFC 768).
    pub(crate) fn checksum(self) -> u16 {
        match !self.folded() {
            0 => 0xffff,
            checksum => checksum,
        }
    }
}

/// The sum of the pseudo header in front of `length` bytes of an upper layer over IPv6 (RFC 8200
/// §8.1).
pub(crate) fn pseudo_header_v6(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    next_header: u8,
    length: u32,
) -> Sum {
    let addresses = [source.octets(), destination.octets()].concat();
    pseudo_header_of(&addresses, next_header, length)
}

/// The sum of the pseudo header in front of `length` bytes of an upper layer. The source and the
/// destination are as they stand in a packet of either family (RFC 768, RFC 8200 §8.1).
pub(crate) fn pseudo_header_of(addresses: &[u8], protocol: u8, length: u32) -> Sum {
    let mut sum = Sum::of(addresses);
    sum.add(Sum(u64::from(protocol)));
    sum.add(Sum(u64::from(length)));
    sum
}

/// Eight bytes in the machine's order; 0 when there are not as many.
fn word(bytes: &[u8], at: usize) -> u128 {
    match bytes.get(at..).and_then(<[u8]>::first_chunk) {
        Some(eight) => u64::from_ne_bytes(*eight).into(),
        None => 0,
    }
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_sum_is_that_of_rfc_1071(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let mut plain = 0u64;
            for word in bytes.chunks(2) {
                plain += u64::from(word[0]) << 8 | u64::from(*word.get(1).unwrap_or(&0));
            }
            while plain > 0xffff {
                plain = (plain & 0xffff) + (plain >> 16);
            }
            prop_assert_eq!(u64::from(Sum::of(&bytes).folded()), plain);
        }
    }
}
