//! `mcrun events`.

use std::io;
use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::events::{HostEvent, Occurrence, follow, nobody_asks, read_kept};
use crate::service::keeper_socket;
use crate::state::{Store, log_dir};

/// What `--help` says.
pub(super) const ABOUT: &str = "\
Show what has happened to containers.

Shows the events that mcrun keep has kept, oldest first. With --follow shows events as they happen,
whether a keeper runs or not; with --since also those that were kept. A line has the time in UTC,
the container, the event and its details.

Events: attached, detached; joined, denied, limited, failed, left; querier, querier-gone,
mld-querier, mld-querier-gone; alarm, alarm-cleared; stream-started, stream-stopped; proxy-died,
proxy-replaced; refused; notice; suppressed, lost and not-followed, which tell of events that are
missing.";

/// The time of a refusal is in whole seconds.
const SECOND: Duration = Duration::from_secs(1);
/// Events that wait to be printed.
const QUEUE: usize = 1024;

/// Arguments of `mcrun events`.
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Only this container, by name, id or the beginning of its id. It may have ended.
    container: Option<String>,
    /// Show events as they happen.
    #[arg(short, long)]
    follow: bool,
    /// Only events since then: a time such as 2026-01-31T03:00:00Z, or so long ago, such as 10m.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<SystemTime>,
    /// Only events until then; not with --follow.
    #[arg(long, value_name = "TIME", value_parser = parse_time, conflicts_with = "follow")]
    until: Option<SystemTime>,
    /// Print an object of JSON on each line.
    #[arg(long)]
    json: bool,
}

fn parse_time(text: &str) -> Result<SystemTime, String> {
    if let Ok(time) = humantime::parse_rfc3339_weak(text) {
        return Ok(time);
    }
    humantime::parse_duration(text)
        .ok()
        .and_then(|ago| SystemTime::now().checked_sub(ago))
        .ok_or_else(|| {
            "expected a time such as 2026-01-31T03:00:00Z, or a duration such as 10m".into()
        })
}

pub(super) fn run(args: EventsArgs) -> anyhow::Result<ExitCode> {
    let ended = if args.follow { show_following(&args) } else { show_kept(&args) };
    match ended {
        // A reader that has gone away (`mcrun events | head -1`) is no error.
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(error),
        Ok(()) => Ok(ExitCode::SUCCESS),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn show_kept(args: &EventsArgs) -> anyhow::Result<()> {
    if !keeper_socket::is_served() {
        eprintln!("mcrun: no keeper runs, so that no event is kept now: start mcrun keep");
    }
    let mut out = io::BufWriter::new(io::stdout().lock());
    read_kept(&Store::from_env(), &log_dir(), |event| args.print(&mut out, &event))?;
    Ok(out.flush()?)
}

/// What was kept is read after the following has begun, so that nothing is missing between the two.
/// What is in both is shown once.
fn show_following(args: &EventsArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (sender, mut events) = mpsc::channel(QUEUE);
        let (begun, mut all_begun) = mpsc::channel(1);
        let begin = SystemTime::now();
        let following = tokio::spawn(follow(Store::from_env(), sender, begun, nobody_asks()));
        let mut out = io::stdout().lock();
        let mut shown = Vec::new();
        if args.since.is_some() {
            // Nothing is ever sent: the end is waited for.
            let _ = all_begun.recv().await;
            // What came before the following has begun is not told again. A keeper that does not answer
            // keeps nothing either.
            let _ = tokio::task::spawn_blocking(keeper_socket::wait_kept).await?;
            read_kept(&Store::from_env(), &log_dir(), |event| {
                args.print(&mut out, &event)?;
                shown.extend(Some(event).filter(|event| event.time() + SECOND >= begin));
                Ok(())
            })?;
        }
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => match shown.iter().position(|shown| is_same(shown, &event)) {
                        Some(position) => _ = shown.swap_remove(position),
                        None => args.print(&mut out, &event)?,
                    },
                    None => return following.await?,
                },
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
            }
        }
    })
}

/// Whether two followers tell of the same. Changes of attachments have the time at which a follower
/// noticed them.
fn is_same(one: &HostEvent, other: &HostEvent) -> bool {
    let noticed = matches!(one.what, Occurrence::Attachment(_));
    one.container == other.container
        && one.what == other.what
        && (noticed || one.time_ms == other.time_ms)
}

impl EventsArgs {
    fn shows(&self, event: &HostEvent) -> bool {
        let is_of_container = self.container.as_ref().is_none_or(|wanted| {
            event.name == *wanted || event.container.starts_with(wanted.as_str())
        });
        is_of_container
            && self.since.is_none_or(|since| event.time() >= since)
            && self.until.is_none_or(|until| event.time() <= until)
    }

    fn print(&self, out: &mut impl Write, event: &HostEvent) -> io::Result<()> {
        if !self.shows(event) {
            return Ok(());
        }
        if self.json {
            serde_json::to_writer(&mut *out, event)?;
            writeln!(out)
        } else {
            let time = humantime::format_rfc3339_millis(event.time());
            writeln!(out, "{time} {} {} {}", event.name, event.code(), event.what)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::events::AttachmentChange;

    fn args(container: Option<&str>) -> EventsArgs {
        EventsArgs {
            container: container.map(Into::into),
            follow: false,
            since: None,
            until: None,
            json: false,
        }
    }

    fn event() -> HostEvent {
        let interface = "mc0".to_owned();
        HostEvent {
            time_ms: 1_764_331_200_123,
            container: "8f1c0".into(),
            name: "cam".into(),
            what: Occurrence::Attachment(AttachmentChange::Detached { interface }),
        }
    }

    #[test]
    fn a_line_has_time_container_event_and_details() {
        let mut out = Vec::new();
        args(None).print(&mut out, &event()).unwrap();
        let line = String::from_utf8(out).unwrap();
        assert_eq!(line, "2025-11-28T12:00:00.123Z cam detached mc0\n");
    }

    #[test]
    fn containers_and_times_are_chosen() {
        for (wanted, shows) in [("cam", true), ("8f1", true), ("ca", false), ("9", false)] {
            assert_eq!(args(Some(wanted)).shows(&event()), shows, "{wanted}");
        }
        let time = event().time();
        let before = time - Duration::from_secs(1);
        assert!(
            EventsArgs { since: Some(before), until: Some(time), ..args(None) }.shows(&event())
        );
        assert!(!EventsArgs { until: Some(before), ..args(None) }.shows(&event()));
        let after = time + Duration::from_secs(1);
        assert!(!EventsArgs { since: Some(after), ..args(None) }.shows(&event()));
    }

    #[test]
    fn times_are_absolute_or_ago() {
        let absolute = parse_time("2025-11-28T12:00:00Z").unwrap();
        assert_eq!(absolute, UNIX_EPOCH + Duration::from_secs(1_764_331_200));
        let before = SystemTime::now();
        let time = parse_time("10m").unwrap() + Duration::from_secs(600);
        assert!(before <= time && time <= SystemTime::now());
        for bad in ["yesterday", "", "-5m", "99999999999999y"] {
            assert!(parse_time(bad).is_err(), "{bad}");
        }
    }
}
