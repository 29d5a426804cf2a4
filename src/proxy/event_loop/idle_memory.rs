//! Memory that only the beginning and answers have used, given back once nobody asks any more.

use std::time::{Duration, Instant};

use crate::proxy::process::memory;

/// Time without an answer after which the memory is given back. Whoever asks again and again, or
/// changes channels, uses the same memory again.
const QUIET: Duration = Duration::from_secs(5);

/// When memory is given back.
#[derive(Debug, Default)]
pub(super) struct IdleMemory {
    /// `None`: nothing was used since.
    at: Option<Instant>,
}

impl IdleMemory {
    /// The event loop begins, or an answer is made, which may be long.
    pub(super) fn note_use(&mut self, now: Instant) {
        self.at = Some(now + QUIET);
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.at
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.at.take_if(|at| *at <= now).is_some() {
            memory::give_back();
        }
    }
}
