//! dockerd and containerd of the lab's own, on its container host. They are to end before the lab
//! does, which kills what it finds.

use std::fs;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value, json};

use super::process::{Background, alive, kill, output, remove_cgroups, run, wait_until};
use super::{Container, EngineCommands, Lab, PATIENCE};

/// The image, which is the root file system of all containers of the lab.
pub const IMAGE: &str = "lab";

/// A daemon, ended in the way that lets it clean up.
struct Daemon {
    process: Background,
    log: PathBuf,
}

impl Daemon {
    fn start(command: &mut Command, directory: &Path) -> Daemon {
        let log = directory.join("log");
        let file = File::create(&log).expect("log file");
        command.stdout(file.try_clone().expect("log file")).stderr(file);
        Daemon { process: Background::start(command), log }
    }

    fn wait_ready(&mut self, probe: impl Fn() -> Command) {
        wait_until("the daemon answers", PATIENCE, || {
            output(&mut probe()).status.success().then_some(())
        });
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(30)..];
            eprintln!("{}:\n{}", self.log.display(), last.join("\n"));
        }
        self.process.signal(libc::SIGTERM);
        self.process.end_within(Duration::from_secs(15));
    }
}

/// A dockerd with a bridge of its own, which `mcrun setup docker` has told of the runtime `mcrun`.
pub struct Dockerd {
    daemon: Option<Daemon>,
    cgroup: Cgroup,
    directory: PathBuf,
    filters: bool,
    /// Whether `run` has `--annotation`: since docker 24.
    annotations: bool,
}

impl Dockerd {
    /// Returns when it answers and has the image; what it has put on the host belongs there then.
    pub fn start(lab: &mut Lab) -> Dockerd {
        Dockerd::start_with(lab, "{ \"debug\": true }")
    }

    /// The same with another daemon.json.
    pub fn start_with(lab: &mut Lab, config: &str) -> Dockerd {
        Dockerd::start_all(lab, config, false)
    }

    /// The same as users have it, with docker's own iptables rules.
    pub fn start_filtering(lab: &mut Lab) -> Dockerd {
        Dockerd::start_all(lab, "{ \"debug\": true }", true)
    }

    fn start_all(lab: &mut Lab, config: &str, filters: bool) -> Dockerd {
        let directory = lab.directory().join("docker");
        for parent in ["etc/docker", "run"] {
            fs::create_dir_all(directory.join(parent)).expect("directory");
        }
        fs::write(directory.join("etc/docker/daemon.json"), config).expect("file");
        let cgroup = Cgroup::of(lab);
        let mut docker = Dockerd { daemon: None, cgroup, directory, filters, annotations: false };
        docker.start_daemon(lab);
        docker.annotations = docker.major(lab) >= 24;
        // While it runs, as people do it.
        run(lab.mcrun(["setup", "docker", "--reload", "--root"]).arg(&docker.directory));
        docker.write_facts(lab);
        wait_until("dockerd knows the runtime", PATIENCE, || {
            let format = ["info", "--format", "{{json .Runtimes}}"];
            run(&mut docker.command(lab, format)).contains("mcrun-runtime").then_some(())
        });
        let archive = docker.directory.join("image.tar");
        run(Command::new("tar").arg("-C").arg(lab.rootfs()).arg("-cf").arg(&archive).arg("."));
        run(docker.command(lab, ["import"]).arg(&archive).arg(IMAGE));
        lab.settle();
        docker
    }

    /// What `mcrun setup docker` has written about this dockerd, where mcrun-runtime looks for it.
    fn write_facts(&self, lab: &Lab) {
        let written = self.directory.join("etc/mcrun/engines.toml");
        let facts = fs::read_to_string(written).expect("mcrun setup docker writes it");
        let daemon_json = self.directory.join("etc/docker/daemon.json");
        let facts = facts.replace("/etc/docker/daemon.json", daemon_json.to_str().expect("text"));
        fs::write(lab.config_dir().join("engines.toml"), facts).expect("engines.toml");
    }

    /// Makes mcrun's runtime the default of containers to come, without `mcrun setup`.
    pub fn make_mcrun_the_default(&mut self, lab: &mut Lab) {
        let file = self.directory.join("etc/docker/daemon.json");
        let text = fs::read(&file).expect("daemon.json");
        let mut config: Value = serde_json::from_slice(&text).expect("JSON");
        config["default-runtime"] = "mcrun".into();
        fs::write(&file, config.to_string()).expect("daemon.json");
        self.restart(lab);
        lab.settle();
    }

    fn major(&self, lab: &Lab) -> u32 {
        let version = run(&mut self.command(lab, ["version", "--format", "{{.Server.Version}}"]));
        let major = version.split('.').next().and_then(|number| number.parse().ok());
        major.unwrap_or_else(|| panic!("docker's version: {version}"))
    }

    /// What asks for an attachment by hand: the annotation, or the variable of a docker that has no
    /// annotations.
    pub fn origin(&self) -> &'static str {
        if self.annotations { "io.mcrun.mcast" } else { "MCRUN_MCAST" }
    }

    /// The option of `docker run` that asks so.
    pub fn request(&self, attachment: &str) -> [String; 2] {
        let option = if self.annotations { "--annotation" } else { "--env" };
        [option.to_owned(), format!("{}={attachment}", self.origin())]
    }

    fn start_daemon(&mut self, lab: &Lab) {
        let at = |name: &str| self.directory.join(name);
        let mut command = lab.enter("host", "dockerd");
        command
            .arg("--config-file")
            .arg(at("etc/docker/daemon.json"))
            .arg("--data-root")
            .arg(at("data"))
            .arg("--exec-root")
            .arg(at("exec"))
            .arg("--pidfile")
            .arg(at("run/docker.pid"))
            .arg("--host")
            .arg(self.socket())
            .args([
                "--ip6tables=false",
                "--bip",
                "172.30.99.1/24",
                "--cgroup-parent",
                &self.cgroup.0,
            ]);
        if !self.filters {
            // Filtering is the host's business, and not this machine's kernel's.
            command.args(["--iptables=false", "--ip-masq=false"]);
        }
        let mut daemon = Daemon::start(&mut command, &self.directory);
        daemon.wait_ready(|| self.command(lab, ["version"]));
        self.daemon = Some(daemon);
    }

    fn socket(&self) -> String {
        format!("unix://{}", self.directory.join("docker.sock").display())
    }

    /// What makes a client speak to it.
    pub fn environment(&self) -> Vec<(String, String)> {
        let client = self.directory.join("client").display().to_string();
        vec![("DOCKER_HOST".into(), self.socket()), ("DOCKER_CONFIG".into(), client)]
    }

    /// Ends dockerd and starts it anew.
    pub fn restart(&mut self, lab: &Lab) {
        self.daemon = None;
        self.start_daemon(lab);
    }

    /// Kills dockerd, and starts it anew as its service manager would.
    pub fn kill_and_start(&mut self, lab: &Lab) {
        let daemon = self.daemon.as_mut().expect("it was started");
        kill(daemon.process.pid());
        daemon.process.wait(PATIENCE);
        // Its containerd ends with it, and the next dockerd would wait for one that is about to.
        let containerd = self.directory.join("exec/containerd/containerd.pid");
        let pid = fs::read_to_string(&containerd).ok().and_then(|pid| pid.trim().parse().ok());
        if let Some(pid) = pid {
            wait_until("its containerd is gone", PATIENCE, || (!alive(pid)).then_some(()));
            // dockerd takes one that nobody has waited for yet for one that runs.
            fs::remove_file(containerd).expect("the file");
        }
        self.restart(lab);
    }

    /// Starts dockerd anew, which has ended by itself or is about to. Its log up to then.
    pub fn restart_after_panic(&mut self, lab: &Lab) -> String {
        let daemon = self.daemon.as_mut().expect("it was started");
        daemon.process.wait(PATIENCE);
        let log = fs::read_to_string(&daemon.log).expect("log");
        self.restart(lab);
        log
    }

    /// `docker ARGUMENTS`.
    pub fn command<'a>(&self, lab: &Lab, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = lab.enter("host", "docker");
        command.args(["--host", &self.socket()]).args(arguments);
        command.env("DOCKER_CONFIG", self.directory.join("client"));
        command
    }

    /// `docker run -d` of a container that sleeps, with the runtime `mcrun`; may fail.
    pub fn try_run(&self, lab: &Lab, name: &str, attachment: &str, options: &[&str]) -> Output {
        let mut command = self.command(lab, ["run", "-d", "--runtime", "mcrun"]);
        command
            .args(["--name", &lab.name(name)])
            .args(self.request(attachment))
            .args(options)
            .args([IMAGE, "sleep", "1000"]);
        output(&mut command)
    }

    /// The same; fails the test when it fails.
    pub fn run(&self, lab: &Lab, name: &str, attachment: &str, options: &[&str]) -> Container {
        let started = self.try_run(lab, name, attachment, options);
        let error = String::from_utf8_lossy(&started.stderr);
        assert!(started.status.success(), "docker run: {error}");
        let id = String::from_utf8_lossy(&started.stdout).trim().to_owned();
        self.container(lab, &lab.name(name), &id)
    }

    /// A container that is there.
    pub fn container(&self, lab: &Lab, name: &str, id: &str) -> Container {
        let format = ["inspect", "--format", "{{.State.Pid}}", id];
        let pid = run(&mut self.command(lab, format)).trim().parse().expect("a pid");
        let docker = |arguments: &[&str]| {
            let first = ["docker", "--host", &self.socket()].map(str::to_owned);
            first.into_iter().chain(arguments.iter().map(|a| (*a).to_owned())).collect()
        };
        let engine =
            EngineCommands { exec: docker(&["exec", id]), delete: docker(&["rm", "--force", id]) };
        Container::of_engine(name, id, pid, engine)
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        // Containers of a test that failed, which outlive a dockerd with live-restore.
        let docker = |arguments: &[&str]| {
            let mut command = Command::new("docker");
            output(command.args(["--host", &self.socket()]).args(arguments))
        };
        let ids = docker(&["ps", "--all", "--quiet"]);
        for id in String::from_utf8_lossy(&ids.stdout).lines() {
            docker(&["rm", "--force", id]);
        }
        self.daemon = None;
    }
}

/// Where a daemon's containers have their cgroups; removed in the end.
struct Cgroup(String);

impl Cgroup {
    fn of(lab: &Lab) -> Cgroup {
        Cgroup(format!("/{}", lab.name("daemon")))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove_cgroups(self.0.trim_start_matches('/'));
    }
}

/// A containerd that `mcrun setup containerd` has told of the runtime handler `mcrun`.
pub struct Containerd {
    daemon: Daemon,
    cgroup: Cgroup,
    directory: PathBuf,
}

impl Containerd {
    /// Without the CRI plugin. Returns when it answers.
    pub fn start(lab: &mut Lab) -> Containerd {
        let off = "disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n";
        Containerd::start_with(lab, off, "")
    }

    /// The same with further keys and tables in its configuration file.
    pub fn start_with(lab: &mut Lab, keys: &str, tables: &str) -> Containerd {
        let directory = lab.directory().join("containerd");
        let config = directory.join("etc/containerd/config.toml");
        fs::create_dir_all(config.parent().expect("a parent")).expect("directory");
        let at = |name: &str| directory.join(name);
        let text = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n{keys}[grpc]\n  address = {:?}\n\
             [ttrpc]\n  address = {:?}\n{tables}",
            at("root"),
            at("state"),
            at("sock"),
            at("sock.ttrpc"),
        );
        fs::write(&config, text).expect("config.toml");
        run(lab.mcrun(["setup", "containerd", "--root"]).arg(&directory));
        let mut command = lab.enter("host", "containerd");
        let daemon = Daemon::start(command.arg("--config").arg(config), &directory);
        let mut containerd = Containerd { daemon, cgroup: Cgroup::of(lab), directory };
        let socket = containerd.socket();
        containerd.daemon.wait_ready(|| {
            let mut command = lab.enter("host", "ctr");
            command.arg("--address").arg(&socket).args(["version"]);
            command
        });
        lab.settle();
        containerd
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("sock")
    }

    /// The parent of its containers' cgroups.
    pub fn cgroup(&self) -> &str {
        &self.cgroup.0
    }

    /// Where `ctr` is to make its pipes.
    pub fn fifos(&self) -> PathBuf {
        self.directory.join("fifos")
    }

    /// Its log up to now.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.daemon.log).expect("log")
    }

    /// `ctr ARGUMENTS` in a namespace of containerd's.
    pub fn ctr<'a>(
        &self,
        lab: &Lab,
        namespace: &str,
        arguments: impl IntoIterator<Item = &'a str>,
    ) -> Command {
        let mut command = lab.enter("host", "ctr");
        command.arg("--address").arg(self.socket()).args(["--namespace", namespace]);
        command.args(arguments);
        command
    }

    /// The process id of a running task.
    pub fn pid(&self, lab: &Lab, namespace: &str, id: &str) -> i32 {
        let list = run(&mut self.ctr(lab, namespace, ["task", "ls"]));
        let pid = list.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some(id)).then(|| words.next()?.parse().ok())?
        });
        pid.unwrap_or_else(|| panic!("no task {id}: {list}"))
    }

    /// How to reach a task, and how to remove it with its container.
    pub fn commands(&self, namespace: &str, id: &str) -> EngineCommands {
        let ctr = format!("ctr --address {} --namespace {namespace}", self.socket().display());
        let shell = |script: String| {
            let words = ["sh", "-c", &script, "sh"];
            words.map(str::to_owned).to_vec()
        };
        EngineCommands {
            exec: shell(format!(
                "exec {ctr} task exec --fifo-dir {} --exec-id probe-$$ {id} \"$@\"",
                self.fifos().display()
            )),
            delete: shell(format!("{ctr} task rm -f {id} && {ctr} container rm {id}")),
        }
    }

    /// Imports the root file system of the lab's containers as an image that sleeps.
    pub fn import_image(&self, lab: &Lab, namespace: &str, name: &str) {
        let archive = oci_archive(lab, &self.directory.join("image"), name);
        let mut command = self.ctr(lab, namespace, ["images", "import"]);
        run(command.arg(archive));
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // Tasks of a test that failed, which outlive containerd.
        let ctr = |arguments: &[&str]| {
            let mut command = Command::new("ctr");
            let ended = output(command.arg("--address").arg(self.socket()).args(arguments));
            String::from_utf8_lossy(&ended.stdout).into_owned()
        };
        for namespace in ctr(&["namespaces", "ls", "--quiet"]).lines() {
            for id in ctr(&["--namespace", namespace, "task", "ls", "--quiet"]).lines() {
                ctr(&["--namespace", namespace, "task", "rm", "--force", id]);
            }
        }
    }
}

/// An image of the root file system of the lab's containers, as an archive of the OCI image layout
/// (image-spec, image-layout.md), made in a directory.
pub fn oci_archive(lab: &Lab, directory: &Path, name: &str) -> PathBuf {
    let blobs = directory.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("directory");
    let tar = |from: &Path, to: &Path| {
        run(Command::new("tar").arg("-C").arg(from).arg("-cf").arg(to).arg("."));
    };
    let add = |file: &Path| {
        let sum = run(Command::new("sha256sum").arg(file));
        let sum = sum.split_whitespace().next().expect("a digest").to_owned();
        let size = fs::metadata(file).expect("blob").len();
        fs::rename(file, blobs.join(&sum)).expect("blob");
        (format!("sha256:{sum}"), size)
    };
    let add_json = |value: Value| {
        let file = directory.join("blob");
        fs::write(&file, value.to_string()).expect("blob");
        add(&file)
    };
    let layer = directory.join("layer");
    tar(&lab.rootfs(), &layer);
    let (layer, layer_size) = add(&layer);
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let (config, config_size) = add_json(json!({
        "architecture": architecture, "os": "linux",
        "config": { "Cmd": ["/bin/sleep", "1000"] },
        "rootfs": { "type": "layers", "diff_ids": [layer] },
    }));
    let media = |kind: &str| format!("application/vnd.oci.image.{kind}");
    let (manifest, manifest_size) = add_json(json!({
        "schemaVersion": 2, "mediaType": media("manifest.v1+json"),
        "config": { "mediaType": media("config.v1+json"), "digest": config, "size": config_size },
        "layers": [{ "mediaType": media("layer.v1.tar"), "digest": layer, "size": layer_size }],
    }));
    let index = json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": media("manifest.v1+json"), "digest": manifest, "size": manifest_size,
            "annotations": { "io.containerd.image.name": name },
        }],
    });
    fs::write(directory.join("index.json"), index.to_string()).expect("index.json");
    fs::write(directory.join("oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}").expect("layout");
    let archive = directory.with_extension("tar");
    tar(directory, &archive);
    archive
}
