//! Every command may be killed at any instruction: `mcrun gc` then finds what was left, and leaves
//! what a record names.
//!
//! A round starts a command on one of a few containers and kills it at a random moment. Then
//! `mcrun gc` runs, and everything is compared with the records. The seed is printed;
//! `CHAOS_SEED` repeats a run as far as the machine's timing does. `make chaos` runs for
//! `CHAOS_SECONDS`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::lab::{
    Background, Bundle, Lab, PARENT, PATIENCE, Runtime, alive, json, kill, output, run, wait_until,
};

const CONTAINERS: usize = 3;

/// What is killed. A keeper would be one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    Hook,
    Poststop,
    Attach,
    Detach,
    Reload,
    Gc,
    Proxy,
    Runtime,
}

/// How often each is chosen.
const WEIGHTS: [(Victim, u64); 8] = [
    (Victim::Hook, 2),
    (Victim::Poststop, 2),
    (Victim::Attach, 6),
    (Victim::Detach, 6),
    (Victim::Reload, 6),
    (Victim::Gc, 3),
    (Victim::Proxy, 2),
    (Victim::Runtime, 1),
];

/// Xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit.max(1)
    }

    fn victim(&mut self) -> Victim {
        let mut number = self.below(WEIGHTS.iter().map(|(_, weight)| weight).sum());
        for (victim, weight) in WEIGHTS {
            if number < weight {
                return victim;
            }
            number -= weight;
        }
        Victim::Gc
    }
}

/// A process with a network namespace that stands for a container.
struct Target {
    process: Background,
    id: String,
}

impl Target {
    fn new(lab: &Lab) -> Target {
        let process = lab.namespace_holder();
        let id = format!("pid-{}", process.pid());
        Target { process, id }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.process.pid().to_string(), "--net", program]);
        command
    }

    /// Its links except the loopback interface.
    fn links(&self) -> BTreeSet<String> {
        let links = json(self.command("ip").args(["-j", "link"]));
        let names = links.as_array().expect("links").iter().filter_map(|l| l["ifname"].as_str());
        names.filter(|name| *name != "lo").map(str::to_owned).collect()
    }
}

struct Chaos {
    lab: Lab,
    random: Random,
    targets: Vec<Target>,
    bundle: Bundle,
    /// The longest time that each command has taken.
    longest: BTreeMap<Victim, Duration>,
    kills: BTreeMap<Victim, usize>,
    rounds: u64,
    dead: usize,
}

impl Chaos {
    fn new(seed: u64) -> Chaos {
        let lab = Lab::new(2);
        let mut bundle = Bundle::new(&lab, "c");
        bundle.add_hooks(&lab);
        bundle.annotate(&format!("parent={PARENT}"));
        let targets = (0..CONTAINERS).map(|_| Target::new(&lab)).collect();
        Chaos {
            lab,
            random: Random(seed | 1),
            targets,
            bundle,
            longest: BTreeMap::new(),
            kills: BTreeMap::new(),
            rounds: 0,
            dead: 0,
        }
    }

    /// What is attached: the entries of `mcrun ps --json` by id.
    fn ps(&self) -> BTreeMap<String, Value> {
        let answer = json(&mut self.lab.mcrun(["ps", "--json"]));
        let entries = answer.as_array().expect("an array").iter();
        entries.map(|e| (e["container"].as_str().expect("an id").to_owned(), e.clone())).collect()
    }

    fn round(&mut self) {
        self.rounds += 1;
        let victim = self.random.victim();
        let which = self.random.below(CONTAINERS as u64) as usize;
        let before = self.ps();
        let entry = before.get(&self.targets[which].id);
        let names: Vec<String> = entry
            .and_then(|entry| entry["interfaces"].as_array())
            .into_iter()
            .flatten()
            .filter_map(|interface| interface["name"].as_str().map(str::to_owned))
            .collect();
        let pid = self.targets[which].process.pid();
        let id = self.targets[which].id.clone();
        match victim {
            Victim::Attach if names.len() < 4 => {
                let spec = ["parent=lan0", "parent=lan0,ip=10.99.0.50/24", "parent=lan0,igmp=off"];
                let spec = spec[self.random.below(3) as usize];
                let command = self.lab.mcrun(["attach", &pid.to_string(), "--mcast", spec]);
                self.kill_one(victim, command, None);
            }
            Victim::Detach if !names.is_empty() => {
                let mut command = self.lab.mcrun(["detach", &id]);
                if self.random.below(3) > 0 {
                    command.arg(&names[self.random.below(names.len() as u64) as usize]);
                }
                self.kill_one(victim, command, None);
            }
            Victim::Reload => {
                let limit = 10 + self.rounds % 100;
                self.lab.configure(&format!("[groups]\nmax-groups = {limit}\n"));
                let command = self.lab.mcrun(["reload"]);
                self.kill_one(victim, command, None);
            }
            Victim::Hook if names.is_empty() => {
                let state = self.lab.state(&id, pid, &self.bundle.path, Some("parent=lan0"));
                let mut command = self.lab.enter("host", env!("CARGO_BIN_EXE_mcrun-hook"));
                command.arg("createRuntime");
                self.kill_one(victim, command, Some(state));
            }
            Victim::Poststop => {
                kill(pid);
                wait_until("the container ends", PATIENCE, || (!alive(pid)).then_some(()));
                let state = self.lab.state(&id, 0, &self.bundle.path, None);
                let mut command = self.lab.enter("host", env!("CARGO_BIN_EXE_mcrun-hook"));
                command.arg("poststop");
                self.kill_one(victim, command, Some(state));
                self.targets[which] = Target::new(&self.lab);
            }
            Victim::Gc => {
                let command = self.lab.mcrun(["gc"]);
                self.kill_one(victim, command, None);
            }
            Victim::Proxy => {
                if let Some(proxy) = entry.and_then(|entry| entry["proxy"]["pid"].as_i64()) {
                    kill(proxy as i32);
                    let ended = || (!alive(proxy as i32)).then_some(());
                    wait_until("the proxy ends", PATIENCE, ended);
                    *self.kills.entry(victim).or_default() += 1;
                }
            }
            Victim::Runtime => {
                self.bundle.write();
                let name = self.lab.name(&format!("r{}", self.rounds));
                let mut command = Runtime::Runc.command(&self.lab, ["run", "--detach", "--bundle"]);
                command.arg(&self.bundle.path).arg(&name);
                self.kill_one(victim, command, None);
                let mut delete = Runtime::Runc.command(&self.lab, ["delete", "--force", &name]);
                output(&mut delete);
                // A hook that the runtime had started may still run.
                wait_until("the runtime's processes end", PATIENCE, || {
                    let processes = self.lab.host_processes();
                    let busy = |line: &str| line.contains("runc") || line.contains("mcrun-hook");
                    (!processes.iter().any(|(_, line)| busy(line))).then_some(())
                });
            }
            _ => return,
        }
        self.check(victim);
    }

    /// Starts a command and kills it at a random moment of the time that it takes.
    fn kill_one(&mut self, victim: Victim, mut command: Command, input: Option<String>) {
        let longest = self.longest.get(&victim).copied().unwrap_or(Duration::from_millis(60));
        let delay = Duration::from_nanos(self.random.below(longest.as_nanos() as u64));
        let begun = Instant::now();
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
        let mut child: Child = command.stdin(stdin).spawn().expect("the command starts");
        if let (Some(text), Some(mut pipe)) = (input, child.stdin.take()) {
            let _ = pipe.write_all(text.as_bytes());
        }
        // The moment is what the test is about: there is no event to wait for.
        std::thread::sleep(delay.saturating_sub(begun.elapsed()));
        let _ = child.kill();
        let status = child.wait().expect("the command ends");
        if status.signal() == Some(libc::SIGKILL) {
            *self.kills.entry(victim).or_default() += 1;
        } else {
            // It was done before. The next one is killed earlier, and now and then later again.
            let taken = begun.elapsed() + Duration::from_millis(self.random.below(20));
            let next = (longest + taken) / 2;
            self.longest.insert(victim, next);
        }
    }

    fn check(&mut self, victim: Victim) {
        let context = format!("round {} after the kill of {victim:?}", self.rounds);
        let first = output(&mut self.lab.mcrun(["gc"]));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(first.status.success(), "{context}: gc: {}", text(&first.stderr));
        let again = output(&mut self.lab.mcrun(["gc"]));
        assert!(again.status.success(), "{context}: gc again: {}", text(&again.stderr));
        assert_eq!(text(&again.stdout), "", "{context}: gc again, after {}", text(&first.stdout));

        let shown = self.ps();
        let known: BTreeSet<&String> = self.targets.iter().map(|target| &target.id).collect();
        let strangers: Vec<_> = shown.keys().filter(|id| !known.contains(id)).collect();
        assert!(strangers.is_empty(), "{context}: {strangers:?}");
        let directories = fs::read_dir(self.lab.state_dir().join("containers"));
        let directories: BTreeSet<String> = directories
            .into_iter()
            .flatten()
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        let shown_ids: BTreeSet<String> = shown.keys().cloned().collect();
        assert_eq!(directories, shown_ids, "{context}: directories and attached containers");

        let (mut served, mut silent) = (BTreeSet::new(), BTreeSet::new());
        for target in &self.targets {
            let entry = shown.get(&target.id);
            let interfaces = entry.and_then(|entry| entry["interfaces"].as_array());
            let recorded: BTreeSet<String> = interfaces
                .into_iter()
                .flatten()
                .map(|interface| interface["name"].as_str().expect("a name").to_owned())
                .collect();
            assert_eq!(target.links(), recorded, "{context}: links of {}: {entry:?}", target.id);
            let Some(entry) = entry else { continue };
            match entry["proxy"]["state"].as_str().expect("a state") {
                "running" | "degraded" | "waiting" => {
                    let rules = run(target.command("nft").args(["list", "ruleset"]));
                    assert!(rules.contains("igmp"), "{context}: {}: no rules", target.id);
                    served.insert(entry["proxy"]["pid"].as_i64().expect("a pid") as i32);
                }
                "off" => {}
                // It is about to end if its launcher was killed after it was recorded.
                "silent" => {
                    silent.insert(entry["proxy"]["pid"].as_i64().expect("a pid") as i32);
                    self.dead += 1;
                }
                "dead" => self.dead += 1,
                state => panic!("{context}: {state}: {entry}"),
            }
        }
        // One that nobody has told to stay ends by itself.
        wait_until(&format!("{context}: other proxies than {served:?} end"), PATIENCE, || {
            let processes = self.lab.host_processes();
            let proxies = processes.into_iter().filter(|(_, line)| line.contains("mcrun-proxy"));
            let proxies: BTreeSet<i32> = proxies.map(|(pid, _)| pid).collect();
            let known = |proxy: &i32| served.contains(proxy) || silent.contains(proxy);
            (served.is_subset(&proxies) && proxies.iter().all(known)).then_some(())
        });
    }

    /// All that is left is taken away by the commands themselves.
    fn finish(mut self) {
        println!(
            "{} rounds, killed: {:?}, containers shown without a proxy that answers: {}",
            self.rounds, self.kills, self.dead
        );
        self.lab.configure("");
        run(&mut self.lab.mcrun(["reload"]));
        for (id, entry) in self.ps() {
            let state = entry["proxy"]["state"].as_str().expect("a state");
            assert!(["running", "off"].contains(&state), "{id} after reload: {entry}");
            run(&mut self.lab.mcrun(["detach", &id]));
        }
        for target in &self.targets {
            assert_eq!(target.links(), BTreeSet::new());
        }
        self.targets.clear();
        self.lab.assert_clean(PATIENCE);
    }
}

fn chaos(seconds: u64) {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("after 1970");
    let seed: u64 = number("CHAOS_SEED").unwrap_or(since.as_nanos() as u64);
    let seconds = number("CHAOS_SECONDS").unwrap_or(seconds);
    println!("CHAOS_SEED={seed} CHAOS_SECONDS={seconds}");
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut chaos = Chaos::new(seed);
    while Instant::now() < end {
        chaos.round();
    }
    chaos.finish();
}

#[test]
fn commands_that_are_killed_leave_nothing_that_gc_does_not_find() {
    chaos(20);
}

#[test]
#[ignore = "make chaos runs it for twenty minutes"]
fn commands_that_are_killed_for_twenty_minutes_leave_nothing() {
    chaos(1200);
}
