//! How much multicast data may cross a namespace boundary.

use serde::{Deserialize, Serialize};

/// What the relay carries for one attachment at most, in each direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimits {
    /// Packets a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets: Option<u32>,
    /// Bytes a second, IP headers included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

impl RateLimits {
    /// Whether nothing is limited.
    pub fn is_none(&self) -> bool {
        *self == RateLimits::default()
    }

    /// The stricter of both.
    #[must_use]
    pub fn at_most(self, other: RateLimits) -> RateLimits {
        fn least<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
            match (one, other) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            }
        }
        RateLimits {
            packets: least(self.packets, other.packets),
            bytes: least(self.bytes, other.bytes),
        }
    }
}
