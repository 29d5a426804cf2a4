//! `mcrun run --rootfs` and `--bundle`: what the command is given and how it ends.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use crate::machine::{ENGINES, Machine, assert_status, stderr, stdout};
use serde_json::json;

#[test]
fn the_exit_status_is_the_containers() {
    let machine = Machine::new();
    for engine in ENGINES {
        // One of the texts; crun's since 1.21 is the second.
        let cases: [(&[&str], i32, &[&str]); 6] = [
            (&["true"], 0, &[""]),
            (&["sh", "-c", "echo out; echo err >&2; exit 7"], 7, &["err\n"]),
            (&["sh", "-c", "sh -c 'kill -9 $$'; exit $?"], 137, &["Killed\n"]),
            (&["no-such-command"], 127, &["not found in $PATH"]),
            (&["/etc/passwd"], 126, &["ermission denied", "it is not executable"]),
            (&["--name=-x", "true"], 125, &["begins with a letter or digit"]),
        ];
        for (args, status, texts) in cases {
            let output = machine.run(engine, args);
            assert_status(&output, status);
            let told = stderr(&output);
            assert!(texts.iter().any(|text| told.contains(text)), "{args:?}: {told}");
            if (125..128).contains(&status) {
                assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
                assert!(stderr(&output).starts_with("mcrun: "), "{}", stderr(&output));
            }
        }
    }
    machine.assert_nothing_left();
}

#[test]
fn stdin_is_passed_on_only_when_asked_for() {
    let machine = Machine::new();
    for (args, expected) in [(&["-i", "cat"][..], "line\n"), (&["cat"], "")] {
        let mut child = machine
            .run_command("runc")
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Without -i nobody reads it: that must not be an error either.
        child.stdin.take().unwrap().write_all(b"line\n").unwrap();
        let output = child.wait_with_output().unwrap();
        assert_status(&output, 0);
        assert_eq!(stdout(&output), expected);
    }
    machine.assert_nothing_left();
}

#[test]
fn all_output_arrives_and_a_closed_pipe_ends_the_writer() {
    let machine = Machine::new();
    let output = machine.run("runc", &["seq", "1", "200000"]);
    let expected: String = (1..=200_000).map(|n| format!("{n}\n")).collect();
    assert!(stdout(&output) == expected, "{} bytes arrived", output.stdout.len());
    let mut child = machine
        .run_command("runc")
        .arg("yes")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut first = [0; 2];
    std::io::Read::read_exact(&mut child.stdout.take().unwrap(), &mut first).unwrap();
    assert_eq!(&first, b"y\n");
    assert!(!child.wait().unwrap().success());
    machine.assert_nothing_left();
}

#[test]
fn the_command_gets_what_docker_gives() {
    let machine = Machine::new();
    fs::write(machine.path().join("env"), "# a comment\nFROM_FILE=1\nPASSED\n").unwrap();
    let env = machine.path().join("env");
    for engine in ENGINES {
        let output = machine
            .run_command(engine)
            .env("PASSED", "on")
            .args(["--hostname", "media1", "-u", "media", "-w", "/tmp", "-e", "A=b c"])
            .arg("--env-file")
            .arg(&env)
            .args([
                "sh",
                "-c",
                "id -u; id -g; id -G; pwd; hostname; env; ls /sys/class/net; cat /proc/self/status",
            ])
            .output()
            .unwrap();
        assert_status(&output, 0);
        let text = stdout(&output);
        for line in [
            "1000",
            "100",
            "100 44",
            "/tmp",
            "media1",
            "HOSTNAME=media1",
            "HOME=/home",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "A=b c",
            "FROM_FILE=1",
            "PASSED=on",
            "lo",
            // docker's default set, usable by root only.
            "CapBnd:\t00000000a80425fb",
            "CapEff:\t0000000000000000",
            "CapInh:\t0000000000000000",
            "CapAmb:\t0000000000000000",
            "Seccomp:\t2",
            "NoNewPrivs:\t0",
        ] {
            assert!(text.lines().any(|l| l == line), "{engine}: {line}\n{text}");
        }
    }
    machine.assert_nothing_left();
}

#[test]
fn the_command_inherits_no_signal_settings() {
    let machine = Machine::new();
    for engine in ENGINES {
        let mut inner = machine.run_command(engine);
        inner.args(["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"]);
        let mut outer = std::process::Command::new("sh");
        outer.args(["-c", "trap '' HUP QUIT USR1; exec \"$@\"", "sh"]);
        outer.arg(inner.get_program()).args(inner.get_args());
        let output = outer.env("MCRUN_STATE_DIR", machine.state_dir()).output().unwrap();
        assert_eq!(stdout(&output), "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
    }
    machine.assert_nothing_left();
}

#[test]
fn an_ordinary_container_can_harm_nothing() {
    let machine = Machine::new();
    let script = "mount -t tmpfs x /tmp; unshare -n true; echo 1 > /proc/sys/vm/drop_caches; \
                  touch /sys/x; cat /proc/kcore | wc -c; cat /proc/interrupts | wc -c";
    for engine in ENGINES {
        let output = machine.run(engine, &["sh", "-c", script]);
        assert_status(&output, 0);
        assert_eq!(stdout(&output), "0\n0\n");
        let errors = stderr(&output);
        for text in ["mount: permission denied", "unshare: unshare(0x40000000): Operation not"] {
            assert!(errors.contains(text), "{engine}: {errors}");
        }
        assert_eq!(errors.matches("Read-only file system").count(), 2, "{engine}: {errors}");
        let output = machine.run(engine, &["--read-only", "touch", "/x"]);
        assert!(stderr(&output).contains("Read-only file system"), "{}", stderr(&output));
    }
    machine.assert_nothing_left();
}

#[test]
fn capabilities_are_added_and_dropped() {
    let machine = Machine::new();
    let bounding = |args: &[&str]| {
        let mut all = args.to_vec();
        all.extend(["sh", "-c", "grep CapBnd /proc/self/status"]);
        let output = machine.run("runc", &all);
        assert_status(&output, 0);
        stdout(&output).trim_start_matches("CapBnd:").trim().to_owned()
    };
    assert_eq!(bounding(&["--cap-drop", "ALL", "--cap-add", "NET_ADMIN"]), "0000000000001000");
    assert_eq!(bounding(&["--cap-add", "CAP_NET_ADMIN"]), "00000000a80435fb");
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let own = own.lines().find_map(|l| l.strip_prefix("CapPrm:")).unwrap().trim();
    assert_eq!(bounding(&["--privileged"]), own);
    let output = machine.run("runc", &["--cap-add", "NET_ADMN", "true"]);
    assert_status(&output, 125);
    assert!(stderr(&output).contains("did you mean NET_ADMIN?"), "{}", stderr(&output));
    machine.assert_nothing_left();
}

#[test]
fn limits_are_in_force() {
    let machine = Machine::new();
    let v2 = fs::exists("/sys/fs/cgroup/cgroup.controllers").unwrap();
    let script = if v2 {
        "cat /sys/fs/cgroup/memory.max; cat /sys/fs/cgroup/cpu.max"
    } else {
        "cat /sys/fs/cgroup/memory/memory.limit_in_bytes; cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us"
    };
    for engine in ENGINES {
        let args = ["--memory", "64m", "--cpus", "0.5", "sh", "-c", script];
        let output = machine.run(engine, &args);
        assert_status(&output, 0);
        let expected = if v2 { "67108864\n50000 100000\n" } else { "67108864\n50000\n" };
        assert_eq!(stdout(&output), expected);
        // More than the limit ends the command, which shows that the limit is not on paper only.
        let fill = "x=$(yes | head -c 200000000); echo $?";
        let output = machine.run(engine, &["--memory", "16m", "sh", "-c", fill]);
        assert_status(&output, 137);
    }
    machine.assert_nothing_left();
}

#[test]
fn volumes_are_mounted() {
    let machine = Machine::new();
    let data = machine.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("file"), "content").unwrap();
    let data = data.to_str().unwrap();
    let script = "cat /a/file /b/file; touch /a/new; touch /b/new";
    let (a, b) = (format!("{data}:/a"), format!("{data}:/b:ro"));
    let output = machine.run("runc", &["-v", &a, "-v", &b, "sh", "-c", script]);
    assert_eq!(stdout(&output), "contentcontent");
    assert_eq!(stderr(&output), "touch: /b/new: Read-only file system\n");
    assert!(fs::exists(format!("{data}/new")).unwrap());
    machine.assert_nothing_left();
}

#[test]
fn a_bundle_is_run_and_left_as_it_was() {
    let machine = Machine::new();
    let bundle = machine.path().join("bundle");
    fs::create_dir(&bundle).unwrap();
    std::os::unix::fs::symlink(machine.rootfs(), bundle.join("rootfs")).unwrap();
    let namespaces = ["pid", "mount", "network"].map(|kind| json!({ "type": kind }));
    let config = json!({
        "ociVersion": "1.0.2",
        "root": { "path": machine.rootfs() },
        "process": {
            "terminal": true, "user": { "uid": 0, "gid": 0 }, "cwd": "/",
            "args": ["sh", "-c", "echo $A; cat /data"], "env": ["PATH=/bin", "A=bundle"],
        },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            // Where runc makes links, which it refuses to find since 1.3.
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs" },
            { "destination": "/data", "type": "none", "source": "data", "options": ["bind"] },
        ],
        "linux": { "namespaces": namespaces },
        "unknown": { "key": [1] },
    });
    let text = serde_json::to_string(&config).unwrap();
    fs::write(bundle.join("config.json"), &text).unwrap();
    fs::write(bundle.join("data"), "relative").unwrap();
    for engine in ENGINES {
        let run = |args: &[&str]| {
            let mut command = machine.command(engine);
            command.args(["run", "--engine", engine, "--bundle"]).arg(&bundle);
            command.args(args).output().unwrap()
        };
        assert_eq!(stdout(&run(&[])), "bundle\nrelative", "{}", stderr(&run(&[])));
        assert_eq!(stdout(&run(&["-e", "A=mine"])), "mine\nrelative");
        assert_eq!(stdout(&run(&["-w", "/tmp", "pwd"])), "/tmp\n");
        let refused = run(&["--privileged"]);
        assert_status(&refused, 125);
        assert!(stderr(&refused).contains("--privileged is for --rootfs"), "{}", stderr(&refused));
    }
    assert_eq!(fs::read_to_string(bundle.join("config.json")).unwrap(), text);
    assert_eq!(fs::read_dir(&bundle).unwrap().count(), 3, "nothing was added to the bundle");
    machine.assert_nothing_left();
}

#[test]
fn bad_options_are_one_line_and_make_nothing() {
    let machine = Machine::new();
    let cases: [(&[&str], &str); 14] = [
        (&["--memory", "5x", "true"], "--memory 5x: expected a number of bytes"),
        (&["--cpus", "0", "true"], "--cpus 0: expected a number from 0.01 to"),
        (
            &["-v", "/nonexistent/a:/b", "true"],
            "-v /nonexistent/a:/b: /nonexistent/a: No such file",
        ),
        (&["-v", "/tmp:b", "true"], "-v /tmp:b: the destination is an absolute path"),
        (&["-w", "tmp", "true"], "-w tmp: expected an absolute path"),
        (&["-u", "bob", "true"], "-u bob: no user \"bob\" in the container's /etc/passwd"),
        (&["-e", "=1", "true"], "-e =1: expected NAME=VALUE"),
        (&["--env-file", "/nonexistent/e", "true"], "--env-file /nonexistent/e: No such file"),
        (&["--annotation", "x", "true"], "--annotation x: expected KEY=VALUE"),
        (&["--hostname", "", "true"], "--hostname \"\": expected 1 to 64"),
        (&["--name", "a/b", "true"], "--name \"a/b\": a name is 1 to 64"),
        (&["--mcast", "parnt=eth0", "true"], "--mcast: attachment key \"parnt\" is unknown"),
        (&["-e", "MCRUN_MCAST=parnt=eth0", "true"], "variable MCRUN_MCAST: "),
        (&[], "no command given"),
    ];
    for (args, text) in cases {
        let output = machine.run("runc", args);
        assert_status(&output, 125);
        let line = stderr(&output);
        assert!(line.starts_with(&format!("mcrun: {text}")), "{args:?}: {line}");
        assert_eq!(line.lines().count(), 1, "{line}");
    }
    for (engine, text) in [
        ("docker", "--engine docker: --rootfs and --bundle need an OCI runtime"),
        ("rnuc", "--engine rnuc: no such program in PATH"),
    ] {
        let output = machine.run(engine, &["true"]);
        assert_status(&output, 125);
        assert!(stderr(&output).contains(text), "{}", stderr(&output));
    }
    let root = machine.mcrun("runc", &["run", "--rootfs", "/", "true"]);
    assert_status(&root, 125);
    assert!(!machine.state_dir().exists(), "a refused option must make nothing");
    machine.assert_nothing_left();
}

/// Every command, by an ordinary user and by root of a user namespace.
#[test]
fn without_root_each_command_says_so_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let everyone = fs::Permissions::from_mode(0o755);
    fs::set_permissions(dir.path(), everyone).unwrap();
    let program = dir.path().join("mcrun");
    crate::lab::install(std::path::Path::new(env!("CARGO_BIN_EXE_mcrun")), &program);
    for arguments in [
        "run --rootfs / true",
        "attach x --mcast parent=eth1",
        "detach x",
        "exec x true",
        "logs x",
        "stop x",
        "kill x",
        "rm x",
        "ps",
        "ps --json",
        "groups",
        "inspect x",
        "demo",
        "reload",
        "setup docker",
        "gc",
    ] {
        let words: Vec<_> = arguments.split(' ').collect();
        let output = Command::new(&program).args(&words).uid(65534).gid(65534).output().unwrap();
        assert_status(&output, 125);
        let expected = format!("mcrun: {} needs root: run it with sudo\n", words[0]);
        assert_eq!(stderr(&output), expected, "{arguments}");
    }
    for arguments in ["demo", "ps", "gc"] {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user"]).arg(&program).arg(arguments);
        let output = command.env("MCRUN_STATE_DIR", dir.path().join("state")).output().unwrap();
        assert!(output.status.code().is_some(), "{arguments} was ended by a signal");
        assert!(stderr(&output).lines().count() <= 1, "{arguments}: {}", stderr(&output));
    }
}

#[test]
fn the_variable_names_the_runtime_as_the_option_does() {
    let machine = Machine::new();
    for (variable, text) in [
        ("no-such-runtime", "mcrun: MCRUN_ENGINE=no-such-runtime: no such program in PATH\n"),
        ("docker", "mcrun: MCRUN_ENGINE=docker: --rootfs and --bundle need an OCI runtime"),
    ] {
        let output = machine
            .command("runc")
            .env("MCRUN_ENGINE", variable)
            .args(["run", "--rootfs"])
            .arg(machine.rootfs())
            .arg("true")
            .output()
            .unwrap();
        assert_status(&output, 125);
        assert!(stderr(&output).starts_with(text), "{}", stderr(&output));
    }
}
