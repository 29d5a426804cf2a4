//! Containers that are known by the path of their network namespace only, as `ip netns` makes
//! them.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::lab::{Lab, PATIENCE, SOURCES, alive, json, output, run, wait_until};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 7, 2, 1);
const PACKETS: u32 = 500;

/// A namespace in which nothing runs, attached to the LAN.
fn attached(lab: &Lab) -> String {
    let id = lab.namespace("blue");
    let path = format!("/run/netns/{id}");
    let attachment = "parent=lan0,ip=10.99.0.11/24";
    assert_eq!(run(&mut lab.mcrun(["attach", &path, "--mcast", attachment])), "mc0\n");
    id
}

fn proxy_pid(lab: &Lab, id: &str) -> Option<i32> {
    let entries = json(&mut lab.mcrun(["ps", "--json"]));
    let entry = entries.as_array()?.iter().find(|entry| entry["container"] == id)?.clone();
    assert!(entry["pid"].is_null(), "no process of the container is known: {entry}");
    entry["proxy"]["pid"].as_i64().map(|pid| pid as i32)
}

#[test]
fn a_namespace_is_served_until_its_path_is_removed() {
    let lab = Lab::new(2);
    lab.empty_namespace("blue");
    let lab = lab.settled();
    let capture = lab.capture();
    let id = attached(&lab);
    let proxy = proxy_pid(&lab, &id).expect("a proxy");
    // Another file of that directory says nothing.
    lab.empty_namespace("green");
    run(std::process::Command::new("ip").args(["netns", "del", &lab.namespace("green")]));

    let receiver = lab.receive_in("blue", GROUP, Duration::from_secs(3));
    wait_until("mcrun reports the group as joined", PATIENCE, || {
        let groups = json(&mut lab.mcrun(["groups", "--json"]));
        let mut entries = groups.as_array()?.iter();
        let entry = entries.find(|entry| entry["group"] == GROUP.to_string())?;
        (entry["container"] == id.as_str() && entry["status"] == "joined").then_some(())
    });
    lab.wait_forwarded(GROUP);
    let sent = lab.send_count(GROUP, SOURCES[0], 1000, PACKETS).finish(PATIENCE);
    assert!(sent.status.success(), "{sent:?}");
    let reception = receiver.finish();
    assert_eq!((reception.packets, reception.lost), (PACKETS.into(), 0), "{reception:?}");

    assert!(alive(proxy));
    run(std::process::Command::new("ip").args(["netns", "del", &id]));
    lab.assert_clean(PATIENCE);
    assert!(!alive(proxy));
    lab.assert_one_igmp_host(&capture.finish());
}

#[test]
fn a_namespace_is_detached_by_the_name_of_its_file() {
    let lab = Lab::new(2);
    lab.empty_namespace("blue");
    let lab = lab.settled();
    let id = attached(&lab);
    assert_eq!(run(&mut lab.mcrun(["detach", &id])), "mc0\n");
    lab.assert_clean(PATIENCE);
    let links = json(lab.enter("blue", "ip").args(["-j", "link"]));
    assert_eq!(links.as_array().expect("links").len(), 1, "only lo: {links}");
}

/// Two files of one name, in different directories: the second must not take the first one's place.
#[test]
fn a_second_container_of_the_same_id_is_refused_and_the_first_stays_as_it_is() {
    let lab = Lab::new(2);
    lab.empty_namespace("blue");
    lab.empty_namespace("green");
    let id = attached(&lab);
    let proxy = proxy_pid(&lab, &id).expect("a proxy");
    let other = lab.directory().join(&id);
    std::fs::write(&other, "").expect("a file");
    let green = format!("/run/netns/{}", lab.namespace("green"));
    run(std::process::Command::new("mount").arg("--bind").arg(green).arg(&other));
    let path = other.to_str().expect("UTF-8");
    let refused = output(&mut lab.mcrun(["attach", path, "--mcast", "parent=lan0"]));
    let errors = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(125), "{errors}");
    assert!(
        errors.contains(&format!("mcrun detach {id}")) && errors.lines().count() == 1,
        "{errors}"
    );
    assert_eq!(proxy_pid(&lab, &id), Some(proxy));
    assert_eq!(run(&mut lab.mcrun(["detach", &id])), "mc0\n");
}

#[test]
fn a_path_that_is_no_namespace_of_its_own_is_refused() {
    let lab = Lab::new(2);
    let host = format!("/run/netns/{}", lab.namespace("host"));
    for (path, word) in [
        ("/run/netns/no-such-namespace", "No such file"),
        ("/dev/null", "network namespace"),
        ("/proc/self/ns/net", "process"),
        ("/run/../proc/self/ns/net", "process"),
        (&host, "host's network namespace"),
    ] {
        let refused = output(&mut lab.mcrun(["attach", path, "--mcast", "parent=lan0"]));
        let errors = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(125), "{path}: {errors}");
        assert!(errors.contains(word) && errors.lines().count() == 1, "{path}: {errors}");
        lab.assert_clean(PATIENCE);
    }
}
