//! The same for addresses of a pool: however often those are killed who attach and detach, no address is
//! had twice, and none is lost.

use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Target;
use super::checks;
use super::random::{Lengths, Random};
use super::stepper::{Moment, run_until};
use crate::lab::{Lab, PARENT, PATIENCE, json, output, run, wait_until};

const CONTAINERS: usize = 4;
/// Fewer than what the containers may have together, so that they meet.
const POOL: std::ops::RangeInclusive<u8> = 100..=105;
const MOST_OF_ONE: usize = 2;

struct Pool {
    lab: Lab,
    random: Random,
    targets: Vec<Target>,
    lengths: Lengths,
    started: usize,
    killed: usize,
    rounds: u64,
}

impl Pool {
    fn new(seed: u64) -> Pool {
        let lab = Lab::new(2);
        let range = format!("10.99.0.{}-10.99.0.{}", POOL.start(), POOL.end());
        let create = ["network", "create", "pool", "--mcast"];
        let keys = format!("parent={PARENT},ip=pool");
        let subnet = ["--subnet", "10.99.0.0/24", "--range", &range];
        run(lab.mcrun(create).arg(keys).args(subnet));
        let targets = (0..CONTAINERS).map(|_| Target::new(&lab)).collect();
        let (random, lengths) = (Random(seed | 1), Lengths::default());
        Pool { lab, random, targets, lengths, started: 0, killed: 0, rounds: 0 }
    }

    /// What is attached: interface and address, by container.
    fn shown(&self) -> Vec<(String, BTreeSet<String>, Vec<String>)> {
        let answer = json(&mut self.lab.mcrun(["ps", "--json"]));
        let entries = answer.as_array().expect("an array").iter();
        let each = entries.map(|entry| {
            let interfaces = entry["interfaces"].as_array().into_iter().flatten();
            let addresses =
                interfaces.flat_map(|i| i["addresses"].as_array().into_iter().flatten());
            let addresses = addresses.map(|a| a.as_str().expect("an address").to_owned());
            let id = entry["container"].as_str().expect("an id").to_owned();
            (id, checks::interfaces(entry), addresses.collect())
        });
        each.collect()
    }

    /// One command for each container, beside each other, most of them killed.
    fn round(&mut self) {
        self.rounds += 1;
        let before = self.shown();
        let mut actions = Vec::new();
        for target in &self.targets {
            let entry = before.iter().find(|(id, ..)| *id == target.id);
            let names: Vec<_> = entry.iter().flat_map(|(_, names, _)| names).collect();
            let attaches = names.is_empty() || (names.len() < MOST_OF_ONE && self.random.one_in(2));
            let (kind, command) = if attaches {
                // Half of them without a proxy, whose start takes most of the time.
                let spec = ["net=pool", "net=pool,igmp=off"][self.random.below(2) as usize];
                let pid = target.process.pid().to_string();
                let command = self.lab.mcrun(["attach", &pid, "--mcast", spec]);
                (format!("attach {spec} to {}", names.len()), command)
            } else {
                let mut command = self.lab.mcrun(["detach", &target.id]);
                if self.random.one_in(2) {
                    command.arg(names[self.random.below(names.len() as u64) as usize]);
                }
                (format!("detach of {}", names.len()), command)
            };
            let stop = self.lengths.moment(&kind, &mut self.random);
            actions.push((kind, command, stop));
        }
        let done: Vec<_> = thread::scope(|scope| {
            let running: Vec<_> = actions
                .iter_mut()
                .map(|(_, command, stop)| {
                    let moment = Moment { stop: stop.unwrap_or(u64::MAX), after: Duration::ZERO };
                    scope.spawn(move || run_until(command, None, moment))
                })
                .collect();
            running.into_iter().map(|r| r.join().expect("it has run")).collect()
        });
        for ((kind, _, stop), outcome) in actions.iter().zip(done) {
            self.started += usize::from(stop.is_some());
            self.killed += usize::from(outcome.is_killed);
            if !outcome.is_killed {
                self.lengths.learn(kind, outcome.stops);
            }
        }
        let what: Vec<_> = actions.iter().map(|(kind, _, stop)| (kind, stop)).collect();
        self.check(&format!("round {}, {what:?}", self.rounds));
    }

    /// After `mcrun gc` the records, the links, the claims and the leases agree.
    fn check(&self, context: &str) {
        run(&mut self.lab.mcrun(["gc"]));
        assert_eq!(run(&mut self.lab.mcrun(["gc"])), "", "{context}: gc again");
        let shown = self.shown();
        let state = self.lab.state_dir();
        let of_all: Vec<&String> = shown.iter().flat_map(|(.., addresses)| addresses).collect();
        let distinct: BTreeSet<_> = of_all.iter().copied().collect();
        assert_eq!(of_all.len(), distinct.len(), "{context}: an address twice: {of_all:?}");
        let addresses =
            of_all.iter().map(|net| format!("{PARENT}@{}", net.split('/').next().unwrap_or(net)));
        let claims = checks::names(&state.join("addresses"));
        assert_eq!(claims, addresses.collect(), "{context}: claims");
        let ids: BTreeSet<String> = shown.iter().map(|(id, ..)| id.clone()).collect();
        assert_eq!(checks::names(&state.join("containers")), ids, "{context}: directories");
        assert_eq!(
            checks::names(&state.join("pools/pool"))
                .into_iter()
                .filter(|n| n != "leases.json.new")
                .collect::<Vec<_>>(),
            ["leases.json"],
            "{context}"
        );
        let text = fs::read(state.join("pools/pool/leases.json")).expect("leases");
        let leases: Value = serde_json::from_slice(&text).expect("JSON");
        let leases = leases["leases"].as_array().expect("an array");
        let remembered: BTreeSet<_> = leases.iter().map(|l| l["address"].as_str()).collect();
        assert_eq!(remembered.len(), leases.len(), "{context}: a lease twice: {leases:?}");
        for target in &self.targets {
            let entry = shown.iter().find(|(id, ..)| *id == target.id);
            let (names, addresses) = entry
                .map(|(_, names, addresses)| (names.clone(), addresses.clone()))
                .unwrap_or_default();
            assert_eq!(target.links(), names, "{context}: links of {}", target.id);
            assert_eq!(inside(target), addresses.into_iter().collect(), "{context}: {}", target.id);
        }
    }

    /// Each address of the pool can be had, once.
    fn finish(mut self) {
        for (id, ..) in self.shown() {
            run(&mut self.lab.mcrun(["detach", &id]));
        }
        let count = POOL.count();
        self.targets.extend((self.targets.len()..=count).map(|_| Target::new(&self.lab)));
        let mut refused = 0;
        for target in &self.targets {
            let pid = target.process.pid().to_string();
            let attached =
                output(&mut self.lab.mcrun(["attach", &pid, "--mcast", "net=pool,igmp=off"]));
            let errors = String::from_utf8_lossy(&attached.stderr);
            match attached.status.success() {
                true => {}
                false if errors.contains("network pool has no free address") => refused += 1,
                false => panic!("{errors}"),
            }
        }
        assert_eq!(refused, self.targets.len() - count, "containers without an address");
        let shown = self.shown();
        let had: BTreeSet<_> = shown.iter().flat_map(|(.., addresses)| addresses.clone()).collect();
        let all: BTreeSet<_> = POOL.map(|last| format!("10.99.0.{last}/24")).collect();
        assert_eq!(had, all);
        for (id, ..) in shown {
            run(&mut self.lab.mcrun(["detach", &id]));
        }
        assert_eq!(checks::names(&self.lab.state_dir().join("addresses")), BTreeSet::new());
        self.targets.clear();
        run(&mut self.lab.mcrun(["network", "rm", "pool"]));
        let processes = || self.lab.host_processes();
        wait_until("no proxy is left", PATIENCE, || {
            (!processes().iter().any(|(_, line)| line.contains("mcrun-proxy"))).then_some(())
        });
        self.lab.assert_clean(PATIENCE);
    }
}

/// The IPv4 addresses that a container has, except those of its loopback interface.
fn inside(target: &Target) -> BTreeSet<String> {
    let links = json(target.command("ip").args(["-j", "-4", "addr", "show", "up"]));
    let links = links.as_array().expect("links").iter().filter(|link| link["ifname"] != "lo");
    let infos = links.flat_map(|link| link["addr_info"].as_array().into_iter().flatten());
    infos.map(|i| format!("{}/{}", i["local"].as_str().expect("local"), i["prefixlen"])).collect()
}

/// Kills so many, or until the time is over.
fn kill_so_many(seconds: u64, kills: usize) {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("after 1970");
    let seed = number("CHAOS_SEED").unwrap_or(since.as_nanos() as u64);
    let seconds = number("CHAOS_SECONDS").unwrap_or(seconds);
    let kills = number("CHAOS_KILLS").map_or(kills, |kills| kills as usize);
    println!("CHAOS_SEED={seed} CHAOS_SECONDS={seconds} CHAOS_KILLS={kills}");
    let begun = Instant::now();
    let mut pool = Pool::new(seed);
    while pool.killed < kills && begun.elapsed() < Duration::from_secs(seconds) {
        pool.round();
    }
    let Pool { rounds, started, killed, .. } = pool;
    println!("{rounds} rounds in {:?}: {killed} killed of {started}", begun.elapsed());
    assert!(started < 20 || killed * 2 > started, "too few kills have hit");
    pool.finish();
}

#[test]
fn addresses_of_a_pool_are_neither_lost_nor_doubled_by_kills() {
    kill_so_many(10, 500);
}

#[test]
#[ignore = "make chaos runs it for some minutes"]
fn five_hundred_kills_lose_and_double_no_address_of_a_pool() {
    kill_so_many(1200, 500);
}
