//! Containers: by `mcrun run`, by a runtime and a bundle, and as bare namespaces.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use super::process;
use super::process::{Background, output, run, wait_until};
use super::{Lab, PARENT, PATIENCE};

/// A container of the lab, or a process with a network namespace of its own.
#[derive(Debug, Clone)]
pub struct Container {
    /// Its name; with a plain runtime also its id.
    pub name: String,
    /// Full id.
    pub id: String,
    /// Process id of its init.
    pub pid: i32,
    runtime: Option<Runtime>,
    engine: Option<EngineCommands>,
}

/// How an engine's container is reached: programs with their first arguments.
#[derive(Debug, Clone, Default)]
pub struct EngineCommands {
    /// Takes a command and runs it in the container.
    pub exec: Vec<String>,
    /// Ends and removes the container.
    pub delete: Vec<String>,
}

impl EngineCommands {
    fn command(&self, lab: &Lab, list: &[String]) -> Command {
        let (program, arguments) = list.split_first().expect("a program");
        let mut command = lab.enter("host", program);
        command.args(arguments);
        command
    }
}

/// A runtime used by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    Runc,
    Crun,
}

impl Runtime {
    /// The runtime on the container host, its containers kept in the lab's directory.
    pub fn command<'a>(self, lab: &Lab, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        let root = lab.directory().join(format!("{self:?}"));
        let mut command = match self {
            Runtime::Runc => lab.enter("host", "runc"),
            // crun does not run where cgroups v1 and v2 are mounted together; it then gets v1 only.
            Runtime::Crun => {
                let mut command = lab.enter("host", "unshare");
                let script = "umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$@\"";
                command.args(["-m", "sh", "-c", script, "sh", "crun"]);
                command
            }
        };
        command.arg("--root").arg(root).args(arguments);
        command
    }
}

impl Container {
    /// Ends and removes it, whatever state it is in.
    pub(super) fn remove(&self, lab: &Lab) {
        if let Some(engine) = &self.engine {
            let _ = output(&mut engine.command(lab, &engine.delete));
            return;
        }
        let mut command = match self.runtime {
            Some(runtime) => runtime.command(lab, ["delete", "--force", &self.name]),
            None => lab.mcrun(["rm", "--force", &self.name]),
        };
        let _ = command.stdin(Stdio::null()).output();
        if self.pid > 0 {
            // Whoever else has this pid now is not in a namespace of the lab: see below.
            let is_ours = fs::read_to_string(format!("/proc/{}/cgroup", self.pid))
                .is_ok_and(|text| text.contains(&self.name) || text.contains(&self.id));
            if is_ours {
                process::kill(self.pid);
            }
        }
    }

    /// A container that an engine has started; it goes with its engine.
    pub fn of_engine(name: &str, id: &str, pid: i32, engine: EngineCommands) -> Container {
        Container {
            name: name.to_owned(),
            id: id.to_owned(),
            pid,
            runtime: None,
            engine: Some(engine),
        }
    }

    /// From now on commands run in its network namespace only, with the file system of the machine.
    pub fn enter_by_namespace(&mut self) {
        let pid = self.pid.to_string();
        let engine = self.engine.get_or_insert_default();
        let binaries = format!("PATH={}", binaries());
        engine.exec =
            ["nsenter", "--target", &pid, "--net", "env", &binaries].map(str::to_owned).to_vec();
    }

    /// `program` in the container's network namespace, with the file system of the machine.
    pub fn enter(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid.to_string(), "--net", program]);
        command
    }

    /// `ip -j ARGUMENTS` in the container's network namespace.
    pub fn ip(&self, arguments: &str) -> Value {
        let mut command = self.enter("ip");
        process::json(command.arg("-j").args(arguments.split_whitespace()))
    }
}

impl Lab {
    /// `mcrun run -d` of a container that sleeps, with attachments and further options; may fail.
    pub fn try_start(&self, name: &str, attachments: &[&str], options: &[&str]) -> Output {
        self.try_start_command(name, attachments, options, &["sleep", "1000"])
    }

    /// `mcrun run -d` of any command; may fail.
    fn try_start_command(
        &self,
        name: &str,
        attachments: &[&str],
        options: &[&str],
        arguments: &[&str],
    ) -> Output {
        self.try_start_on("host", name, attachments, options, arguments)
    }

    /// A container that sleeps, on a node of the lab other than the container host.
    pub fn start_on(&self, node: &str, name: &str, attachments: &[&str]) -> Container {
        let output = self.try_start_on(node, name, attachments, &[], &["sleep", "1000"]);
        self.started(name, &output)
    }

    fn try_start_on(
        &self,
        node: &str,
        name: &str,
        attachments: &[&str],
        options: &[&str],
        arguments: &[&str],
    ) -> Output {
        let name = self.name(name);
        let mut command = self.enter(node, self.program("mcrun"));
        command.args(["run", "-d", "--name", &name, "--rootfs"]).arg(self.rootfs());
        for attachment in attachments {
            command.args(["--mcast", attachment]);
        }
        command.args(options).args(arguments);
        // Also where the start should fail: it is removed in case it did not.
        self.containers.borrow_mut().push(Container {
            name: name.clone(),
            id: name,
            pid: 0,
            runtime: None,
            engine: None,
        });
        output(&mut command)
    }

    /// A container that sleeps, by `mcrun run -d`.
    pub fn start_with(&self, name: &str, attachments: &[&str], options: &[&str]) -> Container {
        self.start_command(name, attachments, options, &["sleep", "1000"])
    }

    /// A container with a command of the caller's, by `mcrun run -d`.
    pub fn start_command(
        &self,
        name: &str,
        attachments: &[&str],
        options: &[&str],
        arguments: &[&str],
    ) -> Container {
        let output = self.try_start_command(name, attachments, options, arguments);
        self.started(name, &output)
    }

    /// The container that `mcrun run -d` has started.
    pub fn started(&self, name: &str, output: &Output) -> Container {
        assert!(
            output.status.success(),
            "mcrun run: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        let id = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let name = self.name(name);
        let pid = self.pid_of(&name);
        let container = Container { name, id, pid, runtime: None, engine: None };
        self.containers.borrow_mut().push(container.clone());
        container
    }

    /// Removes the container with the lab.
    pub fn adopt(&self, container: &Container) {
        self.containers.borrow_mut().push(container.clone());
    }

    /// A container that sleeps, attached to the LAN with this IPv4 address.
    pub fn start(&self, name: &str, address: &str) -> Container {
        self.start_with(name, &[&format!("parent={PARENT},ip={address}/24")], &[])
    }

    fn pid_of(&self, name: &str) -> i32 {
        let answer = process::json(&mut self.mcrun(["ps", "--json"]));
        let entries = answer.as_array().expect("mcrun ps --json gives an array");
        let entry = entries.iter().find(|entry| entry["name"] == name);
        let entry = entry.unwrap_or_else(|| panic!("mcrun ps does not know {name}: {answer}"));
        entry["pid"].as_i64().expect("a pid").try_into().expect("fits")
    }

    /// What `mcrun ps --json` says of one container.
    pub fn ps(&self, container: &Container) -> Option<Value> {
        let answer = process::json(&mut self.mcrun(["ps", "--json"]));
        answer.as_array()?.iter().find(|entry| entry["container"] == container.id).cloned()
    }

    /// The container's proxy, once a keeper holds for it.
    pub fn wait_held(&self, container: &Container) -> i32 {
        wait_until("the keeper holds", PATIENCE, || {
            let proxy = self.ps(container)?["proxy"].clone();
            (proxy["held"] == true).then(|| proxy["pid"].as_i64().expect("a pid") as i32)
        })
    }

    /// The process id of a container's proxy.
    pub fn proxy_pid(&self, container: &Container) -> i32 {
        let entry = self.ps(container).expect("mcrun ps knows the container");
        entry["proxy"]["pid"].as_i64().expect("a proxy pid").try_into().expect("fits")
    }

    /// A command in a container: `mcrun exec`, or `exec` of the runtime it was started by.
    pub fn exec_command(&self, container: &Container, arguments: &[&str]) -> Command {
        let mut command = match container.runtime {
            _ if let Some(engine) = &container.engine => engine.command(self, &engine.exec),
            Some(runtime) => runtime.command(self, ["exec", &container.name]),
            None => self.mcrun(["exec", &container.name]),
        };
        command.args(arguments);
        command
    }

    /// `delete --force` of the runtime it was started by, or `mcrun rm --force`.
    pub fn delete(&self, container: &Container) {
        run(&mut match container.runtime {
            _ if let Some(engine) = &container.engine => engine.command(self, &engine.delete),
            Some(runtime) => runtime.command(self, ["delete", "--force", &container.name]),
            None => self.mcrun(["rm", "--force", &container.name]),
        });
    }

    /// A namespace with a macvlan child of the parent and nothing else: what people do without
    /// mcrun.
    pub fn bare(&self, node: &'static str, address: &str) {
        self.add_node(node);
        let namespace = self.namespace(node);
        self.ip("host", &format!("link add link {PARENT} name {node} type macvlan mode bridge"));
        self.ip("host", &format!("link set {node} netns {namespace}"));
        self.ip(node, &format!("addr add {address}/24 dev {node}"));
        self.ip(node, &format!("link set {node} up"));
        self.ip(node, &format!("route add 224.0.0.0/4 dev {node}"));
    }

    /// A named network namespace with nothing in it, as `ip netns add` makes one.
    pub fn empty_namespace(&self, node: &'static str) {
        self.add_node(node);
    }

    /// A process on the container host with a network namespace of its own, and nothing in it: what
    /// a hook is handed. It ends with its owner.
    pub fn namespace_holder(&self) -> Background {
        let mut command = self.enter("host", "unshare");
        let holder = Background::start(command.args(["--net", "sleep", "1000"]));
        let host = fs::read_link("/proc/self/ns/net").expect("namespace");
        let lab = self.namespace("host");
        wait_until("the namespace is there", PATIENCE, || {
            let own = fs::read_link(format!("/proc/{}/ns/net", holder.pid())).ok()?;
            let inside = process::in_namespace(Path::new(&format!("/run/netns/{lab}")));
            (own != host && !inside.iter().any(|(pid, _)| *pid == holder.pid())).then_some(())
        });
        holder
    }

    /// `mcrun-hook STAGE` with a text on its standard input.
    pub fn hook(&self, stage: &str, input: &str) -> Output {
        self.hook_by(self.enter("host", env!("CARGO_BIN_EXE_mcrun-hook")), stage, input)
    }

    /// The same, by a prepared command.
    pub fn hook_by(&self, mut command: Command, stage: &str, input: &str) -> Output {
        let mut child = command
            .arg(stage)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the hook starts");
        // A hook that has seen enough may close its input: not an error here.
        let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
        child.wait_with_output().expect("the hook ends")
    }

    /// The state JSON that a runtime hands to a hook (OCI runtime spec, runtime.md, State).
    pub fn state(&self, id: &str, pid: i32, bundle: &Path, attachment: Option<&str>) -> String {
        let mut state = json!({
            "ociVersion": "1.0.2",
            "id": id,
            "status": "creating",
            "pid": pid,
            "bundle": bundle,
        });
        if let Some(attachment) = attachment {
            state["annotations"] = json!({ "io.mcrun.mcast": attachment });
        }
        state.to_string()
    }
}

/// A bundle made by hand: `runc spec`, and what docs/engines.md says to merge into it.
pub struct Bundle {
    /// Its directory.
    pub path: PathBuf,
    /// Its config.json.
    pub config: Value,
}

/// hooks/config.json, which docs/engines.md shows.
const FRAGMENT: &str = include_str!("../../hooks/config.json");

impl Bundle {
    /// A bundle for a container that sleeps, without attachment.
    pub fn new(lab: &Lab, name: &str) -> Bundle {
        let path = lab.directory().join("bundles-by-hand").join(name);
        fs::create_dir_all(&path).expect("bundle directory");
        run(Command::new("runc").arg("spec").current_dir(&path));
        let text = fs::read(path.join("config.json")).expect("runc spec writes config.json");
        let mut config: Value = serde_json::from_slice(&text).expect("JSON");
        config["root"] = json!({ "path": lab.rootfs(), "readonly": true });
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["sleep", "1000"]);
        Bundle { path, config }
    }

    /// Merges that fragment, with the paths and the attachment of this lab.
    pub fn add_hooks(&mut self, lab: &Lab) {
        let fragment: Value = serde_json::from_str(FRAGMENT).expect("JSON");
        let mut hooks = fragment["hooks"].clone();
        for stage in hooks.as_object_mut().expect("stages").values_mut() {
            for hook in stage.as_array_mut().expect("hooks") {
                hook["path"] = json!(env!("CARGO_BIN_EXE_mcrun-hook"));
                hook["env"] = json!([
                    format!("MCRUN_STATE_DIR={}", lab.state_dir().display()),
                    format!("MCRUN_CONFIG_DIR={}", lab.config_dir().display()),
                ]);
            }
        }
        self.config["hooks"] = hooks;
    }

    /// Asks for an attachment by the annotation.
    pub fn annotate(&mut self, attachment: &str) {
        self.config["annotations"] = json!({ "io.mcrun.mcast": attachment });
    }

    /// Asks for an attachment by the environment of the container.
    pub fn set_variable(&mut self, attachment: &str) {
        let environment = self.config["process"]["env"].as_array_mut().expect("env");
        environment.push(json!(format!("MCRUN_MCAST={attachment}")));
    }

    /// Writes config.json.
    pub fn write(&self) {
        fs::write(self.path.join("config.json"), self.config.to_string()).expect("config.json");
    }

    /// `RUNTIME run --detach`; may fail.
    pub fn try_start(&self, lab: &Lab, runtime: Runtime, name: &str) -> Output {
        self.write();
        let name = lab.name(name);
        lab.containers.borrow_mut().push(Container {
            name: name.clone(),
            id: name.clone(),
            pid: 0,
            runtime: Some(runtime),
            engine: None,
        });
        let mut command = runtime.command(lab, ["run", "--detach", "--bundle"]);
        command.arg(&self.path).arg(name);
        // The container inherits the outputs, and would keep a pipe open.
        let log = self.path.join("stderr");
        let file = fs::File::create(&log).expect("log file");
        let status = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .status()
            .expect("the runtime starts");
        Output { status, stdout: Vec::new(), stderr: fs::read(log).expect("log file") }
    }

    /// `RUNTIME run --detach`.
    pub fn start(&self, lab: &Lab, runtime: Runtime, name: &str) -> Container {
        let output = self.try_start(lab, runtime, name);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{runtime:?} run: {}\n{errors}", output.status);
        let name = lab.name(name);
        let state = process::json(&mut runtime.command(lab, ["state", &name]));
        let pid = state["pid"].as_i64().expect("a pid").try_into().expect("fits");
        let container =
            Container { id: name.clone(), name, pid, runtime: Some(runtime), engine: None };
        lab.containers.borrow_mut().push(container.clone());
        container
    }
}

/// A search path that begins with the directory of the programs under test.
fn binaries() -> String {
    let directory = Path::new(env!("CARGO_BIN_EXE_mcrun")).parent().expect("a directory");
    format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", directory.display())
}
