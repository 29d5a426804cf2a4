//! Events that are kept: in the history, and in systemd's journal.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::events::{AttachmentChange, History, HostEvent, Occurrence, Question, follow};
use crate::primitives::token_bucket::TokenBucket;
use crate::state::Store;
use crate::sys::journal;
use crate::sys::journal::Journal;

/// Events of one container that are kept at once, and the time after which one more is: a container
/// that joins and leaves without end must not push the events of others out of the history.
const BURST: u32 = 1000;
const INTERVAL: Duration = Duration::from_secs(1);
/// Events that wait to be written.
const QUEUE: usize = 1024;

/// Keeps the events of all containers, without end. `tell` is told, once, why they cannot be kept. Who
/// sends a question is answered when all is kept that proxies have told by then.
///
/// # Errors
/// As [`follow`].
pub async fn record(
    store: Store,
    directory: PathBuf,
    tell: impl Fn(&str) + Send + 'static,
    questions: &mut mpsc::Receiver<Question>,
) -> anyhow::Result<()> {
    let (sender, mut events) = mpsc::channel(QUEUE);
    let mut recorder = Recorder::open(&directory, Path::new(journal::SOCKET), tell);
    let (begun, _) = mpsc::channel(1);
    let (ask, asked) = mpsc::channel(1);
    let following = tokio::spawn(follow(store, sender, begun, asked));
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(event) => recorder.keep(Instant::now(), &event),
                None => return following.await?,
            },
            // One that does not fit asks again.
            Some(question) = questions.recv() => {
                let _ = ask.try_send(question);
            }
        }
    }
}

struct Recorder<T> {
    directory: PathBuf,
    history: Option<History>,
    journal: Option<Journal>,
    allowances: HashMap<String, Allowance>,
    tell: T,
    has_told: bool,
}

/// What one container may still have kept.
struct Allowance {
    bucket: TokenBucket,
    suppressed: u64,
}

impl<T: Fn(&str)> Recorder<T> {
    fn open(directory: &Path, journal: &Path, tell: T) -> Self {
        let mut recorder = Recorder {
            directory: directory.to_owned(),
            history: None,
            journal: Journal::connect(journal).ok(),
            allowances: HashMap::new(),
            tell,
            has_told: false,
        };
        recorder.open_history();
        recorder
    }

    fn open_history(&mut self) {
        match History::open(&self.directory) {
            Ok(history) => {
                self.history = Some(history);
                self.has_told = false;
            }
            Err(error) => self.complain(&error),
        }
    }

    fn complain(&mut self, error: &std::io::Error) {
        if !std::mem::replace(&mut self.has_told, true) {
            (self.tell)(&format!("events are not kept in {}: {error}", self.directory.display()));
        }
    }

    fn keep(&mut self, now: Instant, event: &HostEvent) {
        // A container that is refused never ends, and each attempt may have another id: they share one.
        let is_refused =
            matches!(event.what, Occurrence::Attachment(AttachmentChange::Refused { .. }));
        let whose = if is_refused { String::new() } else { event.container.clone() };
        let allowance = self.allowances.entry(whose).or_insert_with(|| Allowance {
            bucket: TokenBucket::new(BURST, INTERVAL, now),
            suppressed: 0,
        });
        let is_end =
            matches!(event.what, Occurrence::Attachment(AttachmentChange::Detached { .. }));
        if !allowance.bucket.take(now) && !is_end {
            allowance.suppressed += 1;
            return;
        }
        let suppressed = std::mem::take(&mut allowance.suppressed);
        if is_end {
            // A container that comes back has a new one.
            self.allowances.remove(&event.container);
        }
        if suppressed > 0 {
            let what = Occurrence::Attachment(AttachmentChange::Suppressed { events: suppressed });
            self.write(&HostEvent { what, ..event.clone() });
        }
        self.write(event);
    }

    fn write(&mut self, event: &HostEvent) {
        if let Some(journal) = &self.journal {
            // The history has it, or `tell` was told.
            let _ = send(journal, event);
        }
        if self.history.is_none() {
            self.open_history();
        }
        if let Some(history) = &mut self.history
            && let Err(error) = history.append(event)
        {
            self.history = None;
            self.complain(&error);
        }
    }
}

/// The fields are those of the JSON that people search for.
fn send(journal: &Journal, event: &HostEvent) -> std::io::Result<()> {
    let message = format!("{}: {} {}", event.name, event.code(), event.what);
    let priority = (event.severity() as u8).to_string();
    let group = event.group().map(|group| group.to_string());
    let mut fields = vec![
        ("MESSAGE", message.as_str()),
        ("PRIORITY", &priority),
        ("SYSLOG_IDENTIFIER", "mcrun"),
        ("MCRUN_EVENT", event.code()),
        ("MCRUN_CONTAINER", &event.container),
        ("MCRUN_NAME", &event.name),
    ];
    fields.extend(group.as_deref().map(|group| ("MCRUN_GROUP", group)));
    journal.send(&fields)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::proxy::Event;

    fn left(container: &str, last: u8) -> HostEvent {
        let what = Occurrence::Proxy(Event::Left {
            interface: "mc0".into(),
            group: [239, 1, 1, last].into(),
        });
        HostEvent { time_ms: last.into(), container: container.into(), name: "cam".into(), what }
    }

    fn codes(directory: &Path) -> Vec<String> {
        let mut codes = Vec::new();
        History::read(directory, |event| {
            codes.push(format!("{} {} {}", event.container, event.code(), event.what));
            Ok(())
        })
        .unwrap();
        codes
    }

    #[test]
    fn a_container_that_floods_loses_its_own_events_alone() {
        let base = tempfile::tempdir().unwrap();
        let start = Instant::now();
        let mut recorder = Recorder::open(base.path(), Path::new("/nowhere"), |_: &str| {});
        for _ in 0..BURST + 5 {
            recorder.keep(start, &left("flood", 1));
        }
        recorder.keep(start, &left("other", 2));
        recorder.keep(start + INTERVAL, &left("flood", 3));
        let codes = codes(base.path());
        let expected =
            ["other left mc0 239.1.1.2", "flood suppressed 5 events", "flood left mc0 239.1.1.3"];
        assert_eq!(codes[BURST as usize..], expected);
    }

    #[test]
    fn refused_containers_share_what_may_be_kept() {
        let base = tempfile::tempdir().unwrap();
        let start = Instant::now();
        let mut recorder = Recorder::open(base.path(), Path::new("/nowhere"), |_: &str| {});
        for number in 0..BURST + 5 {
            let reason = "no".to_owned();
            let what = Occurrence::Attachment(AttachmentChange::Refused { reason });
            recorder.keep(start, &HostEvent { what, ..left(&format!("c{number}"), 1) });
        }
        recorder.keep(start, &left("other", 2));
        assert_eq!(recorder.allowances.len(), 2);
        assert_eq!(codes(base.path()).len(), BURST as usize + 1);
    }

    #[test]
    fn the_journal_has_fields_to_search_for() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("journal");
        let journal = UnixDatagram::bind(&path).unwrap();
        let mut recorder = Recorder::open(base.path(), &path, |_: &str| {});
        recorder.keep(Instant::now(), &left("c1", 1));
        let mut entry = [0; 1000];
        let length = journal.recv(&mut entry).unwrap();
        let entry = String::from_utf8_lossy(&entry[..length]).into_owned();
        assert_eq!(
            entry.lines().collect::<Vec<_>>(),
            [
                "MESSAGE=cam: left mc0 239.1.1.1",
                "PRIORITY=6",
                "SYSLOG_IDENTIFIER=mcrun",
                "MCRUN_EVENT=left",
                "MCRUN_CONTAINER=c1",
                "MCRUN_NAME=cam",
                "MCRUN_GROUP=239.1.1.1",
            ]
        );
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_told_once_and_tried_again() {
        let base = tempfile::tempdir().unwrap();
        let directory = base.path().join("log");
        std::fs::write(&directory, "a file").unwrap();
        let told = RefCell::new(Vec::new());
        let tell = |text: &str| told.borrow_mut().push(text.to_owned());
        let mut recorder = Recorder::open(&directory, Path::new("/nowhere"), tell);
        recorder.keep(Instant::now(), &left("c1", 1));
        assert_eq!(told.borrow().len(), 1, "{:?}", told.borrow());
        assert!(told.borrow()[0].contains(directory.to_str().unwrap()));
        std::fs::remove_file(&directory).unwrap();
        recorder.keep(Instant::now(), &left("c1", 2));
        assert_eq!(codes(&directory), ["c1 left mc0 239.1.1.2"]);
    }
}
