//! `mcrun-runtime` as runtimes are called: by engines, by hand, with runc and with crun behind it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::lab;
use crate::lab::{Bundle, Lab, output, run};
use serde_json::{Value, json};

const RUNTIME: &str = env!("CARGO_BIN_EXE_mcrun-runtime");
const WISH: &str = "parent=lan0,ip=10.99.0.11/24";

/// A real runtime that only says how it was called, and a bundle.
struct Stage {
    directory: tempfile::TempDir,
}

impl Stage {
    fn new(config: &str) -> Stage {
        let stage = Stage { directory: tempfile::tempdir().expect("directory") };
        let script = "#!/bin/sh\nprintf '<%s>' \"$@\"\nexit 42\n";
        fs::write(stage.at("real"), script).expect("script");
        fs::set_permissions(stage.at("real"), fs::Permissions::from_mode(0o755)).expect("mode");
        fs::create_dir(stage.at("config")).expect("directory");
        fs::write(stage.at("config.json"), config).expect("config.json");
        stage
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(RUNTIME);
        command
            .env("MCRUN_RUNTIME", self.at("real"))
            .env("MCRUN_CONFIG_DIR", self.at("config"))
            .current_dir(self.directory.path());
        command
    }

    fn call(&self, arguments: &[&str]) -> Output {
        output(self.command().args(arguments))
    }

    fn config(&self) -> String {
        fs::read_to_string(self.at("config.json")).expect("config.json")
    }
}

fn asking() -> String {
    json!({
        "ociVersion": "1.0.2",
        "annotations": { "io.mcrun.mcast": WISH },
        "hooks": { "prestart": [{ "path": "/usr/bin/dockerd", "args": ["libnetwork-setkey"] }] },
        "linux": { "namespaces": [{ "type": "network" }] },
    })
    .to_string()
}

#[test]
fn everything_is_handed_on_as_it_came() {
    for config in ["{}", &asking()] {
        let stage = Stage::new(config);
        for arguments in [
            &["--root", "/x", "create", "--bundle", ".", "--pid-file", "p q", "c1"][..],
            &["run", "-b", ".", ""],
            &["features"],
            &["--version"],
            &["kill", "c1", "15"],
            &["--systemd-cgroup", "checkpoint", "--image-path", "/i", "c1"],
            &["restore", "c1"],
            &["nonsense", "--", "-x"],
            &[],
        ] {
            let called = stage.call(arguments);
            let expected: String = arguments.iter().map(|a| format!("<{a}>")).collect();
            // printf says so much of no arguments.
            let expected = if arguments.is_empty() { "<>".into() } else { expected };
            assert_eq!(String::from_utf8_lossy(&called.stdout), expected);
            assert_eq!((called.status.code(), &called.stderr[..]), (Some(42), &b""[..]));
        }
    }
}

#[test]
fn only_what_makes_a_container_that_asks_changes_config_json() {
    let stage = Stage::new(&asking());
    for arguments in [&["state", "c1"][..], &["delete", "c1"], &["exec", "c1", "create"]] {
        stage.call(arguments);
        assert_eq!(stage.config(), asking(), "{arguments:?}");
    }
    fs::set_permissions(stage.at("config.json"), fs::Permissions::from_mode(0o640)).expect("mode");
    stage.call(&["create", "c1"]);
    let changed = stage.config();
    let mut value: Value = serde_json::from_str(&changed).expect("JSON");
    let hooks = value["hooks"].as_object_mut().expect("hooks");
    for stage in ["createRuntime", "poststop"] {
        let entries = hooks.remove(stage).expect("added");
        let hook = Path::new(RUNTIME).with_file_name("mcrun-hook");
        assert_eq!(entries[0]["path"], hook.to_str().expect("text"));
        assert_eq!(entries[0]["args"], json!(["mcrun-hook", stage]));
        let env = entries[0]["env"].as_array().expect("env");
        assert!(env.iter().any(|e| e.as_str().is_some_and(|e| e.starts_with("MCRUN_CONFIG_DIR="))));
        assert!(env.iter().any(|e| e.as_str().is_some_and(|e| e.starts_with("PATH=/"))));
        assert_eq!(entries.as_array().map(Vec::len), Some(1));
    }
    assert_eq!(value, serde_json::from_str::<Value>(&asking()).expect("JSON"), "the rest stays");
    let mode = fs::metadata(stage.at("config.json")).expect("there").mode();
    assert_eq!(mode & 0o777, 0o640);
    stage.call(&["create", "c1"]);
    assert_eq!(stage.config(), changed, "once");
    let names: Vec<_> = fs::read_dir(stage.directory.path())
        .expect("readable")
        .map(|entry| entry.expect("entry").file_name())
        .collect();
    assert_eq!(names.len(), 3, "{names:?}");
}

#[test]
fn a_pods_containers_and_those_that_ask_for_nothing_are_not_touched() {
    for (key, value) in [("x", "y"), ("io.kubernetes.cri.container-type", "container")] {
        let mut config: Value = serde_json::from_str(&asking()).expect("JSON");
        match key {
            "x" => config["annotations"] = json!({ key: value }),
            _ => config["annotations"][key] = value.into(),
        }
        let stage = Stage::new(&config.to_string());
        let before = fs::metadata(stage.at("config.json")).expect("there").ino();
        assert_eq!(stage.call(&["create", "c1"]).status.code(), Some(42));
        assert_eq!(fs::metadata(stage.at("config.json")).expect("there").ino(), before);
    }
}

#[test]
fn errors_are_one_line_there_where_engines_look() {
    let config = asking().replace("parent=", "parnt=");
    let stage = Stage::new(&config);
    let log = stage.at("log");
    let path = log.to_str().expect("text");
    let expected =
        "mcrun-runtime: io.mcrun.mcast: attachment key \"parnt\" is unknown; did you mean parent?";
    let failed = stage.call(&["--log", path, "--log-format", "json", "create", "c1"]);
    assert_eq!((failed.status.code(), &failed.stdout[..]), (Some(1), &b""[..]));
    assert_eq!(String::from_utf8_lossy(&failed.stderr), format!("{expected}\n"));
    let entry: Value = serde_json::from_slice(&fs::read(&log).expect("log")).expect("JSON");
    assert_eq!((&entry["level"], &entry["msg"]), (&json!("error"), &json!(expected)));
    fs::remove_file(&log).expect("log");
    stage.call(&[&format!("--log={path}"), "create", "c1"]);
    let text = fs::read_to_string(&log).expect("log");
    assert!(text.starts_with("time=\"20") && text.contains("level=error msg="), "{text}");
    assert_eq!(stage.config(), config);
}

#[test]
fn nonsense_in_a_bundle_does_no_harm() {
    for (config, expected) in [
        ("", "is not an OCI config.json"),
        ("{\"process\":3}", "is not an OCI config.json"),
        (
            "{\"annotations\":{\"io.mcrun.mcast\":\"parent=lan0\"},\"linux\":{\"namespaces\":[{\"type\":\"network\"}]},\"hooks\":[]}",
            "hooks is not an object",
        ),
        (
            "{\"annotations\":{\"io.mcrun.mcast\":\"parent=lan0\"}}",
            "shares the host's network namespace",
        ),
    ] {
        let stage = Stage::new(config);
        let failed = stage.call(&["create", "c1"]);
        let error = String::from_utf8_lossy(&failed.stderr);
        assert_eq!(failed.status.code(), Some(1), "{error}");
        assert!(error.contains(expected) && error.lines().count() == 1, "{error}");
        assert_eq!(stage.config(), config);
    }
    // Nothing there: the runtime has its own words for that.
    let stage = Stage::new("{}");
    assert_eq!(stage.call(&["create", "--bundle", "/nonexistent", "c1"]).status.code(), Some(42));
}

#[test]
fn the_administrator_names_the_runtime() {
    let stage = Stage::new("{}");
    let real = stage.at("real");
    let file = stage.at("config/mcrun.toml");
    let call = || output(stage.command().env_remove("MCRUN_RUNTIME").arg("state"));
    fs::write(&file, format!("[runtime]\npath = {real:?}\n")).expect("mcrun.toml");
    assert_eq!(call().status.code(), Some(42));
    fs::write(&file, format!("[runtime]\npath = {RUNTIME:?}\n")).expect("mcrun.toml");
    let error = String::from_utf8(call().stderr).expect("text");
    assert!(error.starts_with("mcrun-runtime: runtime.path: "), "{error}");
    fs::write(&file, "[runtime]\npath = 3\n").expect("mcrun.toml");
    let error = String::from_utf8(call().stderr).expect("text");
    assert!(error.contains("mcrun.toml: line 2: "), "{error}");
}

#[test]
fn without_a_word_it_finds_runc() {
    let version = |program: &str| {
        run(Command::new(program).arg("--version").env_remove("MCRUN_RUNTIME").env("PATH", "/sbin"))
    };
    assert_eq!(version(RUNTIME), version("/usr/sbin/runc"));
}

/// A container's whole life by hand, with a runtime behind mcrun-runtime.
fn lives(real: &str) {
    let lab = Lab::new(2);
    let mut bundle = Bundle::new(&lab, "c");
    bundle.annotate(WISH);
    bundle.write();
    let name = lab.name("c");
    let root = lab.directory().join("runtime");
    let call = |arguments: &[&str]| {
        // crun does not run where cgroups v1 and v2 are mounted together; it then gets v1 only.
        let script = "umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$@\"";
        let mut command = lab.enter("host", "unshare");
        command.args(["-m", "sh", "-c", script, "sh", RUNTIME, "--root"]).arg(&root);
        command.env("MCRUN_RUNTIME", real).args(arguments).stdin(Stdio::null());
        command
    };
    let path = bundle.path.to_str().expect("text");
    // The container inherits the outputs, and would keep a pipe open.
    let mut start = call(&["run", "--detach", "--bundle", path, &name]);
    let started = start.stdout(Stdio::null()).stderr(Stdio::null()).status().expect("starts");
    assert!(started.success());
    let state = lab::json(&mut call(&["state", &name]));
    let all = lab::json(&mut lab.mcrun(["ps", "--json"]));
    assert_eq!(all[0]["pid"], state["pid"], "{all}");
    assert_eq!(all[0]["interfaces"][0]["addresses"][0], "10.99.0.11/24", "{all}");
    let shown = run(&mut call(&["exec", &name, "ip", "-o", "link"]));
    assert!(shown.contains("mc0"), "{shown}");
    run(&mut call(&["delete", "--force", &name]));
    lab.assert_clean(Duration::from_secs(1));
}

#[test]
fn a_life_with_runc() {
    lives("runc");
}

#[test]
fn a_life_with_crun() {
    lives("crun");
}
