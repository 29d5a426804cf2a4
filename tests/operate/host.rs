//! `mcrun host` lists what mcrun has changed, and whose it is.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::lab::{self, Lab, PATIENCE, output, run, wait_until};

/// `CHILD_GROUP` of src/net/messages.rs: by this group mcrun knows the links that it has made.
const MADE_BY_MCRUN: u32 = 0x6d63_7275;
/// What the test's machine has, whatever the lab does.
const OF_THE_MACHINE: [&str; 3] = ["cgroup", "engine", "unit"];

/// The changes; the group of all proxies of the machine, and its filter, are left out.
fn changes(lab: &Lab) -> Vec<Value> {
    let rows = lab::json(&mut lab.mcrun(["host", "--json"]));
    let rows = rows.as_array().expect("an array").clone();
    let of_lab = |row: &Value| {
        let kind = row["kind"].as_str().expect("a kind");
        !OF_THE_MACHINE.contains(&kind) && !what(row).starts_with("filter of what proxies send")
    };
    rows.into_iter().filter(of_lab).collect()
}

fn what(row: &Value) -> &str {
    row["what"].as_str().expect("text")
}

/// The changes of a kind, each with its owner.
fn of_kind(changes: &[Value], kind: &str) -> Vec<(String, Value)> {
    let rows = changes.iter().filter(|row| row["kind"] == kind);
    rows.map(|row| (what(row).to_owned(), row["owner"].clone())).collect()
}

fn left_behind(changes: &[Value]) -> Vec<String> {
    let rows = changes.iter().filter(|row| row["state"] == "left-behind");
    rows.map(|row| format!("{}: {}", what(row), row["remove"].as_str().expect("a command")))
        .collect()
}

#[test]
fn everything_that_was_changed_is_listed_with_its_owner() {
    let lab = Lab::new(3);
    assert_eq!(changes(&lab), Vec::<Value>::new());
    let container = lab.start_with("c", &["parent=lan0,ip=10.99.0.11/24"], &[]);
    let socket = container.socket_on("mc0", 6000);
    socket.join("239.20.7.1".parse().expect("a group"));
    wait_until("the group is joined", PATIENCE, || {
        lab.groups(&container).first().filter(|entry| entry["status"] == "joined").map(drop)
    });
    let before = lab.leftovers();
    let found = changes(&lab);
    assert_eq!(lab.leftovers(), before, "nothing is changed");
    assert_eq!(left_behind(&found), Vec::<String>::new());
    let owner = json!(container.name);
    assert_eq!(of_kind(&found, "link"), [("mc0 (macvlan) on lan0".to_owned(), owner.clone())]);
    let tables = of_kind(&found, "nftables");
    assert!(tables.contains(&("table ip mcrun".to_owned(), owner.clone())), "{tables:?}");
    let pid = lab.proxy_pid(&container);
    let processes = of_kind(&found, "process");
    let is_proxy = |text: &str| text.starts_with(&format!("mcrun-proxy, pid {pid}, user "));
    assert!(processes.iter().any(|(text, of)| is_proxy(text) && *of == owner), "{processes:?}");
    let sockets = of_kind(&found, "sockets");
    assert!(
        sockets[0].0.ends_with(&format!("of pid {pid}, joined on the host: 1 group on lan0")),
        "{sockets:?}"
    );
    let settings = of_kind(&found, "sysctl");
    assert!(settings[0].0.contains("ipv4.conf.mc0.rp_filter=0"), "{settings:?}");
    let programs = of_kind(&found, "bpf");
    assert!(programs[0].0.contains("program ") && programs[0].0.contains("map "), "{programs:?}");
    let files = of_kind(&found, "file");
    for file in [format!("containers/{}", container.id), "addresses/lan0@10.99.0.11".to_owned()] {
        let is_it = |text: &str| text == lab.state_dir().join(&file).to_string_lossy();
        assert!(files.iter().any(|(text, of)| is_it(text) && *of == owner), "{file}: {files:?}");
    }
    let text = run(&mut lab.mcrun(["host"]));
    assert!(text.starts_with("KIND") && text.contains("mc0 (macvlan) on lan0"), "{text}");
    lab.delete(&container);
    wait_until("nothing is left", PATIENCE, || changes(&lab).is_empty().then_some(()));
}

#[test]
fn what_no_record_names_is_left_behind_until_mcrun_gc_removes_it() {
    let lab = Lab::new(3);
    let container = lab.start("c", "10.99.0.11");
    let gone = lab.start("gone", "10.99.0.13");
    let directory = lab.state_dir().join("containers").join(&gone.id);
    let record = fs::read(directory.join("record.json")).expect("a record");
    lab.delete(&gone);
    wait_until("its directory goes", PATIENCE, || (!directory.exists()).then_some(()));
    // As where the poststop hook was never run.
    fs::create_dir(&directory).expect("made");
    fs::write(directory.join("record.json"), record).expect("written");
    // As where a program was killed between the link and the record.
    let stray = format!(
        "link add stray0 link lan0 netns {} group {MADE_BY_MCRUN} type macvlan",
        container.pid
    );
    lab.ip("host", &stray);
    let expected = [
        format!("stray0 (macvlan) on lan0, in container {}: mcrun gc", container.name),
        format!("{}: mcrun gc", directory.display()),
    ];
    let mut left = left_behind(&changes(&lab));
    left.sort_by_key(|text| !text.starts_with("stray0"));
    assert_eq!(left, expected);
    let text = run(&mut lab.mcrun(["host"]));
    assert_eq!(text.matches("left behind: mcrun gc").count(), 2, "{text}");
    run(&mut lab.mcrun(["gc"]));
    assert_eq!(left_behind(&changes(&lab)), Vec::<String>::new());
}

#[test]
fn without_root_one_line_says_what_is_hidden() {
    let lab = Lab::new(3);
    let directory = tempfile::Builder::new().prefix("mcrun-lab-").tempdir().expect("tempdir");
    fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).expect("mode");
    let program = directory.path().join("mcrun");
    lab::install(&lab.program("mcrun"), &program);
    let mut command = lab.enter("host", "setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.arg(&program).args(["host", "--json"]);
    let told = output(&mut command);
    let errors = String::from_utf8_lossy(&told.stderr);
    assert!(told.status.success(), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert!(errors.contains("without root, what is in containers"), "{errors}");
}
