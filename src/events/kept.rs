//! What can be told afterwards: the events that the keeper has kept, and what hooks have refused while
//! no keeper ran.

use std::collections::VecDeque;
use std::io;
use std::path::Path;

use crate::events::{AttachmentChange, History, HostEvent, Occurrence};
use crate::state::Store;

/// Time within which a keeper has kept a refusal, in milliseconds. The time of a refusal is in whole
/// seconds.
const KEEPING_MS: u64 = 3000;

/// Calls `each` for all events in this directory and all refusals of this store, oldest first, until it
/// returns an error. What is in both is told once.
///
/// # Errors
/// As [`History::read`], and refusals that cannot be read.
pub fn read_kept(
    store: &Store,
    directory: &Path,
    mut each: impl FnMut(HostEvent) -> io::Result<()>,
) -> io::Result<()> {
    let refusals = store.refusals().map_err(io::Error::other)?;
    let mut unkept: VecDeque<_> = refusals.into_iter().map(HostEvent::of_refusal).collect();
    History::read(directory, |event| {
        if let Occurrence::Attachment(AttachmentChange::Refused { .. }) = event.what
            && let Some(position) = unkept.iter().position(|unkept| *unkept == event)
        {
            unkept.remove(position);
        }
        while let Some(first) =
            unkept.pop_front_if(|first| first.time_ms.saturating_add(KEEPING_MS) < event.time_ms)
        {
            each(first)?;
        }
        each(event)
    })?;
    unkept.into_iter().try_for_each(each)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Refusal;

    #[test]
    fn what_was_refused_without_a_keeper_is_told_in_its_place() {
        let base = tempfile::tempdir().unwrap();
        let store = Store::at(base.path().join("state"));
        let directory = base.path().join("log");
        let mut history = History::open(&directory).unwrap();
        let read = || {
            let mut told = Vec::new();
            read_kept(&store, &directory, |event| {
                told.push(event.what.to_string());
                Ok(())
            })
            .unwrap();
            told
        };
        let event = |time_ms, events| {
            let what = Occurrence::Attachment(AttachmentChange::Suppressed { events });
            HostEvent { time_ms, container: "c1".into(), name: "cam".into(), what }
        };
        history.append(&event(1, 1)).unwrap();
        for reason in ["both", "file", "file"] {
            let refusal = Refusal::now("c2", reason);
            store.remember_refusal(&refusal).unwrap();
            if reason == "both" {
                history.append(&HostEvent::of_refusal(refusal)).unwrap();
            }
        }
        assert_eq!(read(), ["1 events", "both", "file", "file"]);
        history.append(&event(u64::MAX, 2)).unwrap();
        assert_eq!(read(), ["1 events", "both", "file", "file", "2 events"]);
    }
}
