//! Containers of LXC and Incus, and machines of systemd-nspawn: attached by their names, and by the hooks
//! that mcrun ships. Each has a busybox, and networks that are not the LAN.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{property, systemctl};
use crate::lab::{
    Container, EngineCommands, Lab, PATIENCE, busybox, json, output, run, wait_until,
};
use crate::vm;

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 6, 6, 1);
/// What the shipped examples ask for, and what the lab has instead.
const EXAMPLE: &str = "parent=eth1,ip=192.0.2.20/24";
const WISH: &str = "parent=lan0,ip=10.99.0.31/24";

#[test]
#[ignore = "boots a virtual machine: make test-vm"]
fn a_container_of_lxc_is_attached_by_its_name_and_by_its_hook() {
    vm::run_with_systemd(|| {
        let lab = Lab::on_this_machine(3);
        let directory = Directory::new("/var/lib/lxc/cam");
        let config = format!(
            "lxc.uts.name = cam\nlxc.rootfs.path = dir:{}\nlxc.net.0.type = empty\n\
             lxc.apparmor.profile = unconfined\n",
            directory.root_file_system("rootfs").display()
        );
        let file = directory.0.join("config");
        fs::write(&file, &config).expect("config");

        // In the background, where the monitor has a title.
        run(Command::new("lxc-start").args(["--name", "cam"]));
        attach(&lab, "lxc", "cam");
        receives(&lab, "lxc-cam", "cam");
        let refused = output(&mut lab.mcrun(["exec", "cam", "true"]));
        let text = String::from_utf8_lossy(&refused.stderr);
        assert!(text.contains("lxc-attach --name cam"), "{text}");
        run(Command::new("lxc-stop").args(["--name", "cam", "--kill"]));
        lab.assert_clean(PATIENCE);

        // In the foreground, as LXC's unit starts it.
        systemctl(&["start", "lxc@cam.service"]);
        wait_until("mcrun knows it", PATIENCE, || {
            output(&mut lab.mcrun(["attach", "cam", "--mcast", WISH]))
                .status
                .success()
                .then_some(())
        });
        receives(&lab, "lxc-cam", "cam");
        run(Command::new("lxc-stop").args(["--name", "cam", "--kill"]));
        lab.assert_clean(PATIENCE);

        let hook = include_str!("../../hooks/lxc/mcrun.conf").replace(EXAMPLE, WISH);
        fs::write(&file, format!("{config}{hook}")).expect("config");
        for version in ["", "lxc.hook.version = 1\n"] {
            fs::write(&file, format!("{config}{hook}{version}")).expect("config");
            run(Command::new("lxc-start").args(["--name", "cam"]));
            receives(&lab, "lxc-cam", "cam");
            run(Command::new("lxc-stop").args(["--name", "cam", "--kill"]));
            lab.assert_clean(PATIENCE);
        }

        // An attachment that cannot be made fails the start, and the journal tells why.
        fs::write(&file, format!("{config}{}", hook.replace("lan0", "nope"))).expect("config");
        assert!(!output(Command::new("lxc-start").args(["--name", "cam"])).status.success());
        wait_until("the journal tells why", PATIENCE, || {
            let told = run(Command::new("journalctl").args(["-q", "-t", "mcrun-lxc", "-o", "cat"]));
            (told.contains("cam: ") && told.contains("nope")).then_some(())
        });
        lab.assert_clean(PATIENCE);
    });
}

#[test]
#[ignore = "boots a virtual machine: make test-vm"]
fn a_machine_of_systemd_nspawn_is_attached_by_its_name_and_by_its_unit() {
    vm::run_with_systemd(|| {
        const UNIT: &str = "systemd-nspawn@mic.service";
        let lab = Lab::on_this_machine(3);
        let directory = Directory::new("/var/lib/machines/mic");
        directory.root_file_system("");

        systemctl(&["start", UNIT]);
        attach(&lab, "nspawn", "mic");
        receives(&lab, "nspawn-mic", "mic");
        systemctl(&["stop", UNIT]);
        lab.assert_clean(PATIENCE);

        let drop_in = Directory::new("/etc/systemd/system/systemd-nspawn@mic.service.d");
        let hook = include_str!("../../hooks/systemd-nspawn/mcrun.conf").replace(EXAMPLE, WISH);
        fs::write(drop_in.0.join("mcrun.conf"), &hook).expect("drop-in");
        systemctl(&["daemon-reload"]);
        systemctl(&["start", UNIT]);
        receives(&lab, "nspawn-mic", "mic");
        // A new machine of the same name.
        systemctl(&["restart", UNIT]);
        receives(&lab, "nspawn-mic", "mic");
        systemctl(&["stop", UNIT]);
        lab.assert_clean(PATIENCE);

        // Its init may not have begun when it is told to end.
        let refused = format!("{}TimeoutStopSec=5\n", hook.replace("lan0", "nope"));
        fs::write(drop_in.0.join("mcrun.conf"), refused).expect("drop-in");
        systemctl(&["daemon-reload"]);
        assert!(!output(Command::new("systemctl").args(["start", UNIT])).status.success());
        let told = run(Command::new("journalctl").args(["-q", "-u", UNIT, "-o", "cat"]));
        assert!(told.contains("nope"), "{told}");
        wait_until("the unit has ended", PATIENCE, || {
            (property(UNIT, "ActiveState") == "failed").then_some(())
        });
        systemctl(&["reset-failed", UNIT]);
        lab.assert_clean(PATIENCE);
        drop(drop_in);
        systemctl(&["daemon-reload"]);
    });
}

#[test]
#[ignore = "boots a virtual machine: make test-vm"]
fn an_instance_of_incus_is_attached_by_its_name_and_by_its_hook() {
    vm::run_with_systemd(|| {
        systemctl(&["start", "incus.service"]);
        let mut lab = Lab::on_this_machine(3);
        let directory = Directory::new("/var/tmp/instance");
        directory.root_file_system("rootfs");
        let metadata = "architecture: x86_64\ncreation_date: 1700000000\nproperties:\n  os: lab\n";
        fs::write(directory.0.join("metadata.yaml"), metadata).expect("metadata");
        let image = directory.0.join("image.tar");
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(&directory.0).arg("-cf").arg(&image).args(["metadata.yaml", "rootfs"]);
        run(&mut tar);
        incus(&["storage", "create", "default", "dir"]);
        let root = ["root", "disk", "path=/", "pool=default"];
        incus(&[&["profile", "device", "add", "default"][..], &root].concat());
        incus(&["image", "import", &image.display().to_string(), "--alias", "lab"]);
        lab.settle();

        incus(&["launch", "lab", "spot"]);
        attach(&lab, "incus", "spot");
        receives(&lab, "incus-spot", "spot");
        incus(&["stop", "--force", "spot"]);
        lab.assert_clean(PATIENCE);

        let hook = include_str!("../../hooks/lxc/mcrun.conf").replace(EXAMPLE, WISH);
        let line = hook.lines().find(|line| !line.starts_with('#')).expect("a line");
        incus(&["config", "set", "spot", &format!("raw.lxc={line}")]);
        incus(&["start", "spot"]);
        receives(&lab, "incus-spot", "spot");
        incus(&["restart", "--force", "spot"]);
        receives(&lab, "incus-spot", "spot");
        incus(&["delete", "--force", "spot"]);
        lab.assert_clean(PATIENCE);

        incus(&["image", "delete", "lab"]);
        incus(&["profile", "device", "remove", "default", "root"]);
        incus(&["storage", "delete", "default"]);
        systemctl(&["stop", "incus.service", "incus.socket", "lxcfs.service"]);
    });
}

fn incus(arguments: &[&str]) -> String {
    run(Command::new("incus").args(arguments))
}

/// `mcrun attach NAME`, with the engine named, and refused with another one.
fn attach(lab: &Lab, engine: &str, name: &str) {
    let refused = output(&mut lab.mcrun(["attach", name, "--engine", "podman", "--mcast", WISH]));
    let text = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(text, format!("mcrun: no such container of podman: {name}\n"));
    let made = run(&mut lab.mcrun(["attach", name, "--engine", engine, "--mcast", WISH]));
    assert_eq!(made, "mc0\n");
}

/// It is shown by its name, and a stream arrives through the snooping switch.
fn receives(lab: &Lab, id: &str, name: &str) {
    let shown = json(&mut lab.mcrun(["ps", "--json"]));
    let mut entries = shown.as_array().expect("an array").iter();
    let entry = entries.find(|entry| entry["container"] == id);
    let entry = entry.unwrap_or_else(|| panic!("{id} in {shown}"));
    assert_eq!(entry["name"], name);
    let pid = entry["pid"].as_i64().expect("a pid") as i32;
    let container = Container::of_engine(name, id, pid, EngineCommands::default());
    let mcrun = container.enter(env!("CARGO_BIN_EXE_mcrun"));
    lab.assert_stream_arrives_by(mcrun, &container, GROUP, || {});
    lab.wait_left(&container, GROUP);
}

/// A directory that goes with the test.
struct Directory(PathBuf);

impl Directory {
    fn new(path: &str) -> Directory {
        fs::create_dir_all(path).expect("directory");
        Directory(path.into())
    }

    /// Makes a root file system in it: busybox, and an init that ends when it is told to halt, as
    /// systemd tells it (systemd(1): SIGRTMIN+3).
    fn root_file_system(&self, name: &str) -> PathBuf {
        let root = self.0.join(name);
        for directory in ["bin", "sbin", "usr", "etc", "dev", "proc", "sys", "tmp", "run", "var"] {
            fs::create_dir_all(root.join(directory)).expect("directory");
        }
        fs::copy(busybox(), root.join("bin/busybox")).expect("busybox");
        for applet in ["sh", "sleep", "true"] {
            symlink("busybox", root.join("bin").join(applet)).expect("link");
        }
        fs::write(root.join("etc/os-release"), "ID=lab\n").expect("os-release");
        let init = root.join("sbin/init");
        let script = "#!/bin/sh\ntrap 'exit 0' 37 TERM\nsleep 100000 &\nwait\n";
        fs::write(&init, script).expect("init");
        fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).expect("mode");
        root
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(Path::new(&self.0));
    }
}
