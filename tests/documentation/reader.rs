//! Somebody who reads a page and types its commands, on the container host of a lab.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::page::{Block, page};
use crate::lab::{
    Background, Bundle, DockerDriver, Dockerd, Engine, IMAGE, Lab, PARENT, PATIENCE, hooks_dir,
    json, output, run, wait_until,
};

/// The LAN interface of the pages, on the container host and on the sender.
const INTERFACE: &str = "eth1";
/// Further LAN interfaces of the pages.
const OTHERS: [&str; 2] = ["red", "blue"];
/// The image of the pages, which the engines have: the lab's.
const NAMED_IMAGE: &str = "alpine";
/// What the pages call the programs' directory.
const PREFIX: &str = "/usr/local/bin/";
/// The name that the pages give containers; each lab has its own.
const CONTAINER: &str = "receiver";

/// Commands that are for another host of the LAN.
const SENDER: &str = "sh sender";
/// What is sent there while a page is read that has none of these.
const STREAM: &str = "mcrun probe send 239.1.2.3:5004 --interface eth1";

/// What a page needs beside mcrun and runc.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    Nothing,
    /// The pages that begin with an empty directory make their own root file system.
    EnginesAndEmptyDirectory,
    Docker,
    Engines,
}

/// Runs all commands of a page in their order, except those in `left_out`. Each must succeed.
pub(super) fn read(path: &str, needs: Needs, left_out: impl Fn(&Block) -> bool) {
    let mut lab = Lab::new(3);
    for node in ["host", "src"] {
        rename_parent(&lab, node);
    }
    for name in OTHERS {
        lab.ip("host", &format!("link add {name} type veth peer name {name}-lan"));
        lab.ip("host", &format!("link set {name} up"));
        lab.ip("host", &format!("link set {name}-lan up"));
    }
    // It ends behind the daemon, which asks it.
    let _driver = (needs != Needs::Nothing).then(|| DockerDriver::start(&lab));
    lab.settle();
    let daemon = (needs != Needs::Nothing).then(|| Dockerd::start(&mut lab));
    if let Some(daemon) = &daemon {
        run(daemon.command(&lab, ["tag", IMAGE]).arg(NAMED_IMAGE));
    }
    let has_podman = matches!(needs, Needs::Engines | Needs::EnginesAndEmptyDirectory);
    let hooks = hooks_dir(&lab);
    let podman = has_podman.then(|| Engine::podman(&lab, "runc", &[&hooks]));
    if let Some(podman) = &podman {
        run(podman.command(&["tag", IMAGE]).arg(NAMED_IMAGE));
    }
    let mut reader = Reader::new(&lab, daemon.as_ref(), podman.as_ref());
    // podman looks into the file that docker's client keeps registries in.
    if let Some((_, directory)) =
        reader.environment.iter().find(|(name, _)| name == "DOCKER_CONFIG")
    {
        fs::create_dir_all(directory).expect("directory");
        fs::write(Path::new(directory).join("config.json"), "{}").expect("client configuration");
    }
    if needs != Needs::EnginesAndEmptyDirectory {
        symlink(lab.rootfs(), reader.directory.join("rootfs")).expect("link");
    }
    let blocks = page(path).blocks();
    if !blocks.iter().any(|block| block.info == SENDER) {
        reader.send(STREAM);
    }
    for block in blocks {
        if !left_out(&block) {
            reader.follow(path, &block);
        }
    }
}

/// Gives the lab's LAN interface the name that it has in the pages.
fn rename_parent(lab: &Lab, node: &str) {
    lab.ip(node, &format!("link set {PARENT} down"));
    lab.ip(node, &format!("link set {PARENT} name {INTERFACE}"));
    lab.ip(node, &format!("link set {INTERFACE} up"));
    wait_until("the LAN interface comes up", PATIENCE, || {
        let links = json(lab.enter(node, "ip").args(["-j", "link", "show", INTERFACE]));
        (links[0]["operstate"] == "UP").then_some(())
    });
}

struct Reader<'l> {
    lab: &'l Lab,
    /// Where commands run.
    directory: PathBuf,
    environment: Vec<(String, String)>,
    /// What the page has started on another host of the LAN.
    senders: Vec<Background>,
}

impl<'l> Reader<'l> {
    fn new(lab: &'l Lab, daemon: Option<&Dockerd>, podman: Option<&Engine<'_>>) -> Reader<'l> {
        let directory = lab.directory().join("reader");
        let bin = lab.directory().join("reader-bin");
        for directory in [&directory, &bin] {
            fs::create_dir_all(directory).expect("directory");
        }
        let search = std::env::var("PATH").expect("a search path");
        let script = |name: &str, text: &str| {
            let file = bin.join(name);
            let text = format!("#!/bin/sh\nPATH='{search}'\n{text}\n");
            fs::write(&file, text).expect("script");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("mode");
        };
        // Root already, and the commands below are to be found by what it calls.
        fs::write(bin.join("sudo"), "#!/bin/sh\nexec \"$@\"\n").expect("script");
        fs::set_permissions(bin.join("sudo"), fs::Permissions::from_mode(0o755)).expect("mode");
        // The machine's own configuration is not for a test to change.
        let root = lab.directory().join("docker");
        let mcrun = env!("CARGO_BIN_EXE_mcrun");
        script(
            "mcrun",
            &format!(
                "[ \"$1\" != setup ] || set -- \"$@\" --root '{}'\nexec '{mcrun}' \"$@\"",
                root.display()
            ),
        );
        script("runc", &format!("exec runc --root '{}/runc' \"$@\"", lab.directory().display()));
        // Debian has compose as a program, not as a plugin.
        script(
            "docker",
            "[ \"$1\" = compose ] || exec docker \"$@\"\nshift\nexec docker-compose --file compose.yaml \"$@\"",
        );
        let mut environment = vec![("PATH".to_owned(), format!("{}:{search}", bin.display()))];
        environment.extend(daemon.into_iter().flat_map(Dockerd::environment));
        environment.extend(podman.into_iter().flat_map(|engine| engine.environment().to_vec()));
        Reader { lab, directory, environment, senders: Vec::new() }
    }

    fn follow(&mut self, path: &str, block: &Block) {
        let text = self.in_the_lab(&block.text);
        let at = format!("{path}, line {}:\n{text}", block.line);
        match block.info.as_str() {
            "sh" => self.run(self.directory.clone(), &text, &at),
            SENDER => self.send(&text),
            "sh bundle" => {
                let mut bundle = Bundle::new(self.lab, "by-hand");
                bundle.add_hooks(self.lab);
                bundle.annotate(&format!("parent={INTERFACE},ip=192.0.2.20/24"));
                bundle.write();
                self.run(bundle.path, &text, &at);
            }
            "yaml" if text.contains("services:") => {
                fs::write(self.directory.join("compose.yaml"), &text).expect("compose.yaml");
                self.run(self.directory.clone(), "docker compose config --quiet", &at);
            }
            // A file of another name says so in its first line.
            "toml" if text.starts_with("# /etc/mcrun/") => {
                let name = text.lines().next().and_then(|line| line.strip_prefix("# /etc/mcrun/"));
                let file = self.lab.config_dir().join(name.expect("a name"));
                fs::create_dir_all(file.parent().expect("a directory")).expect("directory");
                fs::write(file, &text).expect("file");
            }
            "toml" => {
                fs::write(self.lab.config_dir().join("mcrun.toml"), &text).expect("mcrun.toml");
            }
            // Shown, not typed: other tests compare them.
            "json" | "yaml" | "text" => {}
            other => panic!("{path}, line {}: no test knows blocks of {other:?}", block.line),
        }
    }

    /// Starts a stream on another host of the LAN.
    fn send(&mut self, text: &str) {
        let mut command = self.shell("src", text, &self.directory);
        self.senders.push(Background::start(command.stdout(Stdio::null())));
    }

    /// A text of the pages as it is true here.
    fn in_the_lab(&self, text: &str) -> String {
        let programs = Path::new(env!("CARGO_BIN_EXE_mcrun")).parent().expect("a directory");
        let driver = self.lab.name(DockerDriver::NAME);
        text.replace(PREFIX, &format!("{}/", programs.display()))
            .replace("driver: mcrun\n", &format!("driver: {driver}\n"))
            .replace("-d mcrun ", &format!("-d {driver} "))
            .replace(CONTAINER, &self.lab.name(CONTAINER))
    }

    fn shell(&self, node: &str, text: &str, directory: &Path) -> Command {
        let mut command = self.lab.enter(node, "timeout");
        command.args(["120", "bash", "-euo", "pipefail", "-c", text]);
        command.current_dir(directory).envs(self.environment.iter().cloned());
        command
    }

    fn run(&self, directory: PathBuf, text: &str, at: &str) {
        // A container that goes on keeps its outputs: they are files.
        let log = self.lab.directory().join("reader-log");
        let file = fs::File::create(&log).expect("log file");
        let mut command = self.shell("host", text, &directory);
        command.stdout(file.try_clone().expect("log file")).stderr(file);
        let status = Background::start(&mut command).wait(PATIENCE * 4);
        let shown = fs::read_to_string(log).unwrap_or_default();
        assert!(status.success(), "{at}\n{status}\n{shown}");
        if text.contains("probe recv") && !text.contains("--detach") {
            assert!(shown.contains("0 lost") || text.contains("compose"), "{at}\n{shown}");
        }
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        let name = self.lab.name(CONTAINER);
        let _ = output(&mut self.lab.mcrun(["rm", "--force", &name]));
    }
}
