//! The links of one container, made anew beside everything else that the keeper does for it.
//!
//! The attachment service asks the keeper to let go of the proxy that it replaces. So the task of a
//! container must not wait for the service.

use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::keeper::{blocking, log};
use crate::oci::ContainerId;
use crate::service::repair;
use crate::state::Store;

/// The first and the longest wait before it is tried again without a change of the host's links.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// When the links of a container are looked at.
pub(super) struct Repair {
    running: Option<JoinHandle<bool>>,
    /// When to begin; `None`: when something changes.
    due: Option<Instant>,
    pause: Duration,
}

impl Default for Repair {
    fn default() -> Self {
        // Something may have changed while there was no keeper.
        Repair { running: None, due: Some(Instant::now()), pause: FIRST_RETRY }
    }
}

impl Repair {
    /// The links are to be looked at.
    pub(super) fn request(&mut self) {
        self.due = Some(Instant::now());
        self.pause = FIRST_RETRY;
    }

    /// Whether to call [`Repair::start`].
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.running.is_none() && self.due.is_some_and(|due| due <= now)
    }

    /// Begins.
    pub(super) fn start(&mut self, id: &ContainerId, store: &Store) {
        self.due = None;
        let (id, store) = (id.clone(), store.clone());
        self.running = Some(tokio::spawn(async move {
            let name = id.to_string();
            let result = blocking(move || repair(&id, &store).map_err(|e| e.to_string())).await;
            match result.unwrap_or_else(|error| Err(error.to_string())) {
                Ok(made) => {
                    for interface in made {
                        log(&name, &format!("{interface} was made anew"));
                    }
                    true
                }
                Err(error) => {
                    log(&name, &error);
                    false
                }
            }
        }));
    }

    /// Waits until it has ended, or until it is time to begin.
    pub(super) async fn wait(&mut self) {
        if let Some(running) = &mut self.running {
            let is_done = running.await.unwrap_or(false);
            self.running = None;
            if !is_done && self.due.is_none() {
                self.due = Some(Instant::now() + self.pause);
                self.pause = (self.pause * 2).min(LAST_RETRY);
            }
        } else if let Some(due) = self.due {
            tokio::time::sleep_until(due.into()).await;
        } else {
            std::future::pending::<()>().await;
        }
    }
}
