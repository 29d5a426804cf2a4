//! Containers of `mcrun run` from start to end: signals, killed processes, failed starts, and that
//! nothing is ever left behind.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::machine::{ENGINES, Machine, assert_status, signal, stderr, stdout, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;

const LOOP: &str = "while :; do sleep 0.02; done";

fn send(child: &Child, which: Signal) {
    signal(child.id().into(), which);
}

#[test]
fn signals_reach_the_command() {
    let machine = Machine::new();
    for engine in ENGINES {
        let name = machine.name(engine);
        let script =
            format!("trap 'echo usr1' USR1; trap 'exit 5' TERM; touch /tmp/{name}2; {LOOP}");
        let child = machine.start(engine, &name, &[], &script);
        wait_until("the traps are set", || machine.rootfs().join(format!("tmp/{name}2")).exists());
        send(&child, Signal::SIGUSR1);
        send(&child, Signal::SIGTERM);
        let output = child.wait_with_output().unwrap();
        assert_status(&output, 5);
        assert_eq!(stdout(&output), "usr1\n");
    }
    machine.assert_nothing_left();
}

#[test]
fn a_command_that_ignores_sigterm_is_ended_by_the_third() {
    let machine = Machine::new();
    let child = machine.start("runc", &machine.name("a"), &[], "sleep 1000");
    for _ in 0..3 {
        send(&child, Signal::SIGTERM);
        // Pending signals of one kind are one.
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_status(&child.wait_with_output().unwrap(), 137);
    machine.assert_nothing_left();
}

#[test]
fn killing_the_front_process_ends_the_container() {
    let machine = Machine::new();
    for engine in ENGINES {
        let mut child = machine.start(engine, &machine.name(engine), &[], "sleep 1000");
        send(&child, Signal::SIGKILL);
        child.wait().unwrap();
        machine.wait_until_nothing_left();
    }
}

#[test]
fn killing_the_shim_ends_the_container() {
    let machine = Machine::new();
    for engine in ENGINES {
        let name = machine.name(engine);
        let child = machine.start(engine, &name, &[], "sleep 1000");
        let shim = machine.record(&name)["shim"]["pid"].as_i64().unwrap();
        signal(shim, Signal::SIGKILL);
        let output = child.wait_with_output().unwrap();
        assert_status(&output, 125);
        assert_eq!(stderr(&output), "mcrun: the shim was killed; the container was ended\n");
        machine.assert_nothing_left();
    }
}

#[test]
fn killing_the_init_or_deleting_behind_our_back_is_an_end_too() {
    let machine = Machine::new();
    let name = machine.name("a");
    let child = machine.start("runc", &name, &[], "sleep 1000");
    signal(machine.record(&name)["init"]["pid"].as_i64().unwrap(), Signal::SIGKILL);
    assert_status(&child.wait_with_output().unwrap(), 137);
    machine.assert_nothing_left();
    let name = machine.name("b");
    let child = machine.start("runc", &name, &[], "sleep 1000");
    let deleted = Command::new("runc").args(["delete", "--force", &name]).output().unwrap();
    assert!(deleted.status.success(), "{}", stderr(&deleted));
    let output = child.wait_with_output().unwrap();
    assert_status(&output, 137);
    assert_eq!(stderr(&output), "");
    machine.assert_nothing_left();
}

#[test]
fn a_detached_container_stays_until_it_is_removed() {
    let machine = Machine::new();
    for engine in ENGINES {
        let name = machine.name(engine);
        let run = |more: &[&str]| {
            let mut args = vec!["-d", "--name", &name];
            args.extend(more);
            machine.run(engine, &args)
        };
        let mcrun = |args: &[&str]| {
            let mut all = args.to_vec();
            all.push(&name);
            machine.mcrun(engine, &all)
        };
        let output = run(&["sh", "-c", "exit 3"]);
        assert_eq!(stdout(&output), format!("{name}\n"), "{}", stderr(&output));
        wait_until("it has ended", || machine.record(&name)["exit_status"] == 3);
        let again = run(&["true"]);
        assert_status(&again, 125);
        let expected = format!(
            "mcrun: container {name} exists and has stopped with status 3; mcrun rm {name} removes it\n"
        );
        assert_eq!(stderr(&again), expected);
        assert_eq!(stdout(&mcrun(&["stop"])), format!("{name}\n"));
        let killed = mcrun(&["kill"]);
        assert_status(&killed, 1);
        assert_eq!(stderr(&killed), format!("mcrun: container {name} is not running\n"));
        assert_eq!(stdout(&mcrun(&["rm"])), format!("{name}\n"));
        wait_until("its shim has ended", || machine.leftovers().is_empty());
        let gone = mcrun(&["rm"]);
        assert_status(&gone, 1);
        assert_eq!(stderr(&gone), format!("mcrun: no such container: {name}\n"));

        assert_status(&run(&["--rm", "sleep", "1000"]), 0);
        let refused = mcrun(&["rm"]);
        assert_status(&refused, 1);
        assert!(stderr(&refused).contains("is running; stop it first, or use -f"));
        assert_status(&mcrun(&["kill", "-s", "9"]), 0);
        machine.assert_nothing_left();

        assert_status(&run(&["sleep", "1000"]), 0);
        assert_status(&mcrun(&["rm", "-f"]), 0);
        machine.assert_nothing_left();
    }
}

#[test]
fn stop_asks_first_and_then_kills() {
    let machine = Machine::new();
    let (polite, deaf) = (machine.name("polite"), machine.name("deaf"));
    let script = format!("trap 'exit 4' TERM; touch /tmp/{polite}; {LOOP}");
    assert_status(&machine.run("runc", &["-d", "--name", &polite, "sh", "-c", &script]), 0);
    wait_until("the trap is set", || machine.rootfs().join("tmp").join(&polite).exists());
    assert_status(&machine.run("runc", &["-d", "--name", &deaf, "sleep", "1000"]), 0);
    let output = machine.mcrun("runc", &["stop", "-t", "1", &polite, "no-such", &deaf]);
    assert_status(&output, 1);
    assert_eq!(stdout(&output), format!("{polite}\n{deaf}\n"));
    assert_eq!(stderr(&output), "mcrun: no such container: no-such\n");
    assert_eq!(machine.record(&polite)["exit_status"], 4);
    assert_eq!(machine.record(&deaf)["exit_status"], 137);
    assert_status(&machine.mcrun("runc", &["rm", &polite, &deaf]), 0);
    machine.assert_nothing_left();
}

#[test]
fn a_detached_container_outlives_its_shim() {
    let machine = Machine::new();
    for engine in ENGINES {
        let name = machine.name(engine);
        assert_status(&machine.run(engine, &["-d", "--name", &name, "sleep", "1000"]), 0);
        signal(machine.record(&name)["shim"]["pid"].as_i64().unwrap(), Signal::SIGKILL);
        let output = machine.mcrun(engine, &["exec", &name, "echo", "alive"]);
        assert_eq!(stdout(&output), "alive\n", "{}", stderr(&output));
        assert_status(&machine.mcrun(engine, &["stop", "-t", "0", &name]), 0);
        assert_status(&machine.mcrun(engine, &["rm", &name]), 0);
        machine.wait_until_nothing_left();
    }
}

#[test]
fn a_generated_id_is_found_by_its_beginning() {
    let machine = Machine::new();
    let output = machine.run("runc", &["-d", "sleep", "1000"]);
    let id = stdout(&output).trim().to_owned();
    let digits = id.strip_prefix("mcrun-").expect(&id);
    assert!(digits.len() == 12 && digits.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    assert_status(&machine.mcrun("runc", &["rm", "-f", &digits[..5]]), 0);
    machine.assert_nothing_left();
}

#[test]
fn a_failing_hook_is_heard_and_undone() {
    let machine = Machine::new();
    let log = machine.path().join("stages");
    let script = format!(
        "echo $1 >> {}; [ $1 = poststop ] || {{ echo 'mcrun-hook: no such parent' >&2; exit 1; }}",
        log.display()
    );
    machine.hook(&script);
    for engine in ENGINES {
        let output = machine.run(engine, &["--mcast", "parent=lan0", "true"]);
        assert_status(&output, 125);
        let expected = format!("mcrun: {engine}: mcrun-hook: no such parent\n");
        assert_eq!(stderr(&output), expected);
        // runc calls it itself, crun does not; it is idempotent.
        let stages = fs::read_to_string(&log).unwrap();
        assert!(stages.starts_with("createRuntime\npoststop\n"), "{engine}: {stages}");
        fs::remove_file(&log).unwrap();
        machine.assert_nothing_left();
    }
}

#[test]
fn the_hook_is_told_what_it_needs() {
    let machine = Machine::new();
    let file = machine.path().join("told");
    // What does not read its state may end before crun has written it, and crun gives up then.
    let told = format!("{{ cat; echo; env; }} > {}", file.display());
    machine.hook(&format!("if [ $1 = poststop ]; then cat >/dev/null; else {told}; fi"));
    let given = ["parent=lan0,ip=10.0.0.5/24", "parent=lan1"];
    let mut args: Vec<&str> = given.iter().flat_map(|spec| ["--mcast", spec]).collect();
    let name = machine.name("a");
    args.extend(["--name", &name, "true"]);
    for engine in ENGINES {
        assert_status(&machine.run(engine, &args), 0);
        let text = fs::read_to_string(&file).unwrap();
        // The state may be on several lines.
        let mut values = serde_json::Deserializer::from_str(&text).into_iter();
        let state: serde_json::Value = values.next().unwrap().unwrap();
        let env = &text[values.byte_offset()..];
        assert_eq!(state["id"], name.as_str());
        assert_eq!(state["annotations"]["io.mcrun.name"], name.as_str());
        assert_eq!(state["annotations"]["io.mcrun.mcast"], given.join(";"));
        assert!(env.contains(&format!("MCRUN_STATE_DIR={}\n", machine.state_dir().display())));
        assert!(env.contains("PATH=/"), "{env}");
        machine.assert_nothing_left();
    }
}

#[test]
fn a_relative_state_directory_is_the_same_for_the_hook() {
    let machine = Machine::new();
    let file = machine.path().join("told");
    machine.hook(&format!("echo $1 $MCRUN_STATE_DIR >> {}; [ $1 = poststop ]", file.display()));
    let output = machine
        .run_command("runc")
        .current_dir(machine.path())
        .env("MCRUN_STATE_DIR", "state")
        .args(["--mcast", "parent=lan0", "true"])
        .output()
        .unwrap();
    assert_status(&output, 125);
    let text = fs::read_to_string(&file).unwrap();
    for line in text.lines() {
        assert!(line.ends_with(&format!(" {}", machine.state_dir().display())), "{text}");
    }
    assert!(text.contains("createRuntime ") && text.contains("poststop "), "{text}");
    machine.assert_nothing_left();
}

#[test]
fn a_missing_hook_is_named() {
    let machine = Machine::new();
    let output = machine.run("runc", &["--mcast", "parent=lan0", "true"]);
    assert_status(&output, 125);
    let path = machine.path().join("bin/mcrun-hook");
    assert!(stderr(&output).contains(&format!("{} is missing", path.display())));
    machine.assert_nothing_left();
}

/// Starts a container whose hook waits; returns when it does.
fn start_in_hook(machine: &Machine, engine: &str, name: &str) -> Child {
    let (entered, stages) = (machine.path().join("entered"), machine.path().join("stages"));
    let _ = fs::remove_file(&entered);
    machine.hook(&format!(
        "echo $1 >> {}; [ $1 = poststop ] || {{ touch {}; exec sleep 1000; }}",
        stages.display(),
        entered.display()
    ));
    let child = machine
        .run_command(engine)
        .args(["--name", name, "--mcast", "parent=lan0", "true"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("the hook runs", || entered.exists());
    child
}

#[test]
fn an_interrupted_start_leaves_nothing() {
    let machine = Machine::new();
    let stages = machine.path().join("stages");
    for engine in ENGINES {
        let child = start_in_hook(&machine, engine, &machine.name("term"));
        send(&child, Signal::SIGTERM);
        let output = child.wait_with_output().unwrap();
        assert_status(&output, 143);
        assert_eq!(stderr(&output), "");
        machine.assert_nothing_left();
        let text = fs::read_to_string(&stages).unwrap();
        assert!(text.starts_with("createRuntime\npoststop\n"), "{engine}: {text}");
        fs::remove_file(&stages).unwrap();

        let mut child = start_in_hook(&machine, engine, &machine.name("kill"));
        send(&child, Signal::SIGKILL);
        child.wait().unwrap();
        machine.wait_until_nothing_left();

        let name = machine.name("shim");
        let child = start_in_hook(&machine, engine, &name);
        signal(machine.record(&name)["shim"]["pid"].as_i64().unwrap(), Signal::SIGKILL);
        assert_status(&child.wait_with_output().unwrap(), 125);
        machine.assert_nothing_left();

        let name = machine.name("rm");
        let child = start_in_hook(&machine, engine, &name);
        assert_status(&machine.mcrun(engine, &["rm", "-f", &name]), 0);
        assert_status(&child.wait_with_output().unwrap(), 143);
        machine.assert_nothing_left();
        fs::remove_file(&stages).unwrap();
    }
}

#[test]
fn a_container_of_somebody_else_is_not_touched() {
    let machine = Machine::new();
    let name = machine.name("foreign");
    let bundle = machine.path().join("bundle");
    fs::create_dir(&bundle).unwrap();
    let config = serde_json::json!({
        "ociVersion": "1.0.2",
        "root": { "path": machine.rootfs() },
        "process": { "user": { "uid": 0, "gid": 0 }, "cwd": "/", "args": ["sleep", "1000"],
                     "env": ["PATH=/bin"] },
        "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc" }],
        "linux": { "namespaces": [{ "type": "pid" }, { "type": "mount" }],
                   "cgroupsPath": format!("/{name}-c") },
    });
    fs::write(bundle.join("config.json"), config.to_string()).unwrap();
    let runc = |args: &[&str]| {
        let null = || Stdio::null();
        let mut command = Command::new("runc");
        command.args(args).stdin(null()).stdout(null()).stderr(null());
        command.status().unwrap().success()
    };
    assert!(runc(&["run", "-d", "--bundle", bundle.to_str().unwrap(), &name]));
    let output = machine.run("runc", &["--name", &name, "true"]);
    let state = Command::new("runc").args(["state", &name]).output().unwrap();
    assert!(runc(&["delete", "--force", &name]));
    assert_status(&output, 125);
    assert!(stderr(&output).contains("already exists"), "{}", stderr(&output));
    assert!(stdout(&state).contains("\"running\""), "{}", stdout(&state));
    machine.assert_nothing_left();
}

#[test]
fn a_state_directory_that_cannot_be_made_is_named() {
    let machine = Machine::new();
    let output = machine
        .run_command("runc")
        .env("MCRUN_STATE_DIR", "/proc/no-such")
        .arg("true")
        .output()
        .unwrap();
    assert_status(&output, 125);
    let line = stderr(&output);
    assert!(line.starts_with("mcrun: state directory: cannot make /proc/no-such: "), "{line}");
    machine.assert_nothing_left();
}

#[test]
fn many_at_once() {
    let machine = Machine::new();
    let children: Vec<Child> = (0..10)
        .map(|n| {
            let script = format!("echo {n}");
            let mut command = machine.run_command("runc");
            command.args(["sh", "-c", &script]).stdout(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for (n, child) in children.into_iter().enumerate() {
        let output = child.wait_with_output().unwrap();
        assert_status(&output, 0);
        assert_eq!(stdout(&output), format!("{n}\n"));
    }
    machine.assert_nothing_left();
}

#[test]
fn the_output_of_a_detached_container_is_kept_until_it_is_removed() {
    let machine = Machine::new();
    for engine in ENGINES {
        let name = machine.name(engine);
        let script = "echo one; echo two >&2; printf three; exit 5";
        assert_status(&machine.run(engine, &["-d", "--name", &name, "sh", "-c", script]), 0);
        // It ends with the container.
        let followed = machine.mcrun(engine, &["logs", "-f", &name]);
        assert_status(&followed, 0);
        assert_eq!((stdout(&followed), stderr(&followed)), ("one\nthree".into(), "two\n".into()));
        let last = machine.mcrun(engine, &["logs", "--tail", "1", &name]);
        assert_eq!(stdout(&last) + &stderr(&last), "three");
        let timed = stdout(&machine.mcrun(engine, &["logs", "-t", &name]));
        let (time, line) = timed.lines().next().unwrap().split_once(' ').unwrap();
        assert!(humantime::parse_rfc3339(time).is_ok(), "{timed}");
        assert_eq!(line, "one");

        let listed = machine.mcrun(engine, &["ps", "--json"]);
        assert_eq!(stdout(&listed), "[]\n");
        let listed = machine.mcrun(engine, &["ps", "-a", "--json"]);
        let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
        assert_eq!(listed[0]["container"], name.as_str());
        assert_eq!(
            (&listed[0]["status"], &listed[0]["exit_status"]),
            (&"stopped".into(), &5.into())
        );
        assert!(listed[0]["finished_at"].as_u64().unwrap() > 1_700_000_000);
        let table = stdout(&machine.mcrun(engine, &["ps", "-a"]));
        assert!(table.contains("stopped (5) "), "{table}");
        let inspected = machine.mcrun(engine, &["inspect", "--json", &name]);
        let inspected: Value = serde_json::from_slice(&inspected.stdout).unwrap();
        assert_eq!(inspected["state"], "stopped");
        assert_eq!(inspected["exit_status"], 5);

        assert_status(&machine.mcrun(engine, &["rm", &name]), 0);
        let gone = machine.mcrun(engine, &["logs", &name]);
        assert_status(&gone, 1);
        assert_eq!(stderr(&gone), format!("mcrun: no such container: {name}\n"));
    }
    machine.wait_until_nothing_left();
}

#[test]
fn much_output_is_kept_within_bounds_and_followed_as_it_comes() {
    let machine = Machine::new();
    let name = machine.name("a");
    let script = "seq 1 1000000; touch /tmp/done; sleep 1000";
    assert_status(&machine.run("runc", &["-d", "--name", &name, "sh", "-c", script]), 0);
    wait_until("all is written", || machine.rootfs().join("tmp/done").exists());
    let dir = machine.state_dir().join("bundles").join(&name);
    let size = |file: &str| fs::metadata(dir.join(file)).map_or(0, |meta| meta.len());
    let last = || stdout(&machine.mcrun("runc", &["logs", "-n", "1", &name]));
    wait_until("all is kept", || last() == "1000000\n");
    assert!(size("output.log") <= 6 << 20 && size("output.log.1") <= 6 << 20);
    let kept = stdout(&machine.mcrun("runc", &["logs", &name]));
    let numbers: Vec<u32> = kept.lines().map(|line| line.parse().unwrap()).collect();
    assert!(numbers.len() > 50_000, "{}", numbers.len());
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1));

    let mut follower = machine
        .command("runc")
        .args(["logs", "-f", "-n", "1", &name])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "1000000");
    // The reader goes away: no error.
    drop(lines);
    assert_status(&machine.mcrun("runc", &["rm", "-f", &name]), 0);
    assert!(follower.wait().unwrap().success());
    machine.assert_nothing_left();
}

#[test]
fn a_terminals_output_is_kept_too() {
    let machine = Machine::new();
    let name = machine.name("a");
    assert_status(&machine.run("runc", &["-d", "-t", "--name", &name, "echo", "hello"]), 0);
    let output = machine.mcrun("runc", &["logs", "-f", &name]);
    assert_eq!(stdout(&output), "hello\r\n");
    assert_status(&machine.mcrun("runc", &["rm", &name]), 0);
    machine.wait_until_nothing_left();
}
