//! `mcrun probe recv`: says what it does, and looks from inside a container.

use std::net::Ipv4Addr;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::{Lab, SOURCES, output};
use crate::terminal::User;

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 20, 1, 1);
const DENIED: Ipv4Addr = Ipv4Addr::new(239, 20, 2, 1);

/// The container's root file system needs no program: nothing is run there.
#[test]
fn a_probe_looks_from_inside_a_container() {
    let lab = Lab::new(3);
    let attachment = format!("parent=lan0,ip=10.99.0.11/24,deny={DENIED}");
    let container = lab.start_with("c", &[&attachment], &[]);
    let _stream = lab.send(GROUP, SOURCES[0], 200);
    let group = GROUP.to_string();
    let arguments = ["probe", "recv", "--container", &container.name, &group];
    let reception = output(lab.mcrun(arguments).args(["--count", "50", "--timeout", "20s"]));
    let (told, text) =
        (String::from_utf8_lossy(&reception.stderr), String::from_utf8_lossy(&reception.stdout));
    assert!(reception.status.success(), "{told}{text}");
    assert_eq!(told, format!("mcrun probe: joined {GROUP} on mc0, port 5004\n"));
    assert!(text.contains(" 0 lost"), "{text}");
    // Its rules are the container's.
    let _denied = lab.send(DENIED, SOURCES[0], 200);
    let arguments = ["probe", "recv", "--container", &container.name, &DENIED.to_string()];
    let reception = output(lab.mcrun(arguments).args(["--duration", "500ms"]));
    assert_eq!(reception.status.code(), Some(1), "{reception:?}");
    // And what is not there has the usual words.
    let missing = output(&mut lab.mcrun(["probe", "recv", "--container", "nobody", &group]));
    assert_eq!(missing.status.code(), Some(1), "{missing:?}");
    assert_eq!(String::from_utf8_lossy(&missing.stderr), "mcrun: no such container: nobody\n");
}

#[test]
fn a_terminal_shows_what_comes_and_that_nothing_comes() {
    let lab = Lab::new(3);
    let container = lab.start("c", "10.99.0.11");
    let mut user = User::new();
    let group = GROUP.to_string();
    let arguments = ["probe", "recv", "--container", &container.name, &group, "--duration", "1m"];
    let mut child = user.start(&mut lab.mcrun(arguments));
    user.wait_for(&format!("mcrun probe: joined {GROUP} on mc0, port 5004\r\n"));
    user.wait_for("nothing has come");
    let stream = lab.send(GROUP, SOURCES[0], 200);
    user.wait_for(" packets, 0 lost; ");
    drop(stream);
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).expect("it runs");
    let result = user.wait_for("after the join");
    assert!(result.contains("\r239.20.1.1:5004: "), "{result:?}");
    assert!(child.wait().expect("it ends").success());
}
