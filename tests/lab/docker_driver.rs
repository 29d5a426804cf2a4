//! mcrun's network driver of docker, on the container host. Start it before the daemon, which asks it until
//! the daemon's end.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::process::{Background, kill, wait_until};
use super::{Lab, PATIENCE};

/// `mcrun serve docker`, at a socket that only the lab's docker uses.
pub struct DockerDriver {
    process: Background,
    socket: PathBuf,
}

impl DockerDriver {
    /// Its name among those of the lab.
    pub const NAME: &str = "net";

    /// Returns when it listens.
    pub fn start(lab: &Lab) -> DockerDriver {
        let socket =
            PathBuf::from(format!("/run/docker/plugins/{}.sock", lab.name(DockerDriver::NAME)));
        let mut command = lab.mcrun(["serve", "docker", "--socket"]);
        let process = Background::start(command.arg(&socket));
        let driver = DockerDriver { process, socket };
        driver.wait_ready();
        driver
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its children that have ended and that it has not waited for.
    pub fn dead_children(&self) -> usize {
        let parent = self.process.pid().to_string();
        let processes = fs::read_dir("/proc").expect("/proc").flatten();
        let stats =
            processes.filter_map(|process| fs::read_to_string(process.path().join("stat")).ok());
        let dead = stats.filter(|stat| {
            // Behind the command: the state and the parent.
            let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
            fields.split(' ').take(2).eq(["Z", parent.as_str()])
        });
        dead.count()
    }

    fn wait_ready(&self) {
        wait_until("the driver listens", PATIENCE, || UnixStream::connect(&self.socket).ok());
    }

    /// Ends it at once, and starts it anew.
    pub fn kill_and_start(&mut self, lab: &Lab) {
        kill(self.process.pid());
        self.process.wait(PATIENCE);
        let mut command = lab.mcrun(["serve", "docker", "--socket"]);
        self.process = Background::start(command.arg(&self.socket));
        self.wait_ready();
    }
}

impl Drop for DockerDriver {
    fn drop(&mut self) {
        self.process.signal(libc::SIGTERM);
        self.process.end_within(PATIENCE);
        let _ = fs::remove_file(&self.socket);
    }
}
