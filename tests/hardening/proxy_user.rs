//! The user of a proxy: nobody else has it, and it reaches nobody else.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use mcrun::sys::process::ProcessRef;
use serde_json::{Value, json};

use super::attached;
use crate::lab::{Background, Container, Lab, PATIENCE, alive, output, run, wait_until};

/// User and group of a process.
fn user(pid: i32) -> (u32, u32) {
    let meta = |file: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let line = text.lines().find_map(|line| line.strip_prefix(file).map(str::to_owned));
        let words = line.expect("a line");
        let ids: Vec<u32> = words.split_whitespace().map(|id| id.parse().expect("an id")).collect();
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        ids[0]
    };
    (meta("Uid:"), meta("Gid:"))
}

/// The error that a process of this user and group gets from `attempt`; `None`: it succeeds.
fn error_of_user(
    (user, group): (u32, u32),
    attempt: impl Fn() -> i64 + Send + Sync + 'static,
) -> Option<i32> {
    let mut command = Command::new("true");
    command.uid(user).gid(group);
    let attempt = move || match attempt() {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    };
    // SAFETY: the closure makes system calls only. It runs as the user.
    let result = unsafe { command.pre_exec(attempt) }.status();
    result.err().map(|error| error.raw_os_error().expect("an error of the system"))
}

/// What a process of this user can do to another process; empty: nothing.
fn powers(who: (u32, u32), over: i32) -> Vec<&'static str> {
    let signal = error_of_user(who, move || {
        // SAFETY: signal 0 is delivered to nobody.
        unsafe { libc::syscall(libc::SYS_kill, over, 0) }
    });
    let trace = error_of_user(who, move || {
        // SAFETY: it stops nothing, and the tracer ends at once.
        unsafe { libc::syscall(libc::SYS_ptrace, libc::PTRACE_SEIZE, over, 0, 0) }
    });
    let path = std::ffi::CString::new(format!("/proc/{over}/fd")).expect("a path");
    let descriptors = error_of_user(who, move || {
        // SAFETY: the path is a string that ends with 0.
        unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), libc::O_RDONLY) }
    });
    let all = [("signal", signal), ("trace", trace), ("read the descriptors of", descriptors)];
    all.into_iter().filter(|(_, error)| error.is_none()).map(|(what, _)| what).collect()
}

#[test]
fn a_proxy_cannot_signal_trace_or_read_another_or_a_daemon() {
    const NOBODY: u32 = 65534;
    let lab = Lab::new(3);
    let proxies = [11, 12].map(|host| {
        let container = attached(&lab, &format!("c{host}"), host);
        lab.proxy_pid(&container)
    });
    let daemon = Background::start(Command::new("sleep").arg("1000").uid(NOBODY).gid(NOBODY));
    let users = proxies.map(user);
    assert_ne!(users[0], users[1]);
    for (user, other) in [(users[0], proxies[1]), (users[1], proxies[0])] {
        assert!(user.0 == user.1 && (61184..=65519).contains(&user.0), "{user:?}");
        for over in [other, daemon.pid()] {
            assert_eq!(powers(user, over), [""; 0], "{user:?} over {over}");
        }
    }
    for proxy in proxies {
        assert_eq!(powers((NOBODY, NOBODY), proxy), [""; 0], "a daemon over a proxy");
    }
}

/// The record, as JSON.
fn record(lab: &Lab, container: &Container) -> Value {
    let path = lab.state_dir().join("containers").join(&container.id).join("record.json");
    serde_json::from_slice(&fs::read(path).expect("a record")).expect("JSON")
}

#[test]
fn proxies_have_users_of_the_range_and_the_next_container_is_refused_when_all_are_in_use() {
    let lab = Lab::new(3);
    // No account has these, and no other test.
    let first = 1_800_000_000 + std::process::id() % 100_000 * 10;
    lab.configure(&format!("[proxy]\nuids = \"{first}-{}\"\n", first + 1));
    let container = attached(&lab, "c1", 11);
    let first_proxy = lab.proxy_pid(&container);
    let before = user(first_proxy).0;
    assert!((first..=first + 1).contains(&before), "{before}");
    assert_eq!(record(&lab, &container)["proxy_user"], before);
    let directory = lab.state_dir().join("containers").join(&container.id);
    let owner = || fs::metadata(&directory).expect("directory").uid();
    assert_eq!(owner(), before);

    // The successor is another user: the old proxy has no power over the new one.
    lab.configure(&format!(
        "[proxy]\nuids = \"{first}-{}\"\n[groups]\nmax-groups = 7\n",
        first + 1
    ));
    assert_eq!(run(&mut lab.mcrun(["reload"])).trim(), container.id);
    let after = user(lab.proxy_pid(&container)).0;
    assert_ne!(after, before);
    assert!((first..=first + 1).contains(&after), "{after}");
    assert_eq!((owner(), &record(&lab, &container)["proxy_user"]), (after, &json!(after)));

    // An id is free when the kernel knows no process of it any more, not even a zombie.
    let wait_gone = |pid: i32| {
        let process = format!("/proc/{pid}");
        let gone = || (!Path::new(&process).exists()).then_some(());
        wait_until("the proxy is gone", PATIENCE, gone);
    };
    wait_gone(first_proxy);
    let second = attached(&lab, "c2", 12);
    let refused = lab.try_start("c3", &["parent=lan0,ip=10.99.0.13/24"], &[]);
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    let expected = format!("no user id is free for the proxy in {first}-{}", first + 1);
    assert!(!refused.status.success() && message.contains(&expected), "{message}");
    // A proxy that has ended has no user any more.
    let second_proxy = lab.proxy_pid(&second);
    lab.delete(&second);
    wait_gone(second_proxy);
    attached(&lab, "c4", 14);
}

/// A proxy has a descriptor of its directory, which it may lock.
#[test]
fn a_proxy_that_keeps_the_lock_of_its_directory_holds_nobody_up() {
    let lab = Lab::new(3);
    let container = attached(&lab, "c1", 11);
    let directory = lab.state_dir().join("containers").join(&container.id);
    let proxy = lab.proxy_pid(&container);
    // In the place of the proxy stands a process that holds the lock.
    let holder = Background::start(
        Command::new("flock").arg("--no-fork").arg(&directory).args(["sleep", "1000"]),
    );
    wait_until("the lock is held", PATIENCE, || {
        let probe = output(Command::new("flock").arg("--nonblock").arg(&directory).arg("true"));
        (!probe.status.success()).then_some(())
    });
    let mut changed = record(&lab, &container);
    let stands_for = ProcessRef::of(holder.pid()).expect("it runs");
    changed["proxy"] = json!(stands_for);
    fs::write(directory.join("record.json"), changed.to_string()).expect("written");
    assert_eq!(run(&mut lab.mcrun(["detach", &container.name])).trim(), "mc0");
    assert!(!alive(holder.pid()));
    crate::lab::kill(proxy);
}
