//! A terminal as people have one: a pane of tmux, on the container host.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Lab, PATIENCE, output, run, wait_until};

/// A pane with a shell, in a tmux of its own.
pub struct Pane<'lab> {
    lab: &'lab Lab,
    socket: PathBuf,
}

impl Lab {
    /// A pane of so many columns and rows. In its shell `mcrun` is the one under test.
    pub fn pane(&self, columns: u16, rows: u16) -> Pane<'_> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        // A server that ends still holds its socket.
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let pane = Pane { lab: self, socket: self.directory().join(format!("tmux-{number}")) };
        let (columns, rows) = (columns.to_string(), rows.to_string());
        // The server gets the environment of whoever starts it.
        let directory = self.program("mcrun").parent().expect("a directory").to_owned();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = pane.tmux(&["-f", "/dev/null", "new-session", "-d"]);
        command
            .args(["-x", &columns, "-y", &rows, "PS1='$ ' exec sh"])
            .env("PATH", format!("{}:{path}", directory.display()))
            .env_remove("NO_COLOR")
            .env_remove("TMUX");
        let started = command.output();
        assert!(
            started.as_ref().is_ok_and(|output| output.status.success()),
            "tmux: install it (make test does): {started:?}"
        );
        pane.wait_for("$");
        pane
    }
}

impl Pane<'_> {
    fn tmux(&self, arguments: &[&str]) -> Command {
        let mut command = self.lab.enter("host", "tmux");
        command.arg("-u").arg("-S").arg(&self.socket).args(arguments);
        command
    }

    /// Types a line of text and Enter.
    pub fn line(&self, text: &str) {
        run(&mut self.tmux(&["send-keys", "-l", text]));
        self.keys(&["Enter"]);
    }

    /// Presses keys, by tmux's names for them.
    pub fn keys(&self, keys: &[&str]) {
        run(self.tmux(&["send-keys"]).args(keys));
    }

    /// Another size.
    pub fn resize(&self, columns: u16, rows: u16) {
        let (columns, rows) = (columns.to_string(), rows.to_string());
        run(&mut self.tmux(&["resize-window", "-x", &columns, "-y", &rows]));
    }

    /// What is on the screen.
    pub fn screen(&self) -> String {
        run(&mut self.tmux(&["capture-pane", "-p"]))
    }

    /// The same with the sequences for colours and the like.
    pub fn painted(&self) -> String {
        run(&mut self.tmux(&["capture-pane", "-p", "-e"]))
    }

    /// A variable of tmux, such as `cursor_flag`.
    pub fn variable(&self, name: &str) -> String {
        let text = run(&mut self.tmux(&["display-message", "-p", &format!("#{{{name}}}")]));
        text.trim().to_owned()
    }

    /// Waits until the screen has this text; the screen.
    pub fn wait_for(&self, text: &str) -> String {
        self.wait_until(text, |screen| screen.contains(text))
    }

    /// Waits until the screen is so; the screen.
    pub fn wait_until(&self, what: &str, condition: impl Fn(&str) -> bool) -> String {
        let mut last = String::new();
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_until(&format!("the screen shows {what}"), PATIENCE, || {
                last = self.screen();
                condition(&last).then_some(())
            });
        }));
        if let Err(panic) = found {
            eprintln!("the screen:\n{last}");
            std::panic::resume_unwind(panic);
        }
        last
    }
}

impl Drop for Pane<'_> {
    fn drop(&mut self) {
        output(&mut self.tmux(&["kill-server"]));
    }
}
