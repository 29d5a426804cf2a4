//! Addresses of a pool after the machine was booted, where the state directory outlives that
//! (`MCRUN_STATE_DIR` on a disk).

use std::fs;

use serde_json::{Value, json};

use crate::lab::{Container, Lab, PATIENCE, json as json_of, output, run};

const ASKED: &str = "net=pool,ip=pool";
const OLD: &str = "of-another-boot";

/// A pool of so many addresses, from 10.99.1.1 on.
fn pool_of(lab: &Lab, count: u8) {
    let range = format!("10.99.1.1-10.99.1.{count}");
    let subnet = ["--subnet", "10.99.1.0/24", "--range", &range];
    let create = ["network", "create", "pool", "--mcast", "parent=lan0,igmp=off,l2=open"];
    run(lab.mcrun(create).args(subnet));
}

/// The address of the only interface of a container.
fn address(lab: &Lab, container: &Container) -> String {
    let shown = json_of(&mut lab.mcrun(["inspect", "--json", &container.id]));
    shown["interfaces"][0]["addresses"][0].as_str().expect("an address").to_owned()
}

/// What a container of this name has left that had 10.99.1.2 when the machine was booted: its record,
/// its claim, and what the pool remembers. Its process has the number of `like`, which runs now.
fn left_by(lab: &Lab, like: &Container, name: &str) {
    let state = lab.state_dir();
    let text = fs::read_to_string(state.join(format!("containers/{}/record.json", like.id)));
    let text = text.expect("a record").replace("10.99.1.1/24", "10.99.1.2/24");
    let mut record: Value = serde_json::from_str(&text).expect("JSON");
    record["container"] = OLD.into();
    record["name"] = name.into();
    record["boot_id"] = "00000000-0000-0000-0000-000000000000".into();
    let directory = state.join("containers").join(OLD);
    fs::create_dir(&directory).expect("made");
    let file = directory.join("record.json");
    fs::write(&file, record.to_string()).expect("written");
    fs::hard_link(&file, state.join("addresses/lan0@10.99.1.2")).expect("a claim");
    let leases = state.join("pools/pool/leases.json");
    let text = fs::read(&leases).expect("leases");
    let mut kept: Value = serde_json::from_slice(&text).expect("JSON");
    let of_old =
        json!({"address": "10.99.1.2", "container": OLD, "name": name, "interface": "mc0"});
    let list = kept["leases"].as_array_mut().expect("an array");
    list.retain(|lease| lease["address"] != "10.99.1.2");
    list.push(of_old);
    fs::write(leases, kept.to_string()).expect("written");
}

#[test]
fn after_the_machine_was_booted_a_container_gets_its_address_back_and_nobody_loses_one() {
    let lab = Lab::new(2);
    pool_of(&lab, 3);
    let start = |name: &str| lab.start_with(name, &[ASKED], &[]);
    let first = start("first");
    assert_eq!(address(&lab, &first), "10.99.1.1/24");

    // A container of the same name is taken for the same one.
    left_by(&lab, &first, &lab.name("camera"));
    let camera = start("camera");
    assert_eq!(address(&lab, &camera), "10.99.1.2/24");
    lab.delete(&camera);
    run(&mut lab.mcrun(["gc"]));

    // Others get what nobody had, and then the address of the container that is not there any more.
    left_by(&lab, &first, "gone");
    let second = start("second");
    assert_eq!(address(&lab, &second), "10.99.1.3/24");
    let third = start("third");
    assert_eq!(address(&lab, &third), "10.99.1.2/24");
    let fourth = lab.try_start("fourth", &[ASKED], &[]);
    let errors = String::from_utf8_lossy(&fourth.stderr);
    assert!(errors.contains("all 3 of its pool are in use"), "{errors}");

    // What it has left goes, and with it nothing of the container that has the address now.
    assert_eq!(run(&mut lab.mcrun(["gc"])).trim(), OLD);
    assert_eq!(address(&lab, &third), "10.99.1.2/24");
    assert!(lab.state_dir().join("addresses/lan0@10.99.1.2").exists());
    let again =
        output(&mut lab.mcrun(["attach", &first.id, "--mcast", "net=pool,ip=10.99.1.2/24"]));
    let errors = String::from_utf8_lossy(&again.stderr);
    assert!(errors.contains(&format!("of container {}", third.name)), "{errors}");
    for container in [&first, &second, &third] {
        lab.delete(container);
    }
    lab.assert_clean(PATIENCE);
}
