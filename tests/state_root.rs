//! What stands in place of the state directory: root follows only what is root's.

use std::fs;
use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use crate::lab::{Background, PATIENCE, output, run};

/// Somebody who is not root.
const USER: u32 = 61_999;

/// Makes something below a directory of root's; the path of the state directory.
type Plant = fn(base: &Path) -> PathBuf;

/// Each with what is said of it.
const PLANTED: [(&str, Plant, &str); 12] = [
    (
        "a link that leads nowhere",
        |base| link(base, "missing", 0),
        "it is a symbolic link to missing, which does not exist",
    ),
    (
        "a link of another user",
        |base| {
            directory(base, "target", 0, 0o700);
            link(base, "target", USER)
        },
        "it is a symbolic link of user 61999",
    ),
    (
        "a link to a directory of another user",
        |base| {
            directory(base, "target", USER, 0o700);
            link(base, "target", 0)
        },
        "it belongs to user 61999",
    ),
    ("a FIFO", |base| fifo(base.join("state")), "it is no directory"),
    (
        "a file",
        |base| {
            fs::write(base.join("state"), "").expect("file");
            base.join("state")
        },
        "it is no directory",
    ),
    (
        "a directory of another user",
        |base| directory(base, "state", USER, 0o700),
        "it belongs to user 61999",
    ),
    (
        "a directory that everybody may write",
        |base| directory(base, "state", 0, 0o777),
        "others may write it (mode 777)",
    ),
    (
        "a sticky directory that everybody may write",
        |base| directory(base, "state", 0, 0o1777),
        "others may write it (mode 1777)",
    ),
    (
        "a directory that its group may write",
        |base| directory(base, "state", 0, 0o770),
        "others may write it (mode 770)",
    ),
    (
        "a directory to be made in one that everybody may write",
        |base| directory(base, "open", 0, 0o777).join("state"),
        "others may write it (mode 777)",
    ),
    (
        "a directory to be made in one of another user",
        |base| directory(base, "users", USER, 0o755).join("a/state"),
        "it belongs to user 61999",
    ),
    (
        "a directory to be made below a FIFO",
        |base| fifo(base.join("fifo")).join("state"),
        "it is no directory",
    ),
];

/// The same for the directory of all containers, in a state directory of root's.
const PLANTED_INSIDE: [(&str, Plant, &str); 4] = [
    ("a FIFO", |state| fifo(state.join("containers")), "it is no directory"),
    (
        "a link",
        |state| {
            symlink("/etc", state.join("containers")).expect("link");
            state.join("containers")
        },
        "it is a symbolic link",
    ),
    (
        "a file",
        |state| {
            fs::write(state.join("containers"), "").expect("file");
            state.join("containers")
        },
        "it is no directory",
    ),
    (
        "a directory of another user",
        |state| directory(state, "containers", USER, 0o1733),
        "it belongs to user 61999",
    ),
];

fn directory(base: &Path, name: &str, owner: u32, mode: u32) -> PathBuf {
    let path = base.join(name);
    fs::create_dir(&path).expect("made");
    fs::set_permissions(&path, Permissions::from_mode(mode)).expect("mode");
    chown(&path, Some(owner), Some(owner)).expect("owner");
    path
}

fn link(base: &Path, target: &str, owner: u32) -> PathBuf {
    let path = base.join("state");
    symlink(target, &path).expect("link");
    lchown(&path, Some(owner), Some(owner)).expect("owner");
    path
}

fn fifo(path: PathBuf) -> PathBuf {
    run(Command::new("mkfifo").arg(&path));
    path
}

fn base() -> TempDir {
    tempfile::Builder::new().prefix("mcrun-state-").tempdir().expect("directory")
}

/// A program of mcrun with this state directory, which must not wait for anybody.
fn program(name: &str, state: &Path, arguments: &[&str]) -> Command {
    let programs = Path::new(env!("CARGO_BIN_EXE_mcrun")).parent().expect("a directory");
    let mut command = Command::new("timeout");
    command.arg(PATIENCE.as_secs().to_string()).arg(programs.join(name)).args(arguments);
    command.env("MCRUN_STATE_DIR", state).env("MCRUN_CONFIG_DIR", "/nonexistent");
    command
}

/// Everything that reads or makes the state directory.
fn each_program(state: &Path, rootfs: &Path) -> Vec<(String, Output)> {
    let sleep = Background::start(Command::new("unshare").args(["--net", "sleep", "1000"]));
    let pid = sleep.pid().to_string();
    let rootfs = rootfs.to_str().expect("text");
    let commands: [&[&str]; 8] = [
        &["ps"],
        &["groups"],
        &["gc"],
        &["reload"],
        &["keep"],
        &["attach", &pid, "--mcast", "parent=lo"],
        &["detach", "c"],
        &["run", "--rootfs", rootfs, "--mcast", "parent=lo", "true"],
    ];
    let mut outputs: Vec<_> = commands
        .iter()
        .map(|arguments| (arguments[0].to_owned(), output(&mut program("mcrun", state, arguments))))
        .collect();
    let mut hook = program("mcrun-hook", state, &["poststop"]);
    hook.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut hook = hook.spawn().expect("the hook");
    let bundle = rootfs;
    let text = format!(
        "{{\"ociVersion\":\"1.0.2\",\"id\":\"c\",\"status\":\"stopped\",\"bundle\":\"{bundle}\"}}"
    );
    std::io::Write::write_all(&mut hook.stdin.take().expect("stdin"), text.as_bytes())
        .expect("written");
    outputs.push(("mcrun-hook".into(), hook.wait_with_output().expect("ended")));
    outputs
}

/// Names and modes of everything below a directory.
fn listing(base: &Path) -> String {
    run(Command::new("find").arg(base).args(["-printf", "%p %M %U %l\\n"]))
}

fn assert_refused(base: &Path, state: &Path, what: &str, words: &str) {
    let rootfs = tempfile::tempdir().expect("directory");
    fs::create_dir(rootfs.path().join("bin")).expect("made");
    crate::lab::install(&crate::lab::busybox(), &rootfs.path().join("bin/true"));
    let before = listing(base);
    for (name, output) in each_program(state, rootfs.path()) {
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_ne!(output.status.code(), Some(124), "{what}: {name} waits");
        // poststop tells, and lets the container go.
        let failed = !output.status.success() || name == "mcrun-hook";
        assert!(failed, "{what}: {name}: {errors}");
        assert_eq!(errors.lines().count(), 1, "{what}: {name}: {errors}");
        assert!(errors.contains("state directory: cannot use "), "{what}: {name}: {errors}");
        assert!(errors.contains(words), "{what}: {name}: {errors}");
    }
    assert_eq!(listing(base), before, "{what}: nothing is made");
}

#[test]
fn what_is_not_roots_alone_is_not_followed() {
    for (what, plant, words) in PLANTED {
        let base = base();
        let state = plant(base.path());
        assert_refused(base.path(), &state, what, words);
    }
}

#[test]
fn the_directory_of_containers_is_roots_own() {
    for (what, plant, words) in PLANTED_INSIDE {
        let base = base();
        let state = directory(base.path(), "state", 0, 0o700);
        plant(&state);
        assert_refused(base.path(), &state, what, words);
    }
}

#[test]
fn a_link_of_roots_to_a_directory_of_roots_is_followed() {
    let base = base();
    directory(base.path(), "disk", 0, 0o755);
    for (name, target) in [("linked", "disk"), ("state", "linked/deeper")] {
        symlink(target, base.path().join(name)).expect("link");
    }
    directory(&base.path().join("disk"), "deeper", 0, 0o755);
    let state = base.path().join("state");
    run(&mut program("mcrun", &state, &["ps"]));
    run(&mut program("mcrun", &base.path().join("linked/new/state"), &["gc"]));
    let sleep = Background::start(Command::new("unshare").args(["--net", "sleep", "1000"]));
    let pid = sleep.pid().to_string();
    let attach = ["attach", &pid, "--mcast", "parent=no-such"];
    let refused = output(&mut program("mcrun", &state, &attach));
    let errors = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(errors.contains("no-such"), "{errors}");
    assert!(base.path().join("disk/deeper/containers").is_dir());
}
