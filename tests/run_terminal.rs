//! `mcrun run -t` and `exec -t`: the container's terminal, and the user's, which is restored on
//! every exit.

use crate::machine::{ENGINES, Machine, assert_status, signal, stderr, stdout, wait_until};
use crate::terminal::User;
use nix::sys::signal::Signal;

#[test]
fn a_shell_is_used_and_left() {
    let machine = Machine::new();
    for engine in ENGINES {
        let mut user = User::new();
        let mut child = user.start(machine.run_command(engine).args(["-it", "sh"]));
        user.wait_for("/ # ");
        assert!(!user.is_cooked(), "keys must go through as they are");
        user.write("stty size\n");
        user.wait_for("31 97\r\n");
        user.write("echo $TERM-\n");
        user.wait_for("xterm-\r\n");
        // Ctrl-C is the business of the container's terminal.
        user.write("sh -c \"echo go''ing; exec sleep 1000\"\n");
        user.wait_for("going\r\n");
        user.write("\x03");
        user.wait_for("/ # ");
        user.write("exit 9\n");
        assert_eq!(child.wait().unwrap().code(), Some(9));
        assert!(user.is_cooked());
        machine.assert_nothing_left();
    }
}

#[test]
fn a_resized_terminal_is_resized_inside() {
    let machine = Machine::new();
    let mut user = User::new();
    let mut child = user.start(machine.run_command("runc").args(["-it", "sh"]));
    user.wait_for("/ # ");
    let waiting = "until [ \"$(stty size)\" = '40 120' ]; do sleep 0.02; done; echo re''sized\n";
    user.write(waiting);
    user.wait_for("sized\r\n");
    user.resize(40, 120);
    user.wait_for("resized\r\n");
    user.write("exit\n");
    child.wait().unwrap();
    machine.assert_nothing_left();
}

#[test]
fn the_terminal_is_restored_whatever_dies() {
    let machine = Machine::new();
    let start = |name: &str| {
        let mut user = User::new();
        let child = user.start(machine.run_command("runc").args(["-it", "--name", name, "sh"]));
        user.wait_for("/ # ");
        assert!(!user.is_cooked());
        (user, child)
    };
    for victim in ["shim", "init"] {
        let name = machine.name(victim);
        let (user, mut child) = start(&name);
        signal(machine.record(&name)[victim]["pid"].as_i64().unwrap(), Signal::SIGKILL);
        child.wait().unwrap();
        assert!(user.is_cooked(), "{victim}");
        machine.assert_nothing_left();
    }
    let (user, mut child) = start(&machine.name("front"));
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("the terminal is restored", || user.is_cooked());
    machine.wait_until_nothing_left();
}

#[test]
fn closing_the_terminal_ends_the_container() {
    let machine = Machine::new();
    let mut user = User::new();
    // A command that neither reads nor dies of SIGHUP.
    let mut child =
        user.start(machine.run_command("runc").args(["-it", "sh", "-c", "echo up; sleep 1000"]));
    user.wait_for("up\r\n");
    drop(user);
    assert!(!child.wait().unwrap().success());
    machine.wait_until_nothing_left();
}

#[test]
fn a_failed_start_says_why_on_a_restored_terminal() {
    let machine = Machine::new();
    let mut user = User::new();
    let mut child = user.start(machine.run_command("runc").args(["-it", "no-such-command"]));
    user.wait_for("not found in $PATH\r\n");
    assert_eq!(child.wait().unwrap().code(), Some(127));
    assert!(user.is_cooked());
    machine.assert_nothing_left();
}

#[test]
fn exec_has_a_terminal_too() {
    let machine = Machine::new();
    for engine in ENGINES {
        let name = machine.name(engine);
        assert_status(&machine.run(engine, &["-d", "--name", &name, "sleep", "1000"]), 0);
        let mut user = User::new();
        let mut child = user.start(machine.command(engine).args(["exec", "-it", &name, "sh"]));
        user.wait_for("/ # ");
        assert!(!user.is_cooked());
        user.write("stty size; exit 4\n");
        user.wait_for("31 97\r\n");
        assert_eq!(child.wait().unwrap().code(), Some(4));
        assert!(user.is_cooked());
        assert_status(&machine.mcrun(engine, &["rm", "-f", &name]), 0);
        machine.assert_nothing_left();
    }
}

#[test]
fn without_a_terminal_it_is_refused_or_only_output() {
    let machine = Machine::new();
    let output = machine.run("runc", &["-it", "true"]);
    assert_status(&output, 125);
    assert_eq!(stderr(&output), "mcrun: -i -t: stdin is not a terminal; leave out -t, or -i\n");
    let output = machine.run("runc", &["-t", "sh", "-c", "echo a; echo b >&2"]);
    assert_status(&output, 0);
    assert_eq!(stdout(&output), "a\r\nb\r\n");
    machine.assert_nothing_left();
}

#[test]
fn a_detached_terminal_never_blocks_its_command() {
    let machine = Machine::new();
    let name = machine.name("a");
    let script = "seq 1 100000; exit 3";
    assert_status(&machine.run("runc", &["-dt", "--name", &name, "sh", "-c", script]), 0);
    wait_until("it has ended", || machine.record(&name)["exit_status"] == 3);
    assert_status(&machine.mcrun("runc", &["rm", &name]), 0);
    machine.wait_until_nothing_left();
}
