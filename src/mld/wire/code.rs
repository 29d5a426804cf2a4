//! The floating-point code of MLDv2's Maximum Response Code (RFC 9777 §5.1.3). QQIC is that of
//! IGMPv3: [`igmp::wire::code`](crate::igmp::wire::code).

/// Largest value a code can stand for, in milliseconds: `0x1fff << 10`.
pub const MAX: u32 = 8_387_584;

/// What a code stands for, in milliseconds.
pub fn decode(code: u16) -> u32 {
    if code < 0x8000 {
        return code.into();
    }
    let mantissa = u32::from(code & 0x0fff);
    let exponent = u32::from((code >> 12) & 0x07);
    (mantissa | 0x1000) << (exponent + 3)
}

/// The code for the largest value that is representable and not above `value`.
pub fn encode(value: u32) -> u16 {
    if value < 0x8000 {
        return value as u16; // Below 0x8000 by the test above.
    }
    let value = value.min(MAX);
    // The leading one of the 13-bit mantissa is implied; it stands at bit 15 for exponent 0.
    let exponent = 31 - value.leading_zeros() - 15;
    let mantissa = (value >> (exponent + 3)) & 0x0fff;
    0x8000 | (exponent as u16) << 12 | mantissa as u16
}
