//! `mcrun top`: a screen of all groups and what arrives for them, until a key ends it.

mod draw;
mod keys;
mod model;
mod row;

use std::io;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use nix::sys::signal::{Signal as NixSignal, raise};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::Event;
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{EnterAlternateScreen, enable_raw_mode};
use ratatui::layout::{Position, Rect};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::MissedTickBehavior;

use crate::cli::containers;
use crate::cli::containers::Container;
use crate::cli::output::{terminal_width, wants_colour};
use crate::cli::top::keys::Action;
use crate::cli::top::model::{Look, Model, Overlay};
use crate::cli::top::row::Row;
use crate::primitives::printable;
use crate::state::Store;

pub(super) const ABOUT: &str = "\
Show all groups and what arrives for them, live.

A row is a group of a container at an interface: packets and bits a second, the time since the last \
packet, RTP packets lost since the join, and in how many seconds the LAN's querier counts as gone \
unless it asks. A group that is joined is DEAD, and red where there are colours, when nothing has come \
for 5 seconds or ever. `-` stands for what is not known.

Enter shows a row in detail, with each source; `/` filters, `s` sorts, `?` lists the keys, `q` quits. \
NO_COLOR turns colours off. Needs a terminal of 60 columns and 8 rows; mcrun groups shows the same once.";

/// Longest note, in characters.
const MAX_NOTE: usize = 300;
/// A screen is drawn at least so often, for what depends on time alone.
const REDRAW: Duration = Duration::from_secs(1);

/// Arguments of `mcrun top`.
#[derive(Debug, Args)]
pub struct TopArgs {
    /// Only this container, by name, id or the beginning of its id.
    container: Option<String>,
    /// Seconds between two looks at the containers, 0.1 to 3600.
    #[arg(long, short = 'n', value_name = "SECONDS", default_value = "1", value_parser = parse_interval)]
    interval: Duration,
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.1..=3600.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "write seconds, 0.1 to 3600".into())
}

pub(super) fn run(args: TopArgs) -> anyhow::Result<ExitCode> {
    if let Err(problem) = check_terminal() {
        eprintln!("mcrun: {problem}; mcrun groups shows the same once");
        return Ok(ExitCode::FAILURE);
    }
    let wanted = args.container;
    // Errors are told before the screen is another one.
    let first = look(wanted.as_deref())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(show(wanted, args.interval, first));
    // A look that waits for a proxy keeps nobody waiting.
    runtime.shutdown_background();
    result.map(|()| ExitCode::SUCCESS)
}

/// What keeps a screen from being shown.
fn check_terminal() -> Result<(), String> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Err("top needs a terminal".into());
    }
    let term = std::env::var_os("TERM").unwrap_or_default();
    if term.is_empty() || term == "dumb" {
        return Err(format!("top needs a terminal that can move its cursor, not TERM={term:?}"));
    }
    match terminal_width() {
        Some(_) => Ok(()),
        None => Err("the terminal has no size: set one, such as stty cols 80 rows 24".into()),
    }
}

/// Everything that is shown, as it is now.
fn look(wanted: Option<&str>) -> anyhow::Result<Look> {
    let store = Store::from_env();
    let (containers, unreadable) = match wanted {
        Some(wanted) => (vec![containers::find(&store, wanted)?], Vec::new()),
        None => containers::all(&store)?,
    };
    let is_unknown = |c: &&Container| c.status.is_none() && c.record.proxy.is_some();
    let unknown = containers.iter().filter(is_unknown).map(|c| {
        let name = &c.record.container.name;
        format!("{name}: the proxy is {}, its groups are not known", c.proxy().state)
    });
    let unreadable = unreadable.iter().map(|u| format!("{}: {}", u.id, u.error));
    Ok(Look {
        rows: Row::of(&containers),
        containers: containers.len(),
        notes: unreadable.chain(unknown).map(|note| printable(&note, MAX_NOTE)).collect(),
    })
}

/// Shows the screen until it is to end.
async fn show(wanted: Option<String>, interval: Duration, first: Look) -> anyhow::Result<()> {
    let mut ends = Ends::new()?;
    let start = Instant::now();
    let mut model = Model::new();
    model.update(first, Duration::ZERO);
    let mut looks = look_again(wanted, interval);
    let mut screen = Screen::open().context("cannot take the terminal")?;
    let mut events = keys::read()?;
    let mut redraw = tokio::time::interval(REDRAW);
    redraw.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let colour = wants_colour();
    loop {
        let look = draw::Look { colour, interval, now: start.elapsed() };
        let drawn = screen.0.draw(|frame| draw::draw(frame, &mut model, look));
        drawn.context("cannot write to the terminal")?;
        tokio::select! {
            event = events.recv() => match event {
                Some(Ok(Event::Key(key))) => {
                    let is_typing = matches!(model.overlay, Overlay::Typing(_));
                    match keys::action(key, is_typing) {
                        Some(Action::Quit) => return Ok(()),
                        Some(Action::Suspend) => {
                            screen.suspend().context("cannot take the terminal again")?;
                        }
                        Some(action) => model.act(action),
                        None => {}
                    }
                }
                // The size has changed: it is asked for whenever the screen is drawn.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error).context("cannot read from the terminal"),
                None => bail!("cannot read from the terminal"),
            },
            Some(look) = looks.recv() => match look {
                Ok(look) => model.update(look, start.elapsed()),
                Err(error) => model.fail(printable(&format!("{error:#}"), MAX_NOTE)),
            },
            _ = redraw.tick() => {}
            () = ends.wait() => return Ok(()),
        }
    }
}

/// Looks again and again, beside the keys: a proxy that hangs is waited for.
fn look_again(wanted: Option<String>, interval: Duration) -> mpsc::Receiver<anyhow::Result<Look>> {
    let (sender, looks) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first one is at once, and a look was before it.
        ticks.tick().await;
        loop {
            ticks.tick().await;
            let wanted = wanted.clone();
            let Ok(look) = spawn_blocking(move || look(wanted.as_deref())).await else { return };
            if sender.send(look).await.is_err() {
                return;
            }
        }
    });
    looks
}

/// The signals that end it. Those of a terminal that is gone are among them.
struct Ends([Signal; 3]);

impl Ends {
    fn new() -> io::Result<Self> {
        Ok(Ends([
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ]))
    }

    async fn wait(&mut self) {
        let Ends([interrupt, terminate, hangup]) = self;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// The terminal with another screen, which goes with this value.
struct Screen(DefaultTerminal);

impl Screen {
    fn open() -> io::Result<Self> {
        ratatui::try_init().map(Screen).inspect_err(|_| _ = ratatui::try_restore())
    }
}

impl Screen {
    /// Stops the process, with the terminal as it was, until a shell lets it go on.
    fn suspend(&mut self) -> io::Result<()> {
        self.0.show_cursor()?;
        ratatui::try_restore()?;
        raise(NixSignal::SIGTSTP)?;
        enable_raw_mode()?;
        execute!(io::stdout(), EnterAlternateScreen)?;
        // Makes the next drawing a whole one, without a question to the terminal, as clear() has one: the
        // thread that reads keys would get the answer.
        let size = self.0.size()?;
        self.0.resize(Rect::from((Position::ORIGIN, size)))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = self.0.show_cursor();
        let _ = ratatui::try_restore();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_seconds() {
        assert_eq!(parse_interval("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_interval("3600"), Ok(Duration::from_secs(3600)));
        for bad in ["0", "0.01", "3601", "-1", "1s", "", "NaN", "inf"] {
            assert!(parse_interval(bad).is_err(), "{bad}");
        }
    }
}
