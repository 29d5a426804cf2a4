//! One received datagram, as the statistics take it.

use std::net::SocketAddr;
use std::time::Duration;

/// A received datagram.
#[derive(Debug, Clone, Copy)]
pub struct Arrival<'a> {
    /// When it arrived.
    pub at: Duration,
    /// Who sent it.
    pub source: SocketAddr,
    /// Its first bytes; 28 suffice.
    pub start: &'a [u8],
    /// Its length in bytes: the UDP payload.
    pub length: usize,
}
