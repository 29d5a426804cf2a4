//! Records that cannot be read, and records that are not to be believed.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::{chown, symlink};
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::lab::{
    Background, Container, Lab, PARENT, PATIENCE, alive, assert_whole_while, output, run,
    wait_until,
};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 8, 7, 1);
const PORT: u16 = 6000;

/// Fills a container's directory with a record that cannot be read.
type Spoil = fn(record: &Path, good: &str);

/// Makes something in place of a container's directory.
type Make = fn(path: &Path);

/// Each with what is said of it.
const SPOILED: [(&str, Spoil, &str); 8] = [
    ("torn", |record, good| write(record, &good[..good.len() / 2]), "EOF while parsing"),
    ("empty", |record, _| write(record, ""), "EOF while parsing"),
    ("other-type", |record, _| write(record, "7"), "invalid type: integer `7`"),
    (
        "newer-format",
        |record, good| write(record, &good.replace("\"format\": 2", "\"format\": 3")),
        "format 3 is unknown; this version of mcrun reads formats 1 to 2",
    ),
    ("fifo", |record, _| fifo(record), "it is not a regular file"),
    ("link", |record, _| symlink("/etc/hostname", record).expect("link"), "symbolic link"),
    ("directory", |record, _| fs::create_dir(record).expect("made"), "it is not a regular file"),
    (
        "others-file",
        |record, good| {
            write(record, good);
            chown(record, Some(61_999), None).expect("chown");
        },
        "it belongs to user 61999",
    ),
];

/// What stands in place of a container's directory.
const NO_DIRECTORIES: [(&str, Make); 3] = [
    ("place-of-a-fifo", fifo),
    ("place-of-a-file", |path| write(path, "")),
    ("place-of-a-link", |path| symlink("/etc", path).expect("link")),
];

fn write(path: &Path, text: &str) {
    fs::write(path, text).expect("written");
}

fn fifo(path: &Path) {
    run(Command::new("mkfifo").arg(path));
}

/// `mcrun ARGUMENTS`, which must not wait for anybody.
fn mcrun(lab: &Lab, arguments: &[&str]) -> Output {
    let mut command = lab.enter("host", "timeout");
    command.arg(PATIENCE.as_secs().to_string()).arg(lab.program("mcrun")).args(arguments);
    let output = output(&mut command);
    assert_ne!(output.status.code(), Some(124), "mcrun {arguments:?} waits");
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Asserts that each record that cannot be read is named once, and that this is a failure.
fn assert_all_named(output: &Output) {
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    let reasons = SPOILED.iter().map(|(id, _, reason)| (*id, *reason));
    for (id, reason) in reasons.chain(NO_DIRECTORIES.map(|(id, _)| (id, "it is no directory"))) {
        let start = format!("mcrun: {id}: state directory: cannot ");
        let lines: Vec<_> = errors.lines().filter(|line| line.starts_with(&start)).collect();
        assert!(lines.len() == 1 && lines[0].contains(reason), "{id}, {reason}: {errors}");
    }
}

#[test]
fn records_that_cannot_be_read_are_named_and_hide_nobody() {
    let lab = Lab::new(2);
    let container = lab.start("c", "10.99.0.11");
    let socket = container.socket_on("mc0", PORT);
    socket.join(GROUP);
    lab.wait_joined(&container, GROUP);
    let containers = lab.state_dir().join("containers");
    let good = fs::read_to_string(containers.join(&container.id).join("record.json"));
    let good = good.expect("a record");
    for (id, spoil, _) in SPOILED {
        fs::create_dir(containers.join(id)).expect("made");
        spoil(&containers.join(id).join("record.json"), &good);
    }
    for (id, make) in NO_DIRECTORIES {
        make(&containers.join(id));
    }

    let ps = mcrun(&lab, &["ps"]);
    assert_all_named(&ps);
    let table = text(&ps.stdout);
    assert!(table.lines().any(|line| line.starts_with(&container.id)), "{table}");
    for id in SPOILED.map(|spoiled| spoiled.0).into_iter().chain(NO_DIRECTORIES.map(|d| d.0)) {
        let row = table.lines().find(|line| line.starts_with(&format!("{id} ")));
        assert!(row.is_some_and(|row| row.contains("unreadable")), "{id}: {table}");
    }
    let ps = mcrun(&lab, &["ps", "--json"]);
    assert_all_named(&ps);
    let rows: Vec<Value> = serde_json::from_slice(&ps.stdout).expect("an array");
    assert_eq!(rows.len(), 1 + SPOILED.len() + NO_DIRECTORIES.len());
    for (id, _, reason) in SPOILED {
        let row = rows.iter().find(|row| row["container"] == id).expect(id);
        assert!(row["error"].as_str().is_some_and(|error| error.contains(reason)), "{row}");
        assert_eq!((&row["pid"], &row["status"]), (&Value::Null, &"unknown".into()));
    }
    let row = rows.iter().find(|row| row["container"] == *container.id).expect("the good one");
    assert_eq!((&row["status"], row.get("error")), (&"running".into(), None));

    let groups = mcrun(&lab, &["groups", "--json"]);
    assert_all_named(&groups);
    let rows: Vec<Value> = serde_json::from_slice(&groups.stdout).expect("an array");
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0]["group"], GROUP.to_string());
    assert_all_named(&mcrun(&lab, &["groups"]));
    // One container is asked for, and shown.
    let one = mcrun(&lab, &["groups", &container.id]);
    assert!(one.status.success() && one.stderr.is_empty(), "{}", text(&one.stderr));
    for command in ["groups", "inspect"] {
        let one = mcrun(&lab, &[command, "torn"]);
        assert!(!one.status.success());
        assert!(text(&one.stderr).contains("EOF while parsing"), "{}", text(&one.stderr));
    }

    let gc = mcrun(&lab, &["gc"]);
    assert_all_named(&gc);
    assert!(gc.stdout.is_empty(), "{}", text(&gc.stdout));
    lab.configure("[groups]\nmax-groups = 7\n");
    let reload = mcrun(&lab, &["reload"]);
    assert_all_named(&reload);
    assert_eq!(text(&reload.stdout).trim(), container.id);

    // Others are attached and removed as ever.
    let started = lab.try_start("other", &[&format!("parent={PARENT},ip=10.99.0.12/24")], &[]);
    assert!(started.status.success(), "{}", text(&started.stderr));
    let other = lab.name("other");
    let attached = mcrun(&lab, &["attach", &other, "--mcast", &format!("parent={PARENT}")]);
    assert_eq!(text(&attached.stdout).trim(), "mc1", "{}", text(&attached.stderr));
    assert!(mcrun(&lab, &["detach", &other, "mc1"]).status.success());
    assert!(mcrun(&lab, &["rm", "--force", &other]).status.success());
    drop(socket);
    lab.delete(&container);
    for (id, ..) in SPOILED {
        fs::remove_dir_all(containers.join(id)).expect("removed");
    }
    for (id, _) in NO_DIRECTORIES {
        fs::remove_file(containers.join(id)).expect("removed");
    }
    lab.assert_clean(PATIENCE);
    assert!(mcrun(&lab, &["ps"]).status.success());
}

/// A record of before the machine was booted, whose numbers now are those of processes and of a
/// network namespace of somebody else.
fn record_of_another_boot(lab: &Lab, like: &Container, proxy: i32) {
    let containers = lab.state_dir().join("containers");
    let good = fs::read(containers.join(&like.id).join("record.json")).expect("a record");
    let mut record: Value = serde_json::from_slice(&good).expect("JSON");
    let stat = fs::read_to_string(format!("/proc/{proxy}/stat")).expect("a process");
    let start: u64 = stat
        .rsplit_once(") ")
        .expect("a name")
        .1
        .split(' ')
        .nth(19)
        .expect("a start")
        .parse()
        .expect("a number");
    record["container"] = "old".into();
    record["name"] = "old".into();
    record["boot_id"] = "00000000-0000-0000-0000-000000000000".into();
    record["proxy"] = serde_json::json!({ "pid": proxy, "start": start });
    record["replaced"] = record["proxy"].clone();
    fs::create_dir(containers.join("old")).expect("made");
    write(&containers.join("old/record.json"), &record.to_string());
}

#[test]
fn a_record_of_another_boot_is_not_believed() {
    let lab = Lab::new(2);
    let container = lab.start("c", "10.99.0.11");
    // Whatever has the number of the proxy now.
    let bystander = Background::start(Command::new("sleep").arg("1000"));
    record_of_another_boot(&lab, &container, bystander.pid());
    let rows: Vec<Value> =
        serde_json::from_str(&run(&mut lab.mcrun(["ps", "--json"]))).expect("an array");
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(rows[0]["container"], container.id);
    assert_eq!(run(&mut lab.mcrun(["reload"])), "");
    assert!(!output(&mut lab.mcrun(["detach", "old"])).status.success());
    assert_eq!(run(&mut lab.mcrun(["gc"])).trim(), "old");
    assert!(!lab.state_dir().join("containers/old").exists());
    assert!(alive(bystander.pid()));
    assert_eq!(container.ip("link show mc0")[0]["ifname"], "mc0");
    lab.assert_stream_arrives(&container, GROUP);
    lab.delete(&container);
    lab.assert_clean(PATIENCE);
}

#[test]
fn a_hung_proxy_is_replaced_by_reload_under_a_stream() {
    for version in [2, 3] {
        let lab = Lab::new(version);
        let container = lab.start("c", "10.99.0.11");
        let socket = container.socket_on("mc0", PORT);
        socket.join(GROUP);
        lab.wait_joined(&container, GROUP);
        lab.wait_forwarded(GROUP);
        let hung = lab.proxy_pid(&container);
        let capture = lab.capture();
        assert_whole_while(
            &lab,
            &[&socket],
            (GROUP, PORT),
            |_| {},
            || {
                // SAFETY: a system call; the process is the lab's.
                unsafe { libc::kill(hung, libc::SIGSTOP) };
                assert_eq!(run(&mut lab.mcrun(["reload"])).trim(), container.id);
                assert!(!alive(hung));
                lab.wait_joined(&container, GROUP);
            },
        );
        wait_until("the new proxy runs", PATIENCE, || {
            (lab.ps(&container)?["proxy"]["state"] == "running").then_some(())
        });
        lab.assert_nothing_was_left(&capture.finish());
    }
}
