//! The running demonstration: one loop that reads the capture and the receivers, shows a line
//! each second, and ends early on SIGINT and SIGTERM.

use std::io;
use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::demo::DemoError;
use crate::demo::capture::Capture;
use crate::demo::receiver::Receiver;
use crate::demo::screen::{Paint, Screen};
use crate::demo::topology::{QUERY_INTERVAL, RESPONSE_INTERVAL};
use crate::probe::Signals;

/// Time between two live lines.
const TICK: Duration = Duration::from_secs(1);
/// Silence from which on a stream of a thousand packets a second counts as interrupted.
const SILENT: Duration = Duration::from_millis(300);

/// Which of the two receivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReceiverRole {
    /// Joins second and leaves early.
    First,
    /// Joins first, stays, and must lose nothing.
    Second,
}

impl ReceiverRole {
    pub(super) fn number(self) -> usize {
        match self {
            ReceiverRole::First => 1,
            ReceiverRole::Second => 2,
        }
    }
}

/// Everything that can happen, in one place.
pub(super) struct Session {
    pub(super) signals: Signals,
    pub(super) capture: Capture,
    pub(super) screen: Screen,
    receivers: [Option<Receiver>; 2],
    start: Instant,
    next_tick: Instant,
}

impl Session {
    pub(super) fn new(signals: Signals, capture: Capture, screen: Screen) -> Self {
        let start = Instant::now();
        Session {
            signals,
            capture,
            screen,
            receivers: [None, None],
            start,
            next_tick: start + TICK,
        }
    }

    /// Begins another half: what was seen and received before is forgotten.
    pub(super) fn restart(&mut self) {
        self.receivers = [None, None];
        self.capture.restart();
    }

    /// Starts a receiver and waits for its first packets.
    pub(super) fn join(
        &mut self,
        role: ReceiverRole,
        command: &mut Command,
        patience: Duration,
    ) -> Result<(), DemoError> {
        self.tell(&format!("container {} joins", role.number()));
        let receiver = Receiver::start(command).map_err(|source| DemoError::Start {
            what: command.get_program().to_string_lossy().into_owned(),
            source,
        })?;
        self.receivers[role.number() - 1] = Some(receiver);
        let came = self.wait(patience, |session| {
            session.receiver(role).is_none_or(|r| r.packets() > 0 || r.has_ended())
        })?;
        match self.receiver(role) {
            Some(receiver) if receiver.packets() > 0 => Ok(()),
            _ if came => Err(DemoError::NoResult { container: role.number() }),
            _ => Err(DemoError::Silent { container: role.number(), patience }),
        }
    }

    /// Ends a receiver and waits for its result.
    pub(super) fn leave(
        &mut self,
        role: ReceiverRole,
        patience: Duration,
    ) -> Result<(), DemoError> {
        self.tell(&format!("container {} leaves", role.number()));
        if let Some(receiver) = self.receiver(role) {
            receiver.terminate();
        }
        self.wait(patience, |session| session.receiver(role).is_none_or(Receiver::has_ended))?;
        match self.receiver(role).and_then(Receiver::result) {
            Some(_) => Ok(()),
            None => Err(DemoError::NoResult { container: role.number() }),
        }
    }

    /// Waits for the switch's next general query, and until every host had time to answer.
    pub(super) fn next_query(&mut self) -> Result<(), DemoError> {
        let before = self.capture.switch_queries();
        let patience = QUERY_INTERVAL + Duration::from_secs(5);
        if !self.wait(patience, |session| session.capture.switch_queries() > before)? {
            return Err(DemoError::NoQuery);
        }
        self.pass(RESPONSE_INTERVAL + Duration::from_millis(200))
    }

    /// Lets some time pass.
    pub(super) fn pass(&mut self, time: Duration) -> Result<(), DemoError> {
        self.wait(time, |_| false).map(drop)
    }

    /// Waits for `condition`; false if it does not hold within `patience`.
    pub(super) fn wait(
        &mut self,
        patience: Duration,
        condition: impl Fn(&Self) -> bool,
    ) -> Result<bool, DemoError> {
        let deadline = Instant::now() + patience;
        loop {
            if condition(self) {
                return Ok(true);
            }
            let now = Instant::now();
            if now >= deadline {
                return Ok(false);
            }
            if now >= self.next_tick {
                self.tick();
                self.next_tick = now + TICK;
            }
            self.turn(deadline.min(self.next_tick))?;
        }
    }

    pub(super) fn receiver(&self, role: ReceiverRole) -> Option<&Receiver> {
        self.receivers[role.number() - 1].as_ref()
    }

    /// Handles what happens until `deadline`, or the first thing that happens.
    fn turn(&mut self, deadline: Instant) -> Result<(), DemoError> {
        let mut polled = vec![
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.capture.as_fd(), PollFlags::POLLIN),
        ];
        let mut readers = Vec::new();
        for (index, receiver) in self.receivers.iter().enumerate() {
            if let Some(output) = receiver.as_ref().and_then(Receiver::output) {
                polled.push(PollFd::new(output, PollFlags::POLLIN));
                readers.push(index);
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        // Rounded up: a millisecond late rather than a busy loop before.
        let left = u16::try_from(left.as_millis() + 1).unwrap_or(u16::MAX);
        match poll(&mut polled, PollTimeout::from(left)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(DemoError::Wait(io::Error::from(error))),
        }
        let ready: Vec<bool> = polled.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        if ready[0] && self.signals.came() {
            return Err(DemoError::Interrupted);
        }
        self.capture.read();
        for (index, _) in readers.into_iter().zip(&ready[2..]).filter(|(_, ready)| **ready) {
            if let Some(receiver) = &mut self.receivers[index] {
                receiver.read();
            }
        }
        Ok(())
    }

    fn tell(&mut self, what: &str) {
        let time = self.start.elapsed().as_secs_f64();
        self.screen.line(&format!("{time:5.1} s  {}", self.screen.paint(Paint::Bold, what)));
    }

    /// One live line: what each receiver had in the last second.
    fn tick(&mut self) {
        if self.receivers.iter().all(Option::is_none) {
            return;
        }
        let time = self.start.elapsed().as_secs_f64();
        let mut line = format!("{time:5.1} s  ");
        for (index, receiver) in self.receivers.iter_mut().enumerate() {
            let (paint, text) = match receiver {
                None => (Paint::Dim, "not started".to_owned()),
                Some(receiver) if receiver.result().is_some() || receiver.has_ended() => {
                    (Paint::Dim, "has left".to_owned())
                }
                Some(receiver) => latest(receiver),
            };
            let cell = self.screen.paint(paint, &format!("{text:<26}"));
            line.push_str(&format!("container {}: {cell}", index + 1));
        }
        self.screen.line(line.trim_end());
    }
}

/// What a receiver had since the last line.
fn latest(receiver: &mut Receiver) -> (Paint, String) {
    let recent = receiver.recent();
    match receiver.silence() {
        None => (Paint::Dim, "nothing yet".to_owned()),
        Some(silence) if silence > SILENT => {
            (Paint::Red, format!("NOTHING for {:.1} s", silence.as_secs_f64()))
        }
        Some(_) => {
            let seconds = recent.time.as_secs_f64();
            let rate = if seconds > 0.0 { recent.packets as f64 / seconds } else { 0.0 };
            let paint = if recent.lost > 0 { Paint::Red } else { Paint::Green };
            (paint, format!("{rate:.0} packets/s, {} lost", recent.lost))
        }
    }
}
