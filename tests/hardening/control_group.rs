//! The control group and the limits of a proxy.

use std::fs;
use std::path::{Path, PathBuf};

use super::attached;
use crate::lab::{Lab, PATIENCE, json, run, wait_until};

/// The group of a process in the hierarchy of version 2.
pub(super) fn group(pid: i32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix("0::").map(str::to_owned));
    line.expect("cgroup2 is mounted")
}

#[test]
fn a_proxy_is_in_a_group_of_its_own_with_limits_that_are_not_its_callers() {
    let lab = Lab::new(3);
    let container = attached(&lab, "c", 11);
    let proxy = lab.proxy_pid(&container);
    assert_eq!(group(proxy), "/mcrun");
    assert_ne!(group(std::process::id().cast_signed()), "/mcrun");
    let score = fs::read_to_string(format!("/proc/{proxy}/oom_score_adj")).expect("it runs");
    assert_eq!(score.trim(), "0");
    let limits = fs::read_to_string(format!("/proc/{proxy}/limits")).expect("it runs");
    for (name, value) in [("Max data size", "268435456"), ("Max file size", "1048576")] {
        let line = limits.lines().find(|line| line.starts_with(name)).expect("a limit");
        let words: Vec<_> = line[name.len()..].split_whitespace().take(2).collect();
        assert_eq!(words, [value; 2], "{name}");
    }
    // Where version 1 has the controllers, as on this kind of machine, people are told.
    let mount = ["/sys/fs/cgroup/mcrun", "/sys/fs/cgroup/unified/mcrun"];
    let mount = mount.into_iter().find(|path| fs::metadata(path).is_ok()).expect("the group");
    let notices = lab.ps(&container).expect("shown")["notices"].to_string();
    match fs::read_to_string(format!("{mount}/memory.max")) {
        Ok(limit) => assert_eq!(limit.trim(), "1073741824"),
        Err(_) => assert!(notices.contains("control-group-incomplete"), "{notices}"),
    }
}

/// As in a container of an engine, or in a chroot.
#[test]
fn without_control_groups_a_container_is_attached_and_people_are_told() {
    let lab = Lab::new(3);
    lab.empty_namespace("blue");
    let id = lab.namespace("blue");
    let mut command = lab.enter("host", "unshare");
    let script = "umount -l /sys/fs/cgroup; exec \"$@\"";
    command.args(["-m", "sh", "-c", script, "sh"]).arg(lab.program("mcrun"));
    command.args(["attach", &format!("/run/netns/{id}"), "--mcast", "parent=lan0"]);
    assert_eq!(run(&mut command), "mc0\n");
    let shown = json(&mut lab.mcrun(["ps", "--json"]));
    let proxy = shown[0]["proxy"]["pid"].as_i64().expect("a proxy") as i32;
    assert_eq!(group(proxy), group(std::process::id().cast_signed()));
    let notices = shown[0]["notices"].to_string();
    assert!(notices.contains("no cgroup2 is mounted at /sys/fs/cgroup"), "{notices}");
}

/// `mcrun` where a group of the lab's is all that there is of cgroup2, so that no other test has proxies
/// in mcrun's group. The lab removes its own.
struct Hierarchy<'l> {
    lab: &'l Lab,
    mount: &'static str,
}

impl<'l> Hierarchy<'l> {
    fn new(lab: &'l Lab) -> Self {
        let is_alone = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let mount = if is_alone { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/unified" };
        let hierarchy = Hierarchy { lab, mount };
        fs::create_dir(hierarchy.root()).expect("a group");
        hierarchy
    }

    fn root(&self) -> PathBuf {
        Path::new(self.mount).join(self.lab.name("hierarchy"))
    }

    fn group(&self) -> PathBuf {
        self.root().join("mcrun")
    }

    fn mcrun(&self, arguments: &[&str]) -> String {
        let script = "echo $$ >\"$1/cgroup.procs\"; shift; exec unshare -m -C sh -c 'umount -l \
                      \"$0\" && mount -t cgroup2 none \"$0\" && exec \"$@\"' \"$@\"";
        let mut command = self.lab.enter("host", "sh");
        command.args(["-c", script, "sh"]).arg(self.root()).arg(self.mount);
        command.arg(self.lab.program("mcrun")).args(arguments);
        run(&mut command)
    }
}

impl Drop for Hierarchy<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_dir(self.group());
    }
}

#[test]
fn the_group_goes_with_gc_when_there_is_no_proxy() {
    let lab = Lab::new(3);
    lab.empty_namespace("blue");
    let hierarchy = Hierarchy::new(&lab);
    let path = format!("/run/netns/{}", lab.namespace("blue"));
    hierarchy.mcrun(&["attach", &path, "--mcast", "parent=lan0"]);
    let processes = || fs::read_to_string(hierarchy.group().join("cgroup.procs"));
    let count = || processes().map(|list| list.lines().count());
    assert_eq!(count().expect("the group"), 1);
    hierarchy.mcrun(&["gc"]);
    assert_eq!(count().expect("a group with a proxy stays"), 1);
    let shown = json(&mut lab.mcrun(["ps", "--json"]));
    hierarchy.mcrun(&["detach", shown[0]["container"].as_str().expect("an id")]);
    wait_until("the proxy ends", PATIENCE, || (count().ok() == Some(0)).then_some(()));
    hierarchy.mcrun(&["gc"]);
    assert!(!hierarchy.group().exists());
    // The next proxy makes it again.
    hierarchy.mcrun(&["attach", &path, "--mcast", "parent=lan0"]);
    assert_eq!(count().expect("the group"), 1);
    let shown = json(&mut lab.mcrun(["ps", "--json"]));
    hierarchy.mcrun(&["detach", shown[0]["container"].as_str().expect("an id")]);
    wait_until("the proxy ends", PATIENCE, || (count().ok() == Some(0)).then_some(()));
}
