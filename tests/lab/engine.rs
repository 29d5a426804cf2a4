//! podman and docker on the container host, each with all of its state in the lab's directory.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::process;
use super::process::{output, run};
use super::{Container, Dockerd, EngineCommands, IMAGE, Lab};

/// An engine; its containers go with it.
pub struct Engine<'l> {
    lab: &'l Lab,
    program: &'static str,
    environment: Vec<(String, String)>,
}

impl<'l> Engine<'l> {
    /// podman with crun, which does not run where cgroups v1 and v2 are mounted together: it gets
    /// v1 only.
    pub fn podman_with_crun(lab: &'l Lab) -> Engine<'l> {
        let script = "#!/bin/sh\nexec unshare -m sh -c 'umount /sys/fs/cgroup/unified 2>/dev/null; \
                      exec crun \"$@\"' crun \"$@\"\n";
        let path = lab.directory().join("crun");
        fs::write(&path, script).expect("script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("mode");
        Engine::podman(lab, path.to_str().expect("UTF-8"), &[])
    }

    /// podman with this runtime. `hooks_dirs` is what its configuration says.
    pub fn podman(lab: &'l Lab, runtime: &str, hooks_dirs: &[&Path]) -> Engine<'l> {
        need("podman");
        let base = lab.directory().join("podman");
        fs::create_dir_all(&base).expect("directory");
        let path = |name: &str| base.join(name).display().to_string();
        // What conmon hands on to podman's cleanup has to suffice: no static_dir. Where limits
        // cannot be raised and cgroups v1 and v2 are mounted together, podman needs to be told;
        // locks in files, since those in shared memory are the machine's.
        let hooks: Vec<_> = hooks_dirs.iter().map(|dir| format!("{dir:?}")).collect();
        let configuration = format!(
            "[containers]\ndefault_ulimits = [\"nofile=4096:4096\", \"nproc=4096:4096\"]\n\
             [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n\
             lock_type = \"file\"\nruntime = {runtime:?}\ntmp_dir = {:?}\n\
             volume_path = {:?}\nhooks_dir = [{}]\n[network]\nnetwork_config_dir = {:?}\n",
            path("tmp"),
            path("volumes"),
            hooks.join(", "),
            path("networks"),
        );
        let storage = format!(
            "[storage]\ndriver = \"overlay\"\ngraphroot = {:?}\nrunroot = {:?}\n",
            path("graph"),
            path("run")
        );
        fs::write(base.join("containers.conf"), configuration).expect("containers.conf");
        fs::write(base.join("storage.conf"), storage).expect("storage.conf");
        let environment = vec![
            ("CONTAINERS_CONF".into(), path("containers.conf")),
            ("CONTAINERS_STORAGE_CONF".into(), path("storage.conf")),
        ];
        let engine = Engine { lab, program: "podman", environment };
        engine.import();
        engine
    }

    /// docker, by this daemon.
    pub fn docker(lab: &'l Lab, daemon: &Dockerd) -> Engine<'l> {
        Engine { lab, program: "docker", environment: daemon.environment() }
    }

    /// What makes its client find this engine.
    pub fn environment(&self) -> &[(String, String)] {
        &self.environment
    }

    /// The engine's own command, on the container host.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.lab.enter("host", self.program);
        command.args(arguments).envs(self.environment.iter().cloned());
        command
    }

    /// `mcrun`, with this engine in its environment.
    pub fn mcrun(&self, arguments: &[&str]) -> Command {
        let mut command = self.lab.mcrun(arguments);
        command.envs(self.environment.iter().cloned()).env("MCRUN_ENGINE", self.program);
        command
    }

    /// `mcrun run -d` of a container that sleeps; may fail. `options` are the engine's and mcrun's.
    pub fn try_start(&self, name: &str, options: &[&str]) -> Output {
        let name = self.lab.name(name);
        let mut command = self.mcrun(&["run", "-d", "--name", &name]);
        output(command.args(options).args([IMAGE, "sleep", "1000"]))
    }

    /// `mcrun run -d` of a container that sleeps.
    pub fn start(&self, name: &str, options: &[&str]) -> Container {
        let output = self.try_start(name, options);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "mcrun run: {}\n{errors}", output.status);
        let printed = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let container = self.container(name);
        assert_eq!(printed, container.id, "-d prints the id, and nothing else");
        container
    }

    /// `mcrun run -d` of a container that sleeps and is to outlive this value.
    pub fn container_kept(self, name: &str, attachment: &str) -> Container {
        let container = self.start(name, &["--mcast", attachment]);
        std::mem::forget(self);
        container
    }

    /// A running container, as the engine describes it.
    pub fn container(&self, name: &str) -> Container {
        self.container_of_any_name(&self.lab.name(name))
    }

    /// A container whose name or id the engine chose.
    pub fn container_of_any_name(&self, name: &str) -> Container {
        let (id, pid) = self.inspect(name, "{{.Id}} {{.State.Pid}}").split_once(' ').map_or_else(
            || panic!("{name} is not there"),
            |(id, pid)| (id.to_owned(), pid.parse().expect("a pid")),
        );
        let commands = |arguments: &[&str]| {
            let environment =
                self.environment.iter().map(|(name, value)| format!("{name}={value}"));
            let first = ["env".to_owned()].into_iter().chain(environment);
            let arguments = arguments.iter().map(|argument| (*argument).to_owned());
            first.chain([self.program.to_owned()]).chain(arguments).collect()
        };
        let engine = EngineCommands {
            exec: commands(&["exec", &id]),
            delete: commands(&["rm", "--force", &id]),
        };
        Container::of_engine(name, &id, pid, engine)
    }

    /// `inspect --format`.
    pub fn inspect(&self, name: &str, format: &str) -> String {
        let mut command = self.command(&["container", "inspect", "--format", format, name]);
        run(&mut command).trim().to_owned()
    }

    /// The engine's own command about a container; succeeds.
    pub fn run(&self, arguments: &[&str], container: &Container) -> String {
        run(self.command(arguments).arg(&container.name))
    }

    /// `exec` of the engine, to be completed.
    pub fn exec(&self, container: &Container, arguments: &[&str]) -> Command {
        let mut command = self.command(&["exec", &container.name]);
        command.args(arguments);
        command
    }

    /// The image, from a tar of the root file system.
    fn import(&self) {
        let tar = self.lab.directory().join("image.tar");
        run(Command::new("tar").arg("-C").arg(self.lab.rootfs()).arg("-cf").arg(&tar).arg("."));
        run(self.command(&["import"]).arg(&tar).arg(IMAGE));
    }
}

impl Drop for Engine<'_> {
    fn drop(&mut self) {
        let all = ["ps", "-aq", "--no-trunc"];
        let ids = self.command(&all).output().map(|o| o.stdout).unwrap_or_default();
        for id in String::from_utf8_lossy(&ids).split_whitespace() {
            let _ = self.command(&["rm", "-f", id]).stdin(Stdio::null()).output();
            // podman does not tell the runtime of a container whose conmon was killed.
            for runtime in ["runc", "crun"] {
                let _ = Command::new(runtime).args(["delete", "--force", id]).output();
            }
        }
        process::unmount_below(self.lab.directory());
    }
}

/// A test that cannot run fails.
fn need(program: &str) {
    let search = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&search).any(|directory| {
        fs::metadata(directory.join(program)).is_ok_and(|m| m.permissions().mode() & 0o111 != 0)
    });
    assert!(found, "no {program} in PATH: install it (make test does)");
}

/// hooks.d as `mcrun setup podman` would have it, for this lab.
pub fn hooks_dir(lab: &Lab) -> PathBuf {
    let directory = lab.directory().join("hooks.d");
    fs::create_dir_all(&directory).expect("hooks.d");
    for (stage, when) in
        [("createRuntime", ".+"), ("poststart", "driver=relay"), ("poststop", ".+")]
    {
        let definition = serde_json::json!({
            "version": "1.0.0",
            "hook": {
                "path": env!("CARGO_BIN_EXE_mcrun-hook"),
                "args": ["mcrun-hook", stage],
                "env": [
                    format!("MCRUN_STATE_DIR={}", lab.state_dir().display()),
                    format!("MCRUN_CONFIG_DIR={}", lab.config_dir().display()),
                ],
            },
            "when": { "annotations": { "^\"?io\\.mcrun\\.mcast$": when } },
            "stages": [stage],
        });
        let file = directory.join(format!("mcrun-{stage}.json"));
        fs::write(file, definition.to_string()).expect("definition");
    }
    directory
}
