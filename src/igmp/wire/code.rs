//! The floating-point codes of Max Resp Code and QQIC (RFC 9776 §4.1.1, §4.1.7).

/// Largest value a code can stand for: `0x1f << 10`.
pub const MAX: u32 = 31744;

/// What a code stands for, in the field's own unit.
pub fn decode(code: u8) -> u32 {
    if code < 128 {
        return code.into();
    }
    let mantissa = u32::from(code & 0x0f);
    let exponent = u32::from((code >> 4) & 0x07);
    (mantissa | 0x10) << (exponent + 3)
}

/// The code for the largest value that is representable and not above `value`.
pub fn encode(value: u32) -> u8 {
    if value < 128 {
        return value as u8; // Below 128 by the test above.
    }
    let value = value.min(MAX);
    // The leading one of the five-bit mantissa is implied; it stands at bit 7 for exponent 0.
    let exponent = 31 - value.leading_zeros() - 7;
    let mantissa = (value >> (exponent + 3)) & 0x0f;
    0x80 | (exponent as u8) << 4 | mantissa as u8
}
