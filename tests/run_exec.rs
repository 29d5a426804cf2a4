//! `mcrun exec`: a further process in a running container.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use crate::machine::{ENGINES, Machine, assert_status, signal, stderr, stdout, wait_until};
use nix::sys::signal::Signal;

#[test]
fn a_command_runs_with_the_containers_settings() {
    let machine = Machine::new();
    for engine in ENGINES {
        let name = machine.name(engine);
        let args = ["-d", "--name", &name, "-e", "A=container", "-w", "/tmp", "--cap-drop", "ALL"];
        let mut all = args.to_vec();
        all.extend(["sleep", "1000"]);
        assert_status(&machine.run(engine, &all), 0);
        let exec = |options: &[&str], command: &[&str]| {
            let args = [&["exec"], options, &[name.as_str()], command].concat();
            machine.mcrun(engine, &args)
        };
        let output = exec(&[], &["sh", "-c", "echo $A; pwd; id -u; echo err >&2; exit 7"]);
        assert_status(&output, 7);
        assert_eq!(stdout(&output), "container\n/tmp\n0\n");
        assert_eq!(stderr(&output), "err\n");
        let options = ["-e", "A=mine", "-w", "/", "-u", "media"];
        let output = exec(&options, &["sh", "-c", "echo $A; pwd; id -u; id -G"]);
        assert_eq!(stdout(&output), "mine\n/\n1000\n100 44\n", "{}", stderr(&output));
        let output = exec(&[], &["grep", "-E", "CapEff|Seccomp:", "/proc/self/status"]);
        assert_eq!(stdout(&output), "CapEff:\t0000000000000000\nSeccomp:\t2\n");
        assert_status(&exec(&[], &["sh", "-c", "kill -9 $$"]), 137);
        for (command, status) in [("no-such-command", 127), ("/etc/passwd", 126)] {
            let output = exec(&[], &[command]);
            assert_status(&output, status);
            let line = stderr(&output);
            assert!(line.starts_with(&format!("mcrun: {engine}: ")), "{line}");
            assert_eq!(line.lines().count(), 1, "{line}");
        }
        assert_status(&exec(&["-d"], &["touch", "/tmp/detached"]), 0);
        let file = machine.rootfs().join("tmp/detached");
        wait_until("the detached command has run", || file.exists());
        std::fs::remove_file(file).unwrap();
        let files = std::fs::read_dir(machine.state_dir().join("bundles").join(&name)).unwrap();
        let names: Vec<_> = files.map(|f| f.unwrap().file_name()).collect();
        let exec = names.iter().find(|name| name.to_string_lossy().starts_with("exec-"));
        assert_eq!(exec, None, "a file of exec is left");
        assert_status(&machine.mcrun(engine, &["rm", "-f", &name]), 0);
    }
    machine.assert_nothing_left();
}

#[test]
fn stdin_and_signals_are_passed_on() {
    let machine = Machine::new();
    let name = machine.name("a");
    assert_status(&machine.run("runc", &["-d", "--name", &name, "sleep", "1000"]), 0);
    let script = "trap 'exit 6' TERM; read line; echo got $line; touch /tmp/read; \
                  while :; do sleep 0.02; done";
    let mut child = machine
        .command("runc")
        .args(["exec", "-i", &name, "sh", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"it\n").unwrap();
    wait_until("the line was read", || machine.rootfs().join("tmp/read").exists());
    signal(child.id().into(), Signal::SIGTERM);
    let output = child.wait_with_output().unwrap();
    assert_status(&output, 6);
    assert_eq!(stdout(&output), "got it\n");
    assert_status(&machine.mcrun("runc", &["rm", "-f", &name]), 0);
    machine.assert_nothing_left();
}

#[test]
fn a_container_that_does_not_run_is_named() {
    let machine = Machine::new();
    let output = machine.mcrun("runc", &["exec", "no-such", "true"]);
    assert_status(&output, 1);
    assert_eq!(stderr(&output), "mcrun: no such container: no-such\n");
    let name = machine.name("a");
    assert_status(&machine.run("runc", &["-d", "--name", &name, "true"]), 0);
    wait_until("it has ended", || machine.record(&name)["exit_status"] == 0);
    let output = machine.mcrun("runc", &["exec", &name, "true"]);
    assert_status(&output, 1);
    assert_eq!(stderr(&output), format!("mcrun: container {name} is not running\n"));
    assert_status(&machine.mcrun("runc", &["rm", &name]), 0);
    machine.wait_until_nothing_left();
}

/// podman's container, as its conmon tells it: mcrun lists and attaches it, and the rest is
/// podman's.
#[test]
fn a_container_of_another_engine_is_told_with_what_to_type() {
    let machine = Machine::new();
    let id = format!("{:0<64}", format!("{:08x}", std::process::id()));
    let bundle = machine.path().join("overlay-containers").join(&id).join("userdata");
    std::fs::create_dir_all(&bundle).unwrap();
    std::fs::write(bundle.join("config.json"), "{}").unwrap();
    let name = machine.name("cam");
    let list = serde_json::json!([{ "id": id, "names": [name] }]);
    let lists = machine.path().join("overlay-containers");
    std::fs::write(lists.join("volatile-containers.json"), list.to_string()).unwrap();
    let pid_file = machine.path().join("pidfile");
    std::fs::write(&pid_file, std::process::id().to_string()).unwrap();
    // A shell that waits for its stdin has conmon's command line.
    let mut conmon = Command::new("sh")
        .arg0("conmon")
        .args(["-s", "x", "-c", &id, "-b"])
        .arg(&bundle)
        .arg("-p")
        .arg(&pid_file)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    for (command, more) in [("exec", &["true"][..]), ("stop", &[]), ("kill", &[]), ("rm", &[])] {
        for wanted in [&name, &id[..20]] {
            let mut args = vec![command, wanted];
            args.extend(more);
            let output = machine.mcrun("runc", &args);
            assert_status(&output, 1);
            let advice = format!("it belongs to podman; use podman {command} {wanted}");
            assert_eq!(stderr(&output), format!("mcrun: container {wanted}: {advice}\n"));
        }
    }
    let output = machine.mcrun("runc", &["inspect", &name]);
    assert_status(&output, 1);
    let text = stderr(&output);
    assert_eq!(
        text,
        format!("mcrun: container {id} is not attached to a LAN; mcrun attach attaches it\n")
    );
    drop(conmon.stdin.take());
    conmon.wait().unwrap();
}
