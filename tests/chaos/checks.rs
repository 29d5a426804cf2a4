//! What must be true after each round, whatever was killed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Chaos, Target};
use crate::lab::{PARENT, PATIENCE, alive, json, output, wait_until};

/// What there is in the state directory.
const IN_STATE_DIR: [&str; 7] = [
    "addresses",
    "bundles",
    "containers",
    "keeper.lock",
    "keeper.sock",
    "proxy-users",
    // A hook may be refused what a killed command has not given back yet.
    "refusals.jsonl",
];
/// What there is in a container's directory. The last two are of a program that was killed, or is
/// about to put them in their place.
const IN_CONTAINER_DIR: [&str; 5] =
    ["control.sock", "proxy.log", "record.json", "record.json.new", "control.sock.new"];

impl Chaos {
    /// Compares everything with the records.
    pub(super) fn check(&mut self, context: &str) {
        assert!(alive(self.keeper.pid()), "{context}: the keeper has ended");
        let removed = self.gc(context);
        let again = self.gc(context);
        assert_eq!(again, "", "{context}: gc again, after {removed}");
        let shown = self.settled(context);
        assert_eq!(self.gc(context), "", "{context}: gc, when all is settled");

        let known: BTreeSet<&String> = self.targets.iter().map(|target| &target.id).collect();
        let strangers: Vec<_> = shown.keys().filter(|id| !known.contains(id)).collect();
        assert!(strangers.is_empty(), "{context}: {strangers:?}");
        let state_dir = self.lab.state_dir();
        let unknown: Vec<_> = names(&state_dir).into_iter().filter(not_in(&IN_STATE_DIR)).collect();
        assert!(unknown.is_empty(), "{context}: {unknown:?} in the state directory");
        let directories = names(&state_dir.join("containers"));
        let shown_ids: BTreeSet<String> = shown.keys().cloned().collect();
        assert_eq!(directories, shown_ids, "{context}: directories and attached containers");
        for id in directories {
            let files = names(&state_dir.join("containers").join(&id));
            let unknown: Vec<_> = files.into_iter().filter(not_in(&IN_CONTAINER_DIR)).collect();
            assert!(unknown.is_empty(), "{context}: {unknown:?} in the directory of {id}");
        }
        let group = Path::new("/sys/fs/cgroup/unified/mcrun");
        let below = names(group).into_iter().filter(|name| group.join(name).is_dir());
        assert_eq!(below.collect::<Vec<_>>(), Vec::<String>::new(), "{context}: control groups");

        let shown_interfaces =
            shown.values().flat_map(|entry| entry["interfaces"].as_array().into_iter().flatten());
        let addresses: BTreeSet<String> = shown_interfaces
            .flat_map(|interface| interface["addresses"].as_array().into_iter().flatten())
            .filter_map(|address| address.as_str()?.split('/').next())
            .map(|address| format!("{PARENT}@{address}"))
            .collect();
        assert_eq!(names(&state_dir.join("addresses")), addresses, "{context}: claims");

        for target in &self.targets {
            let interfaces = shown.get(&target.id).map(interfaces).unwrap_or_default();
            assert_eq!(target.links(), interfaces, "{context}: links of {}", target.id);
        }
    }

    /// `mcrun gc`, which succeeds; what it prints.
    fn gc(&self, context: &str) -> String {
        let output = output(&mut self.lab.mcrun(["gc"]));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{context}: gc: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Waits until the keeper has replaced all dead proxies and holds for all living ones, each has
    /// its rules, and there are no others. The entries of `mcrun ps --json` by id.
    fn settled(&self, context: &str) -> BTreeMap<String, Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.what_is_unsettled() {
                Ok(shown) => return shown,
                Err(why) => assert!(Instant::now() < deadline, "{context}: {why}"),
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn what_is_unsettled(&self) -> Result<BTreeMap<String, Value>, String> {
        let shown = self.ps();
        let mut serving = BTreeSet::new();
        for target in &self.targets {
            let entry = shown.get(&target.id);
            let proxy = entry.map(|entry| &entry["proxy"]).filter(|proxy| proxy["state"] != "off");
            if let Some(proxy) = proxy {
                if proxy["state"] != "running" || proxy["held"] != true {
                    return Err(format!("{}: {proxy}", target.id));
                }
                serving.insert(proxy["pid"].as_i64().expect("a pid") as i32);
            }
            let tables = target.tables();
            let is_ruled = |family: &str| {
                tables.iter().filter(|table| table.0 == family && table.1 != "mcrun-frames").count()
            };
            let wanted = usize::from(proxy.is_some());
            if is_ruled("ip") != wanted || is_ruled("netdev") != wanted {
                return Err(format!("{}: {proxy:?} has the tables {tables:?}", target.id));
            }
        }
        let processes = self.lab.host_processes();
        let proxies = processes.into_iter().filter(|(_, line)| line.contains("mcrun-proxy"));
        let proxies: BTreeSet<i32> = proxies.map(|(pid, _)| pid).collect();
        if proxies != serving {
            return Err(format!("proxies {proxies:?} run, and {serving:?} serve"));
        }
        Ok(shown)
    }

    /// All that is left is taken away by the commands themselves.
    pub(super) fn finish(mut self) {
        self.lab.configure("");
        super::run(&mut self.lab.mcrun(["reload"]));
        for id in self.ps().keys() {
            super::run(&mut self.lab.mcrun(["detach", id]));
        }
        for target in &self.targets {
            assert_eq!(target.links(), BTreeSet::new());
        }
        wait_until("the keeper holds nothing", PATIENCE, || {
            (descriptors(self.keeper.pid()) <= self.idle_descriptors).then_some(())
        });
        self.targets.clear();
        self.keeper.signal(libc::SIGTERM);
        self.keeper.wait(PATIENCE);
        self.lab.assert_clean(PATIENCE);
    }
}

impl Target {
    /// Its links except the loopback interface.
    pub(super) fn links(&self) -> BTreeSet<String> {
        let links = json(self.command("ip").args(["-j", "link"]));
        let names = links.as_array().expect("links").iter().filter_map(|l| l["ifname"].as_str());
        names.filter(|name| *name != "lo").map(str::to_owned).collect()
    }

    /// Family and name of each of its nf_tables tables.
    fn tables(&self) -> Vec<(String, String)> {
        let text = super::run(self.command("nft").args(["list", "tables"]));
        let words = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        words.map(|words| (words[1].to_owned(), words[2].to_owned())).collect()
    }
}

/// How many descriptors a keeper has open that has just begun. Its threads open them in any order, and
/// tell nobody: it has all of them when it has its history, and for half a second no other one comes.
pub(super) fn idle_descriptors(keeper: i32) -> usize {
    let has_history = || {
        let directory = PathBuf::from(format!("/proc/{keeper}/fd"));
        let mut files =
            names(&directory).into_iter().map(|name| fs::read_link(directory.join(name)));
        files.any(|file| file.is_ok_and(|file| file.ends_with("events.jsonl"))).then_some(())
    };
    wait_until("the keeper has its history", PATIENCE, has_history);
    let (mut last, mut since) = (descriptors(keeper), Instant::now());
    wait_until("the keeper opens nothing more", PATIENCE, || {
        let now = descriptors(keeper);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        (since.elapsed() >= Duration::from_millis(500)).then_some(now)
    })
}

/// How many descriptors a process has open.
fn descriptors(pid: i32) -> usize {
    names(Path::new(&format!("/proc/{pid}/fd"))).len()
}

pub(super) fn interfaces(entry: &Value) -> BTreeSet<String> {
    let interfaces = entry["interfaces"].as_array().into_iter().flatten();
    interfaces.map(|interface| interface["name"].as_str().expect("a name").to_owned()).collect()
}

/// The names in a directory; none if there is no such directory.
pub(super) fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn not_in(known: &[&str]) -> impl Fn(&String) -> bool {
    move |name| !known.contains(&name.as_str())
}
