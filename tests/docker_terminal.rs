//! `mcrun run` on a terminal, in front of docker: nothing tells it from `docker run`.

use std::process::{Command, ExitStatus};

use crate::lab::{Dockerd, Engine, IMAGE, Lab, PARENT, PATIENCE, json, output, wait_until};
use crate::terminal::User;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// `docker run` and `mcrun run` with an attachment, to be completed with the same arguments, and
/// how many containers of mcrun's there are then.
fn commands(engine: &Engine<'_>) -> [(Command, usize); 2] {
    let attachment = format!("parent={PARENT},ip=10.99.0.11/24,mac=02:00:5e:10:09:01");
    [(engine.command(&["run"]), 0), (engine.mcrun(&["run", "--mcast", &attachment]), 1)]
}

fn attached_containers(lab: &Lab) -> usize {
    json(&mut lab.mcrun(["ps", "--json"])).as_array().expect("an array").len()
}

#[test]
fn a_terminal_is_dockers_own() {
    let mut lab = Lab::new(2);
    let daemon = Dockerd::start(&mut lab);
    let engine = Engine::docker(&lab, &daemon);
    let lab_now = lab.leftovers();
    // docker tells the container the size when it has started it.
    let script = "size() { until [ \"$(busybox stty size 2>/dev/null)\" = \"$1\" ]; do sleep 0.02; done; }\n\
                  size '31 97'; busybox tty; echo $TERM; test -t 0 && test -t 1 && test -t 2\n\
                  echo test $?; read line; echo \"got $line\"; size '40 120'; echo resized; exit 9";
    let [plain, attached] = commands(&engine).map(|(mut command, count)| {
        command.args(["-it", "--rm", IMAGE, "sh", "-c", script]);
        let mut user = User::new();
        let mut child = user.start(&mut command);
        let mut seen = user.wait_for("test 0\r\n");
        assert_eq!(attached_containers(&lab), count);
        let raw = !user.is_cooked();
        user.write("a line\r");
        seen += &user.wait_for("got a line\r\n");
        user.resize(40, 120);
        let status = child.wait().expect("ends");
        seen += &user.rest();
        (seen, status.code(), raw, user.is_cooked())
    });
    assert_eq!(attached, plain);
    let seen = "/dev/pts/0\r\nxterm\r\ntest 0\r\na line\r\ngot a line\r\nresized\r\n";
    assert_eq!(attached, (seen.to_owned(), Some(9), true, true));
    wait_until("everything is gone", PATIENCE, || (lab.leftovers() == lab_now).then_some(()));
}

/// What a signal to the client, or a key, leads to.
#[derive(Debug, PartialEq)]
struct Ending {
    seen: String,
    status: ExitStatus,
    /// Whether the container runs on without its client.
    runs_on: bool,
    cooked: bool,
}

#[test]
fn signals_and_control_c_do_what_they_do_to_docker() {
    enum Event {
        Signal(Signal),
        Key(&'static str),
    }
    let mut lab = Lab::new(2);
    let daemon = Dockerd::start(&mut lab);
    let engine = Engine::docker(&lab, &daemon);
    let lab_now = lab.leftovers();
    // A shell that waits has the signals in its hands, unlike a sleep that is process 1.
    let script = "trap 'echo int; exit 7' INT; trap 'echo term; exit 8' TERM; echo ready\n\
                  while :; do sleep 1 & wait $!; done";
    let name = lab.name("signalled");
    for (options, event, expected) in [
        (&["--rm"][..], Event::Signal(Signal::SIGTERM), 8),
        (&["--rm"], Event::Key("\x03"), 7),
        (&["-it", "--rm"], Event::Key("\x03"), 7),
        (&["-it", "--rm"], Event::Signal(Signal::SIGTERM), 8),
        (&["-it", "--rm"], Event::Signal(Signal::SIGINT), 7),
    ] {
        let [plain, attached] = commands(&engine).map(|(mut command, count)| {
            command.args(options).args(["--name", &name, IMAGE, "sh", "-c", script]);
            let mut user = User::new();
            let mut child = user.start(&mut command);
            user.wait_for("ready\r\n");
            assert_eq!(attached_containers(&lab), count);
            match event {
                Event::Signal(signal) => {
                    let pid = Pid::from_raw(child.id().try_into().expect("fits"));
                    kill(pid, signal).expect("the client is there");
                }
                Event::Key(key) => user.write(key),
            }
            let status = child.wait().expect("ends");
            let (seen, cooked) = (user.rest(), user.is_cooked());
            let runs_on =
                output(&mut engine.command(&["kill", "-s", "KILL", &name])).status.success();
            wait_until("docker has removed it", PATIENCE, || {
                let known = output(&mut engine.command(&["container", "inspect", &name]));
                (!known.status.success()).then_some(())
            });
            Ending { seen, status, runs_on, cooked }
        });
        assert_eq!(attached, plain, "{options:?}");
        assert_eq!((attached.status.code(), attached.runs_on), (Some(expected), false));
        wait_until("everything is gone", PATIENCE, || (lab.leftovers() == lab_now).then_some(()));
    }
}
