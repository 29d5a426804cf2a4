//! Attachments that work, and often mean something else than was wanted.

use serde_json::Value;

use crate::lab::{Container, Lab, output};

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
