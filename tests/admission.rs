//! Who may ask for what: addresses of others, the administrator's file, and the channel of an image.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::lab::{Lab, PARENT, PATIENCE, alive, output, run, wait_until};

const SOON: Duration = Duration::from_secs(1);

/// `ip ARGUMENTS` on the container host.
fn ip(lab: &Lab, arguments: &str) {
    run(lab.enter("host", "ip").args(arguments.split(' ')));
}

/// Asserts that an attachment is refused with these words, and that nothing is left of it.
fn assert_refused(lab: &Lab, attachment: &str, words: &str) {
    let refused = lab.try_start("refused", &[attachment], &[]);
    let errors = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success(), "{attachment}");
    assert!(errors.contains(words), "{attachment}: {errors}");
    lab.assert_clean(SOON);
}

#[test]
fn what_somebody_else_has_is_refused_with_and_without_the_administrators_file() {
    let mut lab = Lab::new(2);
    ip(&lab, "link add other0 address 02:00:5e:20:00:01 type veth peer name other1");
    ip(&lab, "address add 10.98.0.1/24 dev other0");
    ip(&lab, "link set other0 up");
    ip(&lab, &format!("route add 198.51.100.0/24 via 10.99.0.78 dev {PARENT}"));
    for (address, mac) in [("10.99.0.77", "77"), ("10.99.0.78", "78"), ("fd00::77", "79")] {
        let entry = format!("{address} lladdr 02:00:5e:20:00:{mac} dev {PARENT} nud reachable");
        ip(&lab, &format!("neigh replace {entry}"));
    }
    lab.settle();
    let cases = [
        ("ip=10.98.0.1/24", "10.98.0.1 is the host's own address, on "),
        ("ip=10.99.0.77/24", "10.99.0.77 is the address of a neighbour of the host on lan0, 02:"),
        ("ip=10.99.0.78/24", "10.99.0.78 is a gateway of the host, on lan0"),
        ("ip=10.99.0.79/24,gw=10.99.0.79", "10.99.0.79 is the gateway that gw= names"),
        ("ip=fd00::77/64", "fd00::77 is the address of a neighbour of the host on lan0"),
        ("mac=02:00:5e:20:00:01", "this is the address of the host's other0"),
        ("mac=02:00:5e:20:00:77", "a neighbour of the host on lan0, 10.99.0.77"),
        ("mac=02:00:5e:20:00:78", "this is the address of the gateway on lan0, 10.99.0.78"),
    ];
    for file in
        ["", "[attach]\nip = [\"0.0.0.0/0\", \"::/0\"]\ngw = \"0.0.0.0/0\"\nmac = [\"*\"]\n"]
    {
        lab.configure(file);
        for (pair, words) in cases {
            assert_refused(&lab, &format!("parent={PARENT},{pair}"), words);
        }
    }
    // Somebody who does not answer any more has nothing.
    ip(&lab, &format!("neigh replace 10.99.0.77 dev {PARENT} nud failed"));
    lab.start_with("c", &[&format!("parent={PARENT},ip=10.99.0.77/24")], &[]);
}

/// Names of the claims on addresses.
fn claims(lab: &Lab) -> Vec<String> {
    let entries = fs::read_dir(lab.state_dir().join("addresses")).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|e| e.file_name().into_string().expect("text")).collect();
    names.sort();
    names
}

fn record(lab: &Lab, id: &str) -> PathBuf {
    lab.state_dir().join("containers").join(id).join("record.json")
}

#[test]
fn the_address_of_another_container_is_refused_until_that_one_gives_it_up() {
    let mut lab = Lab::new(2);
    let with = |address: &str| format!("parent={PARENT},ip={address}/24");
    let first = lab.start_with("first", &[&with("10.99.0.11"), &with("fd00::11")], &[]);
    let second = lab.start("second", "10.99.0.12");
    lab.settle();
    let name = &first.name;
    for file in ["", "[attach]\nip = [\"0.0.0.0/0\", \"::/0\"]\n"] {
        lab.configure(file);
        let words = format!("ip=10.99.0.11/16: 10.99.0.11 is the address of container {name}, on");
        assert_refused(&lab, &format!("parent={PARENT},ip=10.99.0.11/16"), &words);
        let words = format!("fd00::11 is the address of container {name}, on {PARENT}");
        assert_refused(&lab, &format!("parent={PARENT},ip=10.99.0.13/24,ip=fd00::11/64"), &words);
        let refused = output(&mut lab.mcrun(["attach", &second.id, "--mcast", &with("fd00::11")]));
        let errors = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(125) && errors.contains(&words), "{errors}");
    }
    // Nothing is left of what was refused.
    assert_eq!(claims(&lab), ["lan0@10.99.0.11", "lan0@10.99.0.12", "lan0@fd00::11"]);
    // On another LAN the address is another one.
    ip(&lab, "link add other0 type veth peer name other1");
    ip(&lab, "link set other0 up");
    let other = ["attach", &second.id, "--mcast", "parent=other0,ip=10.99.0.11/24,name=elsewhere"];
    run(&mut lab.mcrun(other));
    run(&mut lab.mcrun(["detach", &second.id, "elsewhere"]));
    // What is detached is free, and so is what a container had that has ended.
    run(&mut lab.mcrun(["detach", &first.id, "mc1"]));
    assert_eq!(claims(&lab), ["lan0@10.99.0.11", "lan0@10.99.0.12"]);
    run(&mut lab.mcrun(["attach", &second.id, "--mcast", &with("fd00::11")]));
    run(&mut lab.mcrun(["detach", &first.id]));
    let third = lab.start("third", "10.99.0.11");
    lab.delete(&third);
    lab.delete(&second);
    assert_eq!(claims(&lab), [""; 0]);
}

#[test]
fn a_claim_of_nobody_refuses_nobody() {
    let lab = Lab::new(2);
    let attachment = format!("parent={PARENT},ip=10.99.0.11/24");
    let other = lab.start("other", "10.99.0.12");
    let claim = lab.state_dir().join("addresses/lan0@10.99.0.11");
    let make = |owner: &str, claim: &Path| {
        fs::write(claim, format!("{{\"container\":\"{owner}\"}}")).expect("claim");
    };
    // A container that has gone, one that has another address, and what is no container.
    for owner in ["gone", &other.id, "../.."] {
        make(owner, &claim);
        let next = lab.start_with("next", &[&attachment], &[]);
        let owns: Value = serde_json::from_slice(&fs::read(&claim).expect("claim")).expect("JSON");
        assert_eq!(owns["container"], next.id);
        lab.delete(&next);
        make(owner, &claim);
        run(&mut lab.mcrun(["gc"]));
        assert_eq!(claims(&lab), ["lan0@10.99.0.12"], "{owner}");
    }
    // A proxy that has removed the directory of its container by itself cannot remove the claim.
    let ended = lab.start_with("ended", &[&attachment], &[]);
    let proxy = lab.proxy_pid(&ended);
    let aside = lab.directory().join("aside");
    fs::rename(&claim, &aside).expect("kept");
    lab.delete(&ended);
    wait_until("the proxy ends", PATIENCE, || (!alive(proxy)).then_some(()));
    fs::rename(&aside, &claim).expect("claim");
    // Programs that were killed: while they attached a container that runs, and while they changed
    // what it has.
    let killed = lab.start_with("killed", &[&attachment], &[]);
    for stage in ["planned", "adding", "leaving", "detaching"] {
        let text = fs::read_to_string(record(&lab, &killed.id)).expect("record");
        let mut value: Value = serde_json::from_str(&text).expect("JSON");
        let more = format!("parent={PARENT},ip=10.99.0.15/24,name=more");
        match stage {
            "planned" => {
                (value["stage"], value["complete"]) = ("planned".into(), false.into());
            }
            "detaching" => {
                value["leaving"] = value["interfaces"].take();
                value["interfaces"] = serde_json::json!([]);
            }
            _ => {
                let mut changing = value["interfaces"][0].clone();
                changing["name"] = "more".into();
                changing["attachment"]["ip"] = serde_json::json!({ "static": ["10.99.0.15/24"] });
                value[stage] = serde_json::json!([changing]);
                make(&killed.id, &claim.with_file_name("lan0@10.99.0.15"));
            }
        }
        let is_change = ["adding", "leaving"].contains(&stage);
        fs::write(record(&lab, &killed.id), value.to_string()).expect("record");
        let wanted = if is_change { &more } else { &attachment };
        let next = lab.start_with("next", &[wanted], &[]);
        lab.delete(&next);
        assert_eq!(record(&lab, &killed.id).exists(), is_change, "{stage}");
        if stage == "planned" {
            run(&mut lab.mcrun(["attach", &killed.id, "--mcast", &attachment]));
        }
    }
}

#[test]
fn passthru_needs_the_word_of_the_administrators_file() {
    let lab = Lab::new(2);
    let passthru = format!("parent={PARENT},mode=passthru");
    let words = "mode=passthru: the administrator allows bridge, private, vepa, l2, l3, l3s";
    assert_refused(&lab, &passthru, words);
    lab.configure("[groups]\nmax-groups = 5\n");
    assert_refused(&lab, &passthru, words);
    let holder = lab.start_with("holder", &[&format!("parent={PARENT}")], &[]);
    let pid = holder.pid.to_string();
    let refused = output(&mut lab.mcrun(["attach", &pid, "--mcast", &passthru]));
    let errors = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(125), "{errors}");
    assert!(errors.contains(words), "{errors}");
}

#[test]
fn the_file_is_the_list_of_what_is_allowed() {
    let lab = Lab::new(2);
    lab.configure("[attach]\nparents = [\"lan0\"]\nip = [\"10.99.0.0/28\"]\nmax-attachments = 1\n");
    for (pairs, words) in [
        (
            "ip=10.99.0.16/24",
            "ip=10.99.0.16/24: the administrator allows 10.99.0.0/28 (mcrun.toml)",
        ),
        ("mac=02:00:5e:20:00:01", "allows none ([attach] of mcrun.toml has no mac)"),
        ("route=10.7.0.0/16", "allows none ([attach] of mcrun.toml has no route)"),
        ("bclim=3", "bclim=3: the administrator allows -1 (mcrun.toml)"),
    ] {
        assert_refused(&lab, &format!("parent={PARENT},{pairs}"), words);
    }
    let both = format!("parent={PARENT};parent={PARENT},name=two");
    assert_refused(&lab, &both, "2 attachments: the administrator allows a container 1");
    lab.start_with("c", &[&format!("parent={PARENT},ip=10.99.0.11/24")], &[]);
}

#[test]
fn a_tightened_file_is_in_force_as_far_as_it_goes_and_reload_says_what_is_not() {
    let lab = Lab::new(3);
    let container = lab.start_with(
        "c",
        &[&format!("parent={PARENT},ip=10.99.0.11/24,allow=239.1.0.0/16")],
        &[],
    );
    let neighbour = lab.start_with("n", &[&format!("parent={PARENT},ip=10.99.0.12/24")], &[]);
    lab.configure(
        "[attach]\nip = [\"10.98.0.0/24\"]\n[groups]\nallow = [\"239.2.0.0/16\"]\nmax-groups = 5\n",
    );
    let reloaded = output(&mut lab.mcrun(["reload"]));
    let errors = String::from_utf8_lossy(&reloaded.stderr).into_owned();
    assert!(!reloaded.status.success(), "{errors}");
    assert_eq!(String::from_utf8_lossy(&reloaded.stdout).lines().count(), 2, "both are replaced");
    for (name, words) in [
        (&container.id, "ip=10.99.0.11/24: the administrator allows 10.98.0.0/24 (mcrun.toml)"),
        (&container.id, "allow=239.1.0.0/16: the administrator allows 239.2.0.0/16 (mcrun.toml)"),
        (&neighbour.id, "ip=10.99.0.12/24: the administrator allows 10.98.0.0/24 (mcrun.toml)"),
    ] {
        let line = format!("mcrun: {name}: {words}: mc0 stays as it is");
        assert!(errors.contains(&line), "{line}: {errors}");
    }
    assert_eq!(errors.lines().count(), 3, "{errors}");
    // Of the rules nothing is left to the one; the other has the administrator's.
    let policy = |id: &str| {
        let path = lab.state_dir().join("containers").join(id).join("record.json");
        let record: Value = serde_json::from_slice(&fs::read(path).expect("record")).expect("JSON");
        record["interfaces"][0]["policy"].clone()
    };
    let denied = policy(&container.id);
    assert_eq!(denied["deny"].as_array().map(Vec::len), Some(2), "{denied}");
    assert_eq!(denied["max_groups"], 5, "{denied}");
    assert_eq!(policy(&neighbour.id)["allow"].as_array().map(Vec::len), Some(1));
    // Nothing has changed since, and it is said again.
    let again = output(&mut lab.mcrun(["reload"]));
    assert!(again.stdout.is_empty() && !again.status.success());
}

#[test]
fn config_names_every_problem_and_shows_what_is_in_force() {
    let lab = Lab::new(2);
    let file = lab.config_dir().join("new.toml");
    fs::write(&file, "[attach]\nmodes = [\"bridge\"]\nip = [\"10.0.0.1/8\"]\n").expect("file");
    let mut check = lab.mcrun(["config", "check"]);
    let checked = output(check.arg(&file));
    let errors = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert_eq!(checked.status.code(), Some(1), "{errors}");
    let lines: Vec<_> = errors.lines().collect();
    let file = file.display();
    assert_eq!(
        lines,
        [
            format!("{file}:2: unknown key modes in [attach]; did you mean mode?"),
            format!(
                "{file}:3: ip: \"10.0.0.1/8\": bits are set behind the prefix; did you mean 10.0.0.0/8?"
            ),
        ]
    );
    let rules = "[attach]\nparents = [\"lan0\"]\n";
    fs::write(lab.config_dir().join("mcrun.toml"), rules).expect("file");
    assert!(output(&mut lab.mcrun(["config", "check"])).status.success());
    let shown: Value =
        serde_json::from_str(&run(&mut lab.mcrun(["config", "show", "--json"]))).expect("JSON");
    let expected = serde_json::json!({ "value": ["lan0"], "from": "file", "line": 2 });
    assert_eq!(shown["attach"]["parents"], expected);
    let expected = serde_json::json!({ "value": [], "from": "default", "line": null });
    assert_eq!(shown["attach"]["ip"], expected);
    let text = run(&mut lab.mcrun(["config", "show"]));
    assert!(text.contains("ip = []") && text.contains("# default"), "{text}");
}

#[test]
fn a_file_that_others_can_write_is_no_word_of_the_administrators() {
    let lab = Lab::new(2);
    lab.configure("[attach]\nparents = [\"lan0\"]\n");
    let directory = lab.config_dir();
    let file = directory.join("mcrun.toml");
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("mode");
    };
    let commands = [&["config", "check"][..], &["config", "show"], &["reload"]];
    let assert_refused = |cannot_read: &Path, why: &str| {
        let words = format!("cannot read {}: {why}", cannot_read.display());
        assert_refused(&lab, "parent=lan0", &words);
        for command in commands {
            let refused = output(&mut lab.mcrun(command));
            let errors = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert_eq!(refused.status.code(), Some(125), "{command:?}: {errors}");
            assert!(errors.contains(&words) && errors.lines().count() == 1, "{errors}");
        }
    };
    chown(&file, Some(1000), None).expect("owner");
    assert_refused(&file, "it belongs to user 1000, and has to be root's");
    chown(&file, Some(0), None).expect("owner");
    mode(&file, 0o664);
    assert_refused(&file, "others may write it (mode 664); chmod go-w");
    // What a link leads to is what counts.
    let elsewhere = directory.join("elsewhere.toml");
    fs::rename(&file, &elsewhere).expect("moved");
    symlink(&elsewhere, &file).expect("link");
    assert_refused(&file, "others may write it (mode 664); chmod go-w");
    mode(&elsewhere, 0o644);
    // Who can write the directory can take the file away.
    mode(&directory, 0o777);
    assert_refused(&directory, "others may write it (mode 777); chmod go-w");
    fs::remove_file(&file).expect("removed");
    assert_refused(&directory, "others may write it (mode 777); chmod go-w");
    mode(&directory, 0o755);
    let container = lab.start_with("c", &["parent=lan0"], &[]);
    lab.delete(&container);
}
