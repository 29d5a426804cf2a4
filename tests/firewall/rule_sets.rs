//! The rules that firewalls of Debian load, made by the firewalls themselves in the lab's host
//! namespace. Nothing of the machine is changed: each gets a copy of its configuration.

use std::fs;
use std::process::Command;

use crate::lab::{Lab, run};

/// Runs a shell script on the container host, with mounts of its own. `$1` is a new directory.
fn on_host(lab: &Lab, script: &str) {
    let directory = lab.directory().join("firewall");
    fs::create_dir_all(&directory).expect("directory");
    let mut command = lab.enter("host", "unshare");
    run(command.args(["-m", "sh", "-ec", script, "sh"]).arg(directory));
}

fn need(program: &str, package: &str) {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
    let found = found.is_ok_and(|output| output.status.success());
    assert!(found, "no {program}: install {package} (make test does)");
}

/// `ufw enable` with Debian's configuration: input is denied, and no rule accepts IGMP.
pub(super) fn load_ufw(lab: &Lab) {
    need("ufw", "ufw");
    on_host(
        lab,
        "cp -a /etc/ufw \"$1/etc\"
         mount --bind \"$1/etc\" /etc/ufw
         mount -t tmpfs none /run
         ufw --force enable",
    );
    let rules = run(lab.enter("host", "iptables").args(["-S", "INPUT"]));
    assert!(rules.starts_with("-P INPUT DROP"), "ufw's rules: {rules}");
}

/// firewalld with Debian's configuration: the zone public. It takes its rules away when it ends, so
/// what it has loaded is loaded again.
pub(super) fn load_firewalld(lab: &Lab) {
    need("firewalld", "firewalld");
    need("dbus-daemon", "dbus-daemon");
    on_host(
        lab,
        "cp -a /etc/firewalld \"$1/etc\"
         mount --bind \"$1/etc\" /etc/firewalld
         mount -t tmpfs none /run
         cat >\"$1/bus.conf\" <<END
         <busconfig><listen>unix:path=$1/bus</listen><auth>EXTERNAL</auth>
         <policy context=\"default\"><allow send_destination=\"*\" eavesdrop=\"true\"/>
         <allow eavesdrop=\"true\"/><allow own=\"*\"/></policy></busconfig>
END
         export DBUS_SYSTEM_BUS_ADDRESS=\"unix:path=$1/bus\"
         dbus-daemon --config-file=\"$1/bus.conf\" --nofork --nopidfile 2>\"$1/bus.log\" & bus=$!
         until [ -S \"$1/bus\" ]; do sleep 0.05; done
         firewalld --nofork --nopid --log-target console >\"$1/log\" 2>&1 & daemon=$!
         trap 'kill $daemon $bus' EXIT
         for try in $(seq 100); do
             if firewall-cmd --state >/dev/null 2>&1; then break; fi
             sleep 0.1
         done
         firewall-cmd --state >/dev/null
         nft list ruleset >\"$1/rules\"
         kill $daemon
         wait $daemon || true
         trap 'kill $bus' EXIT
         nft -f \"$1/rules\"",
    );
    let rules = run(lab.enter("host", "nft").args(["list", "ruleset"]));
    assert!(rules.contains("filter_IN_public"), "firewalld's rules: {rules}");
}
