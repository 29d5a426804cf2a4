//! The restrictions of contrib/systemd/mcrun-metrics.service leave what mcrun metrics needs.

use std::fs;
use std::path::Path;

use crate::lab::{Lab, output};
use crate::metrics::{read, value};

/// The value of a key of the unit.
fn setting(key: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/systemd/mcrun-metrics.service");
    let text = fs::read_to_string(file).expect("the unit");

    let values: Vec<_> =
        text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect();
    assert_eq!(values.len(), 1, "{key}: {values:?}");
    values[0].to_owned()
}

#[test]
fn its_capabilities_suffice_on_a_read_only_file_system() {
    assert_eq!(setting("NoNewPrivileges"), "yes");
    assert_eq!(setting("ProtectSystem"), "strict");
    let lab = Lab::new(3);
    let container = lab.start("c", "10.99.0.11");
    let group = crate::counting::GROUP;
    let _receiver = crate::counting::joined(&lab, &container, "mc0", group);
    let capabilities = setting("CapabilityBoundingSet").to_lowercase().replace("cap_", "+");
    let restricted = |capabilities: &str| {
        let mut command = lab.enter("host", "unshare");
        command.args(["--mount", "sh", "-c"]);
        command.arg(
            "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\" && shift && exec \"$@\"",
        );
        command.arg("sh").arg(lab.directory());
        command.args(["setpriv", "--no-new-privs"]);
        command.arg(format!("--bounding-set=-all{capabilities}"));
        command.arg(lab.program("mcrun")).arg("metrics");
        output(&mut command)
    };
    let done = restricted(&format!(",{}", capabilities.replace(' ', ",")));
    assert!(done.status.success(), "{done:?}");
    let values = read(&lab, &String::from_utf8(done.stdout).expect("text"));
    assert_eq!(value(&values, &container, "mcrun_proxy_up"), 1.0);
    assert_eq!(value(&values, &container, "mcrun_memberships{status=\"joined\"}"), 1.0);
    // Without them the record is not even read: the restriction is in force.
    let done = restricted("");
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    let values = read(&lab, &String::from_utf8(done.stdout).expect("text"));
    assert_eq!(values["mcrun_unreadable_records"], 1.0);
}
