//! A hook that fails says why, also where crun sends its standard error to /dev/null.

use std::fs;
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use crate::lab::{Bundle, Engine, IMAGE, Lab, hooks_dir, output, run};
use serde_json::Value;

const WRONG: &str = "parent=lan9,ip=10.99.0.11/24";
const WHY: &str = "parent=lan9: the host has no interface of this name";

/// A program called crun, which is crun without the cgroups of version 2: it does not run where both
/// versions are mounted.
fn crun(lab: &Lab) -> PathBuf {
    let path = lab.directory().join("bin/crun");
    fs::create_dir_all(path.parent().expect("a parent")).expect("directory");
    let script = "#!/bin/sh\nexec unshare -m sh -c 'umount /sys/fs/cgroup/unified 2>/dev/null; \
                  exec crun \"$@\"' crun \"$@\"\n";
    fs::write(&path, script).expect("script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("mode");
    path
}

#[test]
fn a_refusal_is_in_the_systems_log_with_the_container() {
    let lab = Lab::new(2);
    let mut bundle = Bundle::new(&lab, "c");
    bundle.add_hooks(&lab);
    bundle.annotate(WRONG);
    bundle.write();
    let dev = lab.directory().join("dev");
    fs::create_dir(&dev).expect("directory");
    let log = UnixDatagram::bind(dev.join("log")).expect("a socket");
    log.set_read_timeout(Some(Duration::from_secs(5))).expect("a limit");
    let holder = lab.namespace_holder();
    let id = lab.name("c");
    let state = lab.state(&id, holder.pid(), &bundle.path, None);
    let mut command = lab.enter("host", "unshare");
    fs::write(dev.join("null"), "").expect("file");
    let script = "mount --bind /dev/null \"$0/null\" && mount --rbind \"$0\" /dev && exec \"$@\"";
    command.args(["-m", "sh", "-c", script]).arg(dev).arg(env!("CARGO_BIN_EXE_mcrun-hook"));
    let refused = lab.hook_by(command, "createRuntime", &state);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let mut line = [0; 1024];
    let length = log.recv(&mut line).expect("a line in the system's log");
    let line = String::from_utf8_lossy(&line[..length]);
    // Facility daemon, severity error (RFC 5424 section 6.2.1).
    assert!(line.starts_with("<27>mcrun-hook["), "{line}");
    assert!(line.contains(&format!("]: container {id}: ")) && line.contains(WHY), "{line}");
    lab.assert_clean(Duration::from_secs(2));
}

#[test]
fn mcrun_run_shows_what_the_hook_says_to_podman_over_crun() {
    let lab = Lab::new(2);
    let engine = Engine::podman_with_crun(&lab);
    for options in [&["-d"][..], &["--rm"]] {
        let mut command = engine.mcrun(&["run", "--network=none", "--mcast", WRONG]);
        command.args(options).args([IMAGE, "true"]);
        let refused = output(&mut command);
        let error = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success());
        assert_eq!(error.matches(WHY).count(), 1, "{options:?}: {error}");
        assert!(error.starts_with("mcrun-hook: "), "the reason comes first: {error}");
        // A file has an offset, which podman's own words must not go back to.
        let file = lab.directory().join("stderr");
        command.stdout(Stdio::null()).stderr(File::create(&file).expect("file"));
        assert!(!command.stdin(Stdio::null()).status().expect("starts").success());
        let text = fs::read_to_string(file).expect("text");
        assert!(text.contains(WHY) && text.contains("Error: "), "{text}");
    }
    lab.assert_clean(Duration::from_secs(2));
}

/// podman has forgotten who made the container.
#[test]
fn mcrun_start_shows_what_the_hook_says_to_podman_over_crun() {
    let lab = Lab::new(2);
    let engine = Engine::podman_with_crun(&lab);
    let name = lab.name("c");
    let create = ["create", "--name", &name, "--network=none", "--mcast", WRONG, IMAGE, "true"];
    run(&mut engine.mcrun(&create));
    for named in [name.clone(), run(&mut engine.command(&["ps", "-aq"])).trim().to_owned()] {
        let refused = output(&mut engine.mcrun(&["start", &named]));
        let error = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success());
        assert_eq!(error.matches(WHY).count(), 1, "{named}: {error}");
    }
    run(&mut engine.command(&["rm", &name]));
    lab.assert_clean(Duration::from_secs(2));
}

/// With podman's own command nobody has announced himself.
#[test]
fn a_process_that_has_not_announced_itself_is_told_nothing() {
    let lab = Lab::new(2);
    let hooks = hooks_dir(&lab);
    let script = crun(&lab);
    let engine = Engine::podman(&lab, script.to_str().expect("text"), &[&hooks]);
    let file = lab.directory().join("victim");
    let mut sleep = lab.enter("host", "sleep");
    sleep.arg("1000").stderr(File::create(&file).expect("file"));
    let victim = crate::lab::Background::start(&mut sleep);
    let stat = fs::read_to_string(format!("/proc/{}/stat", victim.pid())).expect("stat");
    let start = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(19));
    let caller = format!("io.mcrun.caller={}-{}", victim.pid(), start.expect("a start time"));
    let mcast = format!("io.mcrun.mcast={}", WRONG.split(',').next().expect("a part"));
    let mut command = engine.command(&["run", "--rm", "--network=none", "--annotation", &mcast]);
    let refused = output(command.args(["--annotation", &caller, IMAGE, "true"]));
    assert!(!refused.status.success());
    assert_eq!(fs::read_to_string(file).expect("text"), "");
}

#[test]
fn mcrun_runtime_over_crun_shows_and_logs_what_the_hook_says() {
    let lab = Lab::new(2);
    let mut bundle = Bundle::new(&lab, "c");
    bundle.annotate(WRONG);
    bundle.write();
    let log = lab.directory().join("log.json");
    let id = lab.name("c");
    let mut command = lab.enter("host", env!("CARGO_BIN_EXE_mcrun-runtime"));
    command.env("MCRUN_RUNTIME", crun(&lab)).arg("--root").arg(lab.directory().join("root"));
    command.arg("--log").arg(&log).args(["--log-format", "json", "create", "--bundle"]);
    let refused = output(command.arg(&bundle.path).arg(&id));
    assert!(!refused.status.success(), "{refused:?}");
    // Behind crun's own words.
    let told = String::from_utf8_lossy(&refused.stderr);
    let told = told.lines().next_back().expect("a line");
    assert!(told.starts_with("mcrun-hook: ") && told.contains(WHY), "{told}");
    let text = fs::read_to_string(log).expect("log");
    let entry: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    assert_eq!(entry["level"], "error");
    assert_eq!(entry["msg"], told);
    assert!(!bundle.path.join("mcrun-hook.stderr").exists(), "nothing is added to the bundle");
    lab.assert_clean(Duration::from_secs(2));
}

/// crun has taken the wrapper's place by then, and lasts as long as the container.
#[test]
fn mcrun_runtime_run_over_crun_shows_what_the_hook_says() {
    let lab = Lab::new(2);
    let mut bundle = Bundle::new(&lab, "c");
    bundle.annotate(WRONG);
    bundle.write();
    for options in [&[][..], &["--detach"]] {
        let mut command = lab.enter("host", env!("CARGO_BIN_EXE_mcrun-runtime"));
        command.env("MCRUN_RUNTIME", crun(&lab)).arg("--root").arg(lab.directory().join("root"));
        command.arg("run").args(options).arg("--bundle").arg(&bundle.path).arg(lab.name("c"));
        let refused = output(command.stdin(Stdio::null()));
        assert!(!refused.status.success(), "{refused:?}");
        let told = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(told.matches(WHY).count(), 1, "{options:?}: {told}");
        assert!(told.starts_with("mcrun-hook: "), "the reason comes first: {told}");
    }
    lab.assert_clean(Duration::from_secs(2));
}
