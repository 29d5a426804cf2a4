//! `mcrun-runtime create`, `start` and `delete`, as engines call them: it attaches by itself, without
//! hooks.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::lab;
use crate::lab::{Bundle, Lab, PATIENCE, output, run};
use serde_json::Value;

const RUNTIME: &str = env!("CARGO_BIN_EXE_mcrun-runtime");
const WISH: &str = "parent=lan0,ip=10.99.0.11/24";

/// A bundle, and the runtime behind mcrun-runtime that makes a container of it.
struct Stage<'a> {
    lab: &'a Lab,
    bundle: Bundle,
    real: PathBuf,
    id: String,
}

impl<'a> Stage<'a> {
    /// `real` is a program called runc or crun.
    fn new(lab: &'a Lab, wish: &str, real: impl Into<PathBuf>) -> Self {
        let mut bundle = Bundle::new(lab, "c");
        bundle.annotate(wish);
        bundle.write();
        Stage { lab, bundle, real: real.into(), id: lab.name("c") }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.lab.directory().join(name)
    }

    /// A program on the container host. crun does not run where cgroups v1 and v2 are mounted together; it
    /// then gets v1 only.
    fn program(&self, program: &Path) -> Command {
        let script = "umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$@\"";
        let mut command = self.lab.enter("host", "unshare");
        command.args(["-m", "sh", "-c", script, "sh"]).arg(program).arg("--root");
        command.arg(self.at("runtime")).env("MCRUN_RUNTIME", &self.real);
        // The container inherits the outputs, and would keep a pipe open.
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// mcrun-runtime with a log, as containerd's shim calls runc.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.program(Path::new(RUNTIME));
        command.arg("--log").arg(self.at("log.json")).args(["--log-format", "json"]);
        command.args(arguments);
        command
    }

    /// The same, run to its end; what it says of errors is in the log.
    fn call(&self, arguments: &[&str]) -> Output {
        output(self.command(arguments).stderr(Stdio::null()))
    }

    fn create_command(&self) -> Command {
        let mut command = self.command(&["create", "--bundle"]);
        command.arg(&self.bundle.path).arg("--pid-file").arg(self.at("pid")).arg(&self.id);
        command
    }

    fn create(&self) -> Output {
        output(self.create_command().stderr(Stdio::null()))
    }

    /// What is logged, one entry a line.
    fn logged(&self) -> Vec<String> {
        let text = fs::read_to_string(self.at("log.json")).unwrap_or_default();
        let entries = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
        let message = |entry: Value| entry["msg"].as_str().expect("a message").to_owned();
        entries.map(|entry| message(entry.expect("JSON"))).collect()
    }

    fn config(&self) -> String {
        fs::read_to_string(self.bundle.path.join("config.json")).expect("config.json")
    }

    fn attached(&self) -> Value {
        lab::json(&mut self.lab.mcrun(["ps", "--json"]))
    }

    fn pid(&self) -> i32 {
        let text = fs::read_to_string(self.at("pid")).expect("a pid file");
        text.trim().parse().expect("a process id")
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        let name = self.real.file_name().expect("a name");
        let mut delete = self.program(Path::new(name));
        delete.args(["delete", "--force", &self.id]).stderr(Stdio::null());
        let _ = delete.status();
    }
}

/// A program of this name that does what a shell says behind the real one, as `create` only.
fn with_behind(lab: &Lab, name: &str, behind: &str) -> PathBuf {
    let path = lab.directory().join("bin").join(name);
    fs::create_dir_all(path.parent().expect("a parent")).expect("directory");
    let script = format!(
        "#!/bin/sh\n{name} \"$@\"\nstatus=$?\n\
         for word; do [ \"$word\" = create ] && {{ {behind}; }}; done\nexit $status\n"
    );
    fs::write(&path, script).expect("script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("mode");
    path
}

fn a_life_over(real: &str) {
    let lab = Lab::new(2);
    let stage = Stage::new(&lab, WISH, real);
    let before = stage.config();
    assert!(stage.create().status.success(), "{:?}", stage.logged());
    assert_eq!(stage.config(), before, "no hooks");
    let all = stage.attached();
    assert_eq!(all[0]["pid"], stage.pid(), "{all}");
    assert_eq!(all[0]["interfaces"][0]["addresses"][0], "10.99.0.11/24", "{all}");
    assert!(stage.call(&["start", &stage.id]).status.success(), "{:?}", stage.logged());
    let links = format!("/proc/{}/net/dev", stage.pid());
    assert!(fs::read_to_string(links).expect("links").contains("mc0:"));
    // One that has ended is deleted, and one that has not is deleted by force.
    run(&mut stage.command(&["kill", &stage.id, "KILL"]));
    lab::wait_until("it has ended", PATIENCE, || {
        stage.call(&["delete", &stage.id]).status.success().then_some(())
    });
    lab.assert_clean(Duration::from_secs(1));
    assert!(stage.create().status.success(), "{:?}", stage.logged());
    assert_eq!(stage.attached()[0]["pid"], stage.pid());
    assert!(stage.call(&["delete", "--force", &stage.id]).status.success());
    lab.assert_clean(Duration::from_secs(1));
}

#[test]
fn a_life_over_runc_without_hooks() {
    a_life_over("runc");
}

#[test]
fn a_life_over_crun_without_hooks() {
    a_life_over("crun");
}

fn refused_over(real: &str) {
    let lab = Lab::new(2);
    let stage = Stage::new(&lab, "parent=lan9,ip=10.99.0.11/24", real);
    fs::write(stage.at("log.json"), "{\"level\":\"info\",\"msg\":\"before\"}\n").expect("log");
    let refused = stage.create();
    assert_eq!(refused.status.code(), Some(1));
    let why = "mcrun-runtime: parent=lan9: the host has no interface of this name";
    let logged = stage.logged();
    assert!(logged[0] == "before" && logged[1].starts_with(why), "{logged:?}");
    assert_eq!(logged.len(), 2, "engines show the last: {logged:?}");
    assert!(!stage.call(&["state", &stage.id]).status.success(), "the container is gone");
    assert!(!stage.at("pid").exists());
    let told = run(lab.mcrun(["doctor"]).stderr(Stdio::null()).env("PATH", "/sbin:/bin"));
    assert!(told.contains("parent=lan9"), "{told}");
    lab.assert_clean(Duration::from_secs(1));
}

#[test]
fn a_refusal_over_runc_deletes_the_container_and_is_logged() {
    refused_over("runc");
}

#[test]
fn a_refusal_over_crun_deletes_the_container_and_is_logged() {
    refused_over("crun");
}

/// What the LAN says while the runtime works counts.
#[test]
fn an_address_that_a_station_has_is_found_while_the_container_is_made() {
    let lab = Lab::new(2);
    // The router's own.
    let stage = Stage::new(&lab, "parent=lan0,ip=10.99.0.1/24", "runc");
    assert_eq!(stage.create().status.code(), Some(1));
    let logged = stage.logged();
    assert!(logged[0].contains("10.99.0.1"), "{logged:?}");
    assert!(!stage.call(&["state", &stage.id]).status.success(), "the container is gone");
    lab.assert_clean(Duration::from_secs(1));
}

/// Between the runtime's end and the attachment.
#[test]
fn a_container_whose_creation_was_interrupted_does_not_start() {
    let lab = Lab::new(2);
    let killed = with_behind(&lab, "runc", "kill -9 $PPID");
    let stage = Stage::new(&lab, WISH, killed);
    assert!(!stage.create().status.success());
    assert_eq!(stage.attached().as_array().map(Vec::len), Some(0), "it was killed too late");
    let refused = stage.call(&["start", &stage.id]);
    assert_eq!(refused.status.code(), Some(1));
    let logged = stage.logged();
    let why = format!(
        "mcrun-runtime: container {} asks for an attachment and has none, as its creation was \
         interrupted: delete it and create it again",
        stage.id
    );
    assert_eq!(logged.last(), Some(&why));
    assert!(stage.call(&["delete", "--force", &stage.id]).status.success());
    lab.assert_clean(Duration::from_secs(1));
}

/// Kills at forty moments from the first instruction to behind the last one.
#[test]
fn a_create_that_is_killed_at_any_time_leaves_nothing() {
    let lab = Lab::new(2);
    let stage = Stage::new(&lab, WISH, "runc");
    let mut attached = 0;
    for n in 0..40 {
        let mut create = stage.create_command();
        let mut create = create.stderr(Stdio::null()).spawn().expect("starts");
        std::thread::sleep(Duration::from_millis(n * 6));
        // Its first process becomes mcrun-runtime.
        let _ = create.kill();
        create.wait().expect("ended");
        let started = stage.call(&["start", &stage.id]).status.success();
        if started {
            let all = stage.attached();
            assert_eq!(all[0]["interfaces"][0]["addresses"][0], "10.99.0.11/24", "{n}: {all}");
            attached += 1;
        }
        stage.call(&["delete", "--force", &stage.id]);
        // What the runtime forgets when it is killed is not for mcrun to delete.
        let _ = fs::remove_dir_all(stage.at("runtime").join(&stage.id));
        run(&mut lab.mcrun(["gc"]));
        lab.assert_clean(PATIENCE);
    }
    assert!((1..40).contains(&attached), "{attached} of 40 were whole");
}
