//! Attachments that work, and often mean something else than was wanted.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::Value;

use crate::lab::{Container, Lab, PATIENCE, output, run, wait_until};

/// What starting a container says on standard error, and the container.
fn start(lab: &Lab, name: &str, attachment: &str) -> (Container, String) {
    let started = lab.try_start(name, &[attachment], &[]);
    let told = String::from_utf8_lossy(&started.stderr).into_owned();
    (lab.started(name, &started), told)
}

fn codes(lab: &Lab, container: &Container) -> Vec<String> {
    let entry = lab.ps(container).expect("it is shown");
    let notices = entry["notices"].as_array().cloned().unwrap_or_default();
    notices.iter().filter_map(|n: &Value| n["code"].as_str()).map(str::to_owned).collect()
}

#[test]
fn what_is_odd_of_an_attachment_is_told_at_once_and_shown() {
    let lab = Lab::new(2);
    lab.ip("host", "link add docker0 type bridge");
    lab.ip("host", "link set docker0 up");
    for (name, attachment, code, text) in [
        (
            "subnet",
            "parent=lan0,ip=10.98.0.11/24",
            "address-outside-subnet",
            "mc0: ip=10.98.0.11/24 is outside of 10.99.0.0/24, the subnet of lan0",
        ),
        (
            "bridge",
            "parent=docker0,ip=10.98.1.11/24",
            "parent-without-lan",
            "mc0: parent=docker0 is a bridge that leads to no LAN",
        ),
        (
            "rule",
            "parent=lan0,ip=10.99.0.12/24,allow=239.1.0.0",
            "rule-for-one-address",
            "mc0: allow=239.1.0.0 covers this one address; write 239.1.0.0/16",
        ),
    ] {
        let (container, told) = start(&lab, name, attachment);
        assert_eq!(told.lines().count(), 1, "{told}");
        assert!(told.starts_with(&format!("mcrun: {text}")), "{told}");
        assert!(codes(&lab, &container).iter().any(|c| c == code), "{:?}", lab.ps(&container));
        let shown = output(&mut lab.mcrun(["ps"]));
        let warnings = String::from_utf8_lossy(&shown.stderr).into_owned();
        assert!(warnings.contains(&format!("mcrun: {}: {text}", container.name)), "{warnings}");
    }
    let (container, told) =
        start(&lab, "usual", "parent=lan0,ip=10.99.0.13/24,allow=239.1.0.0/16,deny=239.1.2.3");
    assert_eq!(told, "");
    let entry = lab.ps(&container).expect("it is shown");
    assert!(entry["warnings"].is_null(), "{entry}");
    // A running container is warned of too.
    let attached = output(&mut lab.mcrun([
        "attach",
        &container.name,
        "--mcast",
        "parent=lan0,name=mc9,allow=239.2.0.0",
    ]));
    let told = String::from_utf8_lossy(&attached.stderr);
    assert!(told.starts_with("mcrun: mc9: allow=239.2.0.0 covers this one address"), "{told}");
}

/// A container without `ip=` that sends does so with the address of its other interface. What only
/// receives, or gives the interface an address itself, is not warned of.
#[test]
fn a_container_that_sends_with_the_address_of_another_interface_is_warned_of() {
    const PORT: u16 = 6000;
    let group = Ipv4Addr::new(239, 20, 1, 1);
    let lab = Lab::new(3);
    lab.add_bridge();
    let container = lab.start_with("c", &["parent=lan0"], &[]);
    let bridged = lab.plug(&container, 10);
    let inside = container.socket_on("mc0", PORT);
    inside.join(group);
    lab.wait_forwarded(group);
    let is_warned = || codes(&lab, &container).contains(&"foreign-source".to_owned());
    assert!(!is_warned(), "{:?}", lab.ps(&container));

    let listener = lab.socket("src", Ipv4Addr::UNSPECIFIED, PORT);
    listener.join(group);
    let sender = container.socket_on("mc0", 0);
    sender.socket.set_multicast_loop_v4(false).expect("no loop");
    let (_, from) = wait_until("it arrives on the LAN", PATIENCE, || {
        sender.send(b"from the bridge", (group, PORT));
        listener.receive(Duration::from_millis(100))
    });
    assert_eq!(*from.ip(), bridged);
    let entry = lab.ps(&container).expect("it is shown");
    let warnings = entry["warnings"].to_string();
    let text = format!(
        "mc0 has no IPv4 address, and the container sends there with its address {bridged}"
    );
    assert!(warnings.contains(&text), "{warnings}");

    run(container.enter("ip").args(["addr", "add", "10.99.0.77/24", "dev", "mc0"]));
    assert!(!is_warned(), "{:?}", lab.ps(&container));
}
