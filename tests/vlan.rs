//! `vlan=`: a tagged sub-interface of the parent that containers share.
//!
//! Not every kernel has VLANs, so most of this runs in a virtual machine with one that does.

use std::net::Ipv4Addr;

use crate::lab;
use crate::lab::{Container, Lab, PATIENCE, json, output, run, wait_until};
use crate::vm;

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 10, 1, 1);
const LINK: &str = "lan0.10";

/// Links of the container host of this name.
fn vlan_links(lab: &Lab) -> Vec<serde_json::Value> {
    let links = json(lab.enter("host", "ip").args(["-j", "-d", "link", "show", "type", "vlan"]));
    links.as_array().into_iter().flatten().filter(|link| link["ifname"] == LINK).cloned().collect()
}

fn index(lab: &Lab) -> i64 {
    let links = vlan_links(lab);
    assert_eq!(links.len(), 1, "{links:?}");
    assert_eq!(links[0]["linkinfo"]["info_data"]["id"], 10, "{links:?}");
    assert_eq!(links[0]["operstate"], "UP", "{links:?}");
    links[0]["ifindex"].as_i64().expect("an index")
}

fn start(lab: &Lab, name: &str, more: &str) -> Container {
    lab.start_with(name, &[&format!("parent=lan0,vlan=10{more}")], &[])
}

#[test]
fn the_link_is_made_once_and_goes_with_its_last_user() {
    vm::run(|| {
        let lab = Lab::new(3);
        let capture = lab.capture_also("vlan 10 and igmp");
        let one = start(&lab, "one", ",ip=10.10.0.11/24");
        let made = index(&lab);
        let two = start(&lab, "two", ",driver=relay,interface=lo0");
        assert_eq!(index(&lab), made, "made once");
        let shown = lab.ps(&one).expect("shown");
        assert_eq!(shown["interfaces"][0]["parent"], LINK, "{shown}");
        // What the container joins is reported with the tag.
        let member = one.member();
        member.change(GROUP, &lab::Change::Join);
        lab.wait_joined(&one, GROUP);
        wait_until("the report is on the wire, with its tag", PATIENCE, || {
            let group = GROUP.octets();
            let frames = capture.frames();
            let tagged = frames.iter().filter(|frame| frame[12..16] == [0x81, 0x00, 0x00, 0x0a]);
            tagged.into_iter().any(|frame| frame.windows(4).any(|part| part == group)).then_some(())
        });
        drop(member);
        lab.delete(&one);
        assert_eq!(index(&lab), made, "the other container needs it");
        lab.delete(&two);
        assert!(vlan_links(&lab).is_empty(), "{:?}", vlan_links(&lab));
        // And again, by attach, detach and gc.
        let three = lab.start("three", "10.99.0.13");
        let attach = ["attach", &three.name, "--mcast", "parent=lan0,vlan=10"];
        assert_eq!(run(&mut lab.mcrun(attach)), "mc1\n");
        index(&lab);
        run(&mut lab.mcrun(["detach", &three.name, "mc1"]));
        assert!(vlan_links(&lab).is_empty(), "{:?}", vlan_links(&lab));
        lab.ip("host", "link add link lan0 name lan0.10 type vlan id 10");
        let state = lab.state_dir().display().to_string();
        run(lab
            .enter("host", "ip")
            .args(["link", "set", "lan0.10", "alias"])
            .arg(format!("mcrun {state}")));
        let mut another = lab.mcrun(["gc"]);
        another.env("MCRUN_STATE_DIR", lab.directory().join("another"));
        assert_eq!(run(&mut another), "", "that of another state directory");
        assert_eq!(vlan_links(&lab).len(), 1);
        assert_eq!(run(&mut lab.mcrun(["gc"])), "lan0.10\n", "left by a program that was killed");
        assert!(vlan_links(&lab).is_empty());
        // A failed attachment leaves none either.
        let address = "parent=lan0,vlan=10,ip=10.10.0.14/24,route=10.11.0.0/16@10.10.0.1";
        let output =
            lab.try_start("four", &[address, "parent=lan0,mac=02:00:00:00:00:01,mtu=9000"], &[]);
        assert!(!output.status.success());
        assert!(vlan_links(&lab).is_empty(), "{:?}", vlan_links(&lab));
        lab.delete(&three);
        lab.assert_clean(PATIENCE);
    });
}

#[test]
fn a_link_that_somebody_else_has_made_stays() {
    vm::run(|| {
        let lab = Lab::new(3);
        lab.ip("host", "link add link lan0 name lan0.10 type vlan id 10");
        let error = lab.try_start("down", &["parent=lan0,vlan=10"], &[]);
        let error = String::from_utf8_lossy(&error.stderr).into_owned();
        assert!(error.contains("vlan=10: lan0.10 is down; set it up first"), "{error}");
        lab.ip("host", "link set lan0.10 up");
        let before = index(&lab);
        let container = start(&lab, "one", "");
        lab.delete(&container);
        run(&mut lab.mcrun(["gc"]));
        assert_eq!(index(&lab), before);
        lab.ip("host", "link del lan0.10");
    });
}

#[test]
fn a_kernel_without_vlans_refuses_and_says_so() {
    let lab = Lab::new(3);
    let has_vlans = output(
        lab.enter("host", "ip")
            .args("link add link lan0 name probe type vlan id 9".split_whitespace()),
    );
    let started = lab.try_start("one", &["parent=lan0,vlan=10"], &[]);
    if has_vlans.status.success() {
        assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
    } else {
        let error = String::from_utf8_lossy(&started.stderr).into_owned();
        let expected = "vlan=10: the kernel has no 802.1Q VLANs (module 8021q)";
        assert!(error.contains(expected), "{error}");
        lab.assert_clean(PATIENCE);
    }
}
