//! `mcrun setup`: what it writes into configurations as they are found, and that it can be undone.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::lab::{install, run};

const TARGETS: [&str; 5] = ["docker", "podman", "containerd", "crio", "cdi"];
const DAEMON: &str = "etc/docker/daemon.json";
const CONTAINERD: &str = "etc/containerd/config.toml";

fn program(name: &str) -> String {
    Path::new(env!("CARGO_BIN_EXE_mcrun")).with_file_name(name).display().to_string()
}

/// A machine's root directory, as far as `mcrun setup` sees it.
struct Root(TempDir);

impl Root {
    fn new() -> Root {
        Root(tempfile::tempdir().expect("directory"))
    }

    fn with(files: &[(&str, &str)]) -> Root {
        let root = Root::new();
        for (path, text) in files {
            root.write(path, text);
        }
        root
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("directory");
        fs::write(path, text).expect("file");
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.text(path)).expect("JSON")
    }

    /// All files with their modes and contents.
    fn files(&self) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
        fn walk(directory: &Path, found: &mut BTreeMap<PathBuf, (u32, Vec<u8>)>) {
            for entry in fs::read_dir(directory).expect("readable") {
                let path = entry.expect("entry").path();
                if path.is_dir() {
                    walk(&path, found);
                } else {
                    let mode = fs::metadata(&path).expect("there").permissions().mode();
                    found.insert(path.clone(), (mode, fs::read(path).expect("readable")));
                }
            }
        }
        let mut found = BTreeMap::new();
        walk(self.0.path(), &mut found);
        found
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mcrun"));
        command.args(["setup", "--root"]).arg(self.0.path()).args(arguments);
        command
    }

    fn try_setup(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("mcrun starts")
    }

    fn setup(&self, arguments: &[&str]) -> String {
        let output = self.try_setup(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "mcrun setup {arguments:?}: {error}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// `setup`, `setup`, `--print` and `--remove` of a target; the files after the setup.
    fn there_and_back(&self, target: &str) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
        let before = self.files();
        let printed = self.setup(&[target, "--print"]);
        assert_eq!(self.files(), before, "--print writes nothing");
        let told = self.setup(&[target]);
        assert!(told.contains("In force"), "{told}");
        let after = self.files();
        assert_ne!(after, before);
        for (path, (_, content)) in &after {
            let shown = printed.contains(&*String::from_utf8_lossy(content));
            assert!(shown || before.contains_key(path) || is_backup(path), "{path:?}: {printed}");
        }
        let told = self.setup(&[target]);
        assert_eq!(self.files(), after, "the second time changes nothing");
        assert!(told.lines().all(|line| line.ends_with(": nothing to do")), "{told}");
        assert_eq!(self.setup(&[target, "--print"]), printed);
        self.setup(&[target, "--remove"]);
        assert_eq!(self.files(), before, "as it was, to the byte");
        let told = self.setup(&[target, "--remove"]);
        assert!(told.lines().all(|line| line.ends_with(": nothing to do")), "{told}");
        after
    }
}

fn is_backup(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "before-mcrun")
}

#[test]
fn on_a_machine_without_configuration() {
    for target in TARGETS {
        Root::new().there_and_back(target);
    }
}

#[test]
fn what_is_delivered_for_packagers_is_what_setup_writes() {
    let delivered = |path: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("hooks").join(path);
        let text = fs::read_to_string(path).expect("delivered");
        text.replace("/usr/local/bin/mcrun-hook", &program("mcrun-hook"))
            .replace("/usr/local/bin/mcrun-runtime", &program("mcrun-runtime"))
    };
    let root = Root::new();
    for target in TARGETS {
        root.setup(&[target]);
    }
    let written: BTreeMap<&str, &str> = BTreeMap::from([
        (DAEMON, "docker/daemon.json"),
        (CONTAINERD, "containerd/config.toml"),
        ("etc/crio/crio.conf.d/99-mcrun.conf", "crio/99-mcrun.conf"),
        ("etc/cdi/mcrun.yaml", "cdi/mcrun.yaml"),
        ("etc/containers/containers.conf.d/mcrun.conf", "podman/mcrun.conf"),
        ("etc/containers/oci/hooks.d/mcrun-createRuntime.json", "mcrun-createRuntime.json"),
        ("etc/containers/oci/hooks.d/mcrun-poststart.json", "mcrun-poststart.json"),
        ("etc/containers/oci/hooks.d/mcrun-poststop.json", "mcrun-poststop.json"),
    ]);
    // Of this machine's dockerd, and so not delivered.
    let facts = root.text("etc/mcrun/engines.toml");
    let told = run(Command::new("dockerd").arg("--version"));
    let version = told.split([' ', ',']).nth(2).expect("Docker version VERSION, build ID");
    assert!(facts.contains(&format!("[docker]\nversion = \"{version}\"")), "{facts}");
    assert_eq!(root.files().len(), written.len() + 1);
    for (path, original) in written {
        assert_eq!(root.text(path), delivered(original), "{path}");
    }
}

#[test]
fn daemon_json_in_all_formats() {
    for text in [
        "{}",
        "{}\n",
        " \n",
        "{ \"debug\" : true }",
        "{\n\t\"log-opts\": {\n\t\t\"max-size\": \"10m\"\n\t},\n\t\"big\": 1e400\n}",
        "{\r\n  \"debug\": true\r\n}\r\n",
        "{\n    \"runtimes\": {\n        \"kata\": { \"path\": \"/opt/kata\", \"runtimeArgs\": [ \"-x\" ] }\n    },\n    \"dns\": [\"10.0.0.1\"]\n}\n",
        "{\"runtimes\":{},\"default-runtime\":\"runc\"}",
        "{\"runtimes\":null}",
        "{\n  \"runtimes\": {\n  }\n}",
    ] {
        let root = Root::with(&[(DAEMON, text)]);
        fs::set_permissions(root.at(DAEMON), fs::Permissions::from_mode(0o600)).expect("mode");
        let after = root.there_and_back("docker");
        let (mode, written) = &after[&root.at(DAEMON)];
        assert_eq!(mode & 0o777, 0o600);
        let mut value: Value = serde_json::from_slice(
            String::from_utf8_lossy(written).replace("1e400", "1").as_bytes(),
        )
        .expect("JSON");
        let runtimes = value["runtimes"].as_object_mut().expect("runtimes");
        let ours = runtimes.remove("mcrun").expect("mcrun");
        assert_eq!(ours, json!({ "path": program("mcrun-runtime") }));
        // All of the old text is there, in its order, around what is new.
        let rest: String = String::from_utf8_lossy(written).split_whitespace().collect();
        for piece in text.split_whitespace().filter(|p| p.len() > 2 && *p != "null") {
            let piece: String = piece.split("},").next().expect("one").into();
            assert!(
                rest.contains(piece.trim_matches(['{', '}'])) || text.contains("null"),
                "{rest}"
            );
        }
    }
}

#[test]
fn daemon_json_that_was_changed_after_the_setup_keeps_the_change() {
    let root = Root::with(&[(DAEMON, "{\n  \"debug\": true\n}\n")]);
    root.setup(&["docker"]);
    let changed = root.text(DAEMON).replace("true", "false");
    root.write(DAEMON, &changed);
    let told = root.setup(&["docker", "--remove"]);
    assert!(told.contains("changed since the setup"), "{told}");
    assert_eq!(root.json(DAEMON), json!({ "debug": false }));
    assert_eq!(root.files().len(), 1, "no backup of what is not so any more");
}

#[test]
fn a_runtime_of_an_older_place_is_brought_up_to_date() {
    let text = "{\"runtimes\": {\"mcrun\": {\"path\": \"/old/mcrun-runtime\", \"x\": 1}}}";
    let root = Root::with(&[(DAEMON, text)]);
    root.setup(&["docker"]);
    let runtime = root.json(DAEMON)["runtimes"]["mcrun"].clone();
    assert_eq!(runtime, json!({ "path": program("mcrun-runtime"), "x": 1 }));
    root.setup(&["docker", "--remove"]);
    assert_eq!(root.text(DAEMON), "{}");
}

#[test]
fn a_linked_file_stays_linked() {
    let root = Root::with(&[("srv/daemon.json", "{}")]);
    fs::create_dir_all(root.at("etc/docker")).expect("directory");
    symlink("../../srv/daemon.json", root.at(DAEMON)).expect("link");
    root.setup(&["docker"]);
    assert!(fs::symlink_metadata(root.at(DAEMON)).expect("there").is_symlink());
    assert_eq!(root.json("srv/daemon.json")["runtimes"]["mcrun"]["path"], program("mcrun-runtime"));
    root.setup(&["docker", "--remove"]);
    assert_eq!(root.text("srv/daemon.json"), "{}");
}

#[test]
fn containerd_config_with_comments_and_other_runtimes() {
    for (text, plugin) in [
        ("", "cri"),
        ("# nothing\n", "cri"),
        ("version = 2", "io.containerd.grpc.v1.cri"),
        (
            "version = 2\n# a comment\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\".containerd]\n    \
             default_runtime_name = \"runc\" # why\n\n    \
             [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\n      runtime_type = \"x\"\n\n",
            "io.containerd.grpc.v1.cri",
        ),
        ("version = 3\r\n[debug]\r\nlevel = 'info'\r\n", "io.containerd.cri.v1.runtime"),
    ] {
        let root = Root::with(&[(CONTAINERD, text)]);
        let after = root.there_and_back("containerd");
        let written = String::from_utf8(after[&root.at(CONTAINERD)].1.clone()).expect("text");
        // Of a blank file containerd 1 and 2 take the oldest and the newest version.
        let plugin = if text.trim().is_empty() { "io.containerd.grpc.v1.cri" } else { plugin };
        assert!(written.starts_with(text.trim_end()), "{written}");
        let table: toml::Table = toml::from_str(&written).expect("TOML");
        let runtimes = &table["plugins"][plugin]["containerd"]["runtimes"];
        let runc = runtimes["runc"]["runtime_type"].as_str().expect("the default is still there");
        assert_eq!(runc == "x", text.contains("\"x\""), "and is the one that was named");
        let runtime = &runtimes["mcrun"];
        assert_eq!(runtime["runtime_type"].as_str(), Some("io.containerd.runc.v2"));
        assert_eq!(runtime["pod_annotations"][0].as_str(), Some("io.mcrun.*"));
        let binary = runtime["options"]["BinaryName"].as_str();
        assert_eq!(binary, Some(&*program("mcrun-runtime")));
    }
}

/// The tables of the runtimes of a config.toml.
fn containerd_runtimes(text: &str, plugin: &str) -> toml::Table {
    let config: toml::Table = toml::from_str(text).expect("TOML");
    let runtimes = &config["plugins"][plugin]["containerd"]["runtimes"];
    runtimes.as_table().expect("a table").clone()
}

/// What is to be of a handler: the model with the other program and mcrun's annotations.
fn handler_like(model: &toml::Value, annotations: &[&str]) -> toml::Value {
    let mut handler = model.as_table().expect("a table").clone();
    handler.insert("pod_annotations".into(), annotations.to_vec().into());
    let options = handler.entry("options").or_insert_with(|| toml::Table::new().into());
    let options = options.as_table_mut().expect("a table");
    options.insert("BinaryName".into(), program("mcrun-runtime").into());
    handler.into()
}

#[test]
fn the_handler_of_containerd_is_like_the_default_runtime() {
    for (version, plugin) in [
        ("", "cri"),
        ("version = 1\n", "cri"),
        ("version = 2\n", "io.containerd.grpc.v1.cri"),
        ("version = 3\n", "io.containerd.cri.v1.runtime"),
    ] {
        // As kubeadm's documentation has it, and what nodes have besides.
        let table = format!("plugins.\"{plugin}\".containerd");
        let text = format!(
            "{version}[{table}]\ndefault_runtime_name = \"fast\"\n\
             [{table}.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n\
             [{table}.runtimes.runc.options]\nSystemdCgroup = false\n\
             [{table}.runtimes.fast]\nruntime_type = \"io.containerd.runc.v2\"\n\
             base_runtime_spec = \"/etc/containerd/spec.json\"\nsnapshotter = \"zfs\"\n\
             sandboxer = \"podsandbox\"\ncni_max_conf_num = 2\n\
             privileged_without_host_devices = true\npod_annotations = [\"a.b/*\"]\n\
             container_annotations = [\"it's \\\"so\\\"\"]\n\
             [{table}.runtimes.fast.options]\nBinaryName = \"/usr/bin/crun\"\n\
             SystemdCgroup = true\nShimCgroup = \"/shims\"\n\
             [{table}.runtimes.kata]\nruntime_type = \"io.containerd.kata.v2\"\n"
        );
        let root = Root::with(&[(CONTAINERD, &text)]);
        root.there_and_back("containerd");
        root.setup(&["containerd"]);
        let handlers = |root: &Root| containerd_runtimes(&root.text(CONTAINERD), plugin);
        let annotations = ["a.b/*", "io.mcrun.*"];
        let runtimes = handlers(&root);
        assert_eq!(runtimes["mcrun"], handler_like(&runtimes["fast"], &annotations), "{plugin}");
        assert_eq!(runtimes.len(), 4);

        // A runtime with another shim has no use for mcrun's program: runc is the model.
        let other = text.replace("\"fast\"", "\"kata\"").replace("= false", "= true");
        let root = Root::with(&[(CONTAINERD, &other)]);
        root.setup(&["containerd"]);
        let runtimes = handlers(&root);
        assert_eq!(runtimes["mcrun"], handler_like(&runtimes["runc"], &["io.mcrun.*"]));

        // Without a name runc is the default. What changes later is copied by the next setup.
        let unnamed = text.replace("default_runtime_name = \"fast\"", "");
        let root = Root::with(&[(CONTAINERD, &unnamed)]);
        root.setup(&["containerd"]);
        let runtimes = handlers(&root);
        assert_eq!(runtimes["mcrun"], handler_like(&runtimes["runc"], &["io.mcrun.*"]));
        let changed =
            root.text(CONTAINERD).replacen("SystemdCgroup = false", "SystemdCgroup = true", 1);
        root.write(CONTAINERD, &changed);
        root.setup(&["containerd"]);
        let runtimes = handlers(&root);
        assert_eq!(runtimes["mcrun"]["options"]["SystemdCgroup"].as_bool(), Some(true));
        root.setup(&["containerd", "--remove"]);
        let restored = unnamed.replacen("SystemdCgroup = false", "SystemdCgroup = true", 1);
        assert_eq!(root.text(CONTAINERD), restored);
    }
}

#[test]
fn the_default_runtime_of_containerd_in_its_older_form() {
    let table = "plugins.cri.containerd";
    let text = format!(
        "[{table}.default_runtime]\nruntime_type = \"io.containerd.runc.v1\"\n\
         [{table}.default_runtime.options]\nSystemdCgroup = true\n"
    );
    let root = Root::with(&[(CONTAINERD, &text)]);
    root.there_and_back("containerd");
    root.setup(&["containerd"]);
    let config: toml::Table = toml::from_str(&root.text(CONTAINERD)).expect("TOML");
    let model = &config["plugins"]["cri"]["containerd"]["default_runtime"];
    let handler = &config["plugins"]["cri"]["containerd"]["runtimes"]["mcrun"];
    assert_eq!(*handler, handler_like(model, &["io.mcrun.*"]));
}

/// The file that containerd itself writes, read again by containerd after the setup.
#[test]
fn containerd_reads_the_handler_as_it_was_meant() {
    let containerd = |arguments: &[&str]| run(Command::new("containerd").args(arguments));
    let text = containerd(&["config", "default"]);
    let text = text.replace("SystemdCgroup = false", "SystemdCgroup = true");
    let config: toml::Table = toml::from_str(&text).expect("TOML");
    let version = config["version"].as_integer().expect("a version");
    let plugin = match version {
        2 => "io.containerd.grpc.v1.cri",
        _ => "io.containerd.cri.v1.runtime",
    };
    let root = Root::with(&[(CONTAINERD, &text)]);
    root.there_and_back("containerd");
    root.setup(&["containerd"]);
    let file = root.at(CONTAINERD);
    let read = containerd(&["-c", file.to_str().expect("UTF-8"), "config", "dump"]);
    let runtimes = containerd_runtimes(&read, plugin);
    assert_eq!(runtimes["runc"]["options"]["SystemdCgroup"].as_bool(), Some(true));
    assert_eq!(runtimes["mcrun"], handler_like(&runtimes["runc"], &["io.mcrun.*"]));
}

#[test]
fn containerd_config_that_was_changed_after_the_setup_keeps_the_change() {
    let root = Root::with(&[(CONTAINERD, "version = 2\n# a comment\n")]);
    root.setup(&["containerd"]);
    root.write(CONTAINERD, &format!("{}[debug]\n", root.text(CONTAINERD)));
    root.setup(&["containerd", "--remove"]);
    assert_eq!(root.text(CONTAINERD), "version = 2\n# a comment\n[debug]\n");
}

#[test]
fn podman_keeps_the_directories_others_named() {
    let root = Root::with(&[
        ("etc/containers/containers.conf", "# mine\n[engine]\nhooks_dir = [\"/a\"]\n"),
        ("etc/containers/containers.conf.d/50-b.conf", "[engine]\nhooks_dir = ['/b', '/c']\n"),
    ]);
    root.there_and_back("podman");
    root.setup(&["podman"]);
    let drop_in: toml::Table =
        toml::from_str(&root.text("etc/containers/containers.conf.d/mcrun.conf")).expect("TOML");
    let directories = drop_in["engine"]["hooks_dir"].as_array().expect("a list");
    let directories: Vec<_> = directories.iter().filter_map(|d| d.as_str()).collect();
    assert_eq!(directories, ["/b", "/c", "/etc/containers/oci/hooks.d"]);

    let named = "[engine]\nhooks_dir = [\"/etc/containers/oci/hooks.d\"]\n";
    let root = Root::with(&[("etc/containers/containers.conf", named)]);
    root.there_and_back("podman");
    root.setup(&["podman"]);
    assert!(!root.at("etc/containers/containers.conf.d").exists(), "nothing to add");
}

#[test]
fn what_cannot_be_changed_is_named_and_stays_as_it_is() {
    for (target, path, text, expected) in [
        ("docker", DAEMON, "{ // comment\n}", "daemon.json: not valid JSON"),
        ("docker", DAEMON, "{\"runtimes\": []}", "daemon.json: runtimes is not an object"),
        ("containerd", CONTAINERD, "version = 2\n[plugins", "config.toml: line 2: "),
        (
            "containerd",
            CONTAINERD,
            "version = 4\n",
            "version = 4 is unknown; mcrun knows 1, 2 and 3",
        ),
        (
            "containerd",
            CONTAINERD,
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd]\nruntimes = {}\n",
            "by hand",
        ),
        (
            "containerd",
            CONTAINERD,
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.mcrun]\n",
            "has a runtime handler mcrun that mcrun setup did not write; remove [plugins.\"io",
        ),
        ("cdi", "etc/cdi/mcrun.yaml", "kind: other\n", "does not come from mcrun"),
    ] {
        let root = Root::with(&[(path, text)]);
        let before = root.files();
        let output = root.try_setup(&[target]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{text:?}: {error}");
        assert!(error.contains(expected) && error.lines().count() == 1, "{text:?}: {error}");
        assert_eq!(root.files(), before);
    }
}

#[test]
fn reload_asks_for_a_dockerd() {
    let root = Root::with(&[("run/docker.pid", &std::process::id().to_string())]);
    let output = root.try_setup(&["docker", "--reload"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("is not the process id of a running dockerd"), "{error}");
    let error = String::from_utf8(root.try_setup(&["crio", "--reload"]).stderr).expect("text");
    assert!(error.contains("only dockerd can be told"), "{error}");
}

/// dockerd is played by a script that tells its version.
#[test]
fn a_docker_that_takes_no_cdi_devices_by_itself_is_told_of() {
    let told = |version: &str, daemon_json: &str| {
        let root = Root::with(&[(DAEMON, daemon_json)]);
        let dockerd = format!("#!/bin/sh\necho 'Docker version {version}, build 1'\n");
        root.write("dockerd", &dockerd);
        let mode = std::fs::Permissions::from_mode(0o755);
        fs::set_permissions(root.at("dockerd"), mode).expect("executable");
        fs::create_dir(root.at("bin")).expect("directory");
        install(&root.at("dockerd"), &root.at("bin/dockerd"));
        let mut command = root.command(&["cdi"]);
        command.env("PATH", format!("{}:/usr/bin:/bin", root.at("bin").display()));
        run(&mut command)
    };
    let line = "\ndocker 26.1.5+dfsg1 takes CDI devices after \"features\": {\"cdi\": true} in ";
    assert!(told("26.1.5+dfsg1", "{}").contains(line));
    assert!(!told("26.1.5+dfsg1", r#"{"features": {"cdi": true}}"#).contains("takes CDI devices"));
    assert!(!told("28.5.2", "{}").contains("takes CDI devices"));
    assert!(told("20.10.24", "{}").contains("\ndocker 20.10.24 knows no CDI devices"));
}
