//! Every command may be killed at any instruction, and so may the keeper and every proxy: `mcrun gc`
//! then finds what was left, and leaves what a record names.
//!
//! In a round, commands run beside each other on some containers, and each is killed at a random
//! system call or a random time after it. Meanwhile the keeper or a proxy is killed. Then everything
//! is compared with the records. The seed is printed; `CHAOS_SEED` repeats a run as far as the
//! machine's timing does. `make chaos` runs until each has been killed `CHAOS_KILLS` times before
//! its end, `CHAOS_SECONDS` at the most.

mod checks;
mod pool;
pub mod random;
pub mod stepper;

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use self::random::{Lengths, Random};
use self::stepper::{Moment, run_until};
use crate::lab::{
    Background, Bundle, Lab, PARENT, PATIENCE, Runtime, alive, json, kill, output, run, wait_until,
};

const CONTAINERS: usize = 3;
/// A command runs on for less than this time after the system call that was chosen.
const RUNS_ON: u64 = 1500;
/// The keeper is killed within this time, in microseconds, after a proxy: it replaces that meanwhile.
const REPLACEMENT: u64 = 40_000;

/// What is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    Hook,
    Poststop,
    Attach,
    Detach,
    Reload,
    Gc,
    Runtime,
    Proxy,
    Keeper,
}

impl Victim {
    const ALL: [Victim; 9] = [
        Victim::Hook,
        Victim::Poststop,
        Victim::Attach,
        Victim::Detach,
        Victim::Reload,
        Victim::Gc,
        Victim::Runtime,
        Victim::Proxy,
        Victim::Keeper,
    ];
}

/// How often a victim was started to be killed, and killed before its end.
#[derive(Default)]
struct Count {
    started: usize,
    killed: usize,
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
}

/// A command of one round.
struct Action {
    victim: Victim,
    /// Of which commands of this victim's it is one: some are longer than others.
    kind: String,
    command: Command,
    input: Option<String>,
    /// `None`: it runs to its end.
    moment: Option<Moment>,
}

/// What became of it.
struct Done {
    is_killed: bool,
    /// Stops, or microseconds of what is not stepped.
    length: u64,
}

impl Action {
    fn run(&mut self) -> Done {
        if self.victim == Victim::Runtime {
            return self.run_for_a_time();
        }
        let to_the_end = Moment { stop: u64::MAX, after: Duration::ZERO };
        let moment = self.moment.unwrap_or(to_the_end);
        let outcome = run_until(&mut self.command, self.input.as_deref(), moment);
        Done { is_killed: outcome.is_killed, length: outcome.stops }
    }

    /// A runtime starts processes that are its own as much as it is, and is not stepped.
    fn run_for_a_time(&mut self) -> Done {
        let begun = Instant::now();
        self.command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = self.command.spawn().expect("the command starts");
        if let Some(moment) = self.moment {
            // The moment is what the test is about: there is no event to wait for.
            thread::sleep(Duration::from_micros(moment.stop).saturating_sub(begun.elapsed()));
            let _ = child.kill();
        }
        let status = child.wait().expect("the command ends");
        let length = begun.elapsed().as_micros() as u64;
        Done { is_killed: status.signal() == Some(libc::SIGKILL), length }
    }
}

struct Chaos {
    lab: Lab,
    random: Random,
    targets: Vec<Target>,
    bundle: Bundle,
    keeper: Background,
    /// Descriptors of a keeper that holds nothing.
    idle_descriptors: usize,
    lengths: Lengths,
    counts: BTreeMap<Victim, Count>,
    /// Kills that are wanted of each.
    wanted: usize,
    rounds: u64,
}

impl Chaos {
    fn new(seed: u64, wanted: usize) -> Chaos {
        let lab = Lab::new(2);
        let mut bundle = Bundle::new(&lab, "c");
        bundle.add_hooks(&lab);
        bundle.annotate(&format!("parent={PARENT}"));
        bundle.write();
        let targets = (0..CONTAINERS).map(|_| Target::new(&lab)).collect();
        let keeper = keeper(&lab);
        let socket = lab.state_dir().join("keeper.sock");
        wait_until("the keeper listens", PATIENCE, || socket.exists().then_some(()));
        let idle_descriptors = checks::idle_descriptors(keeper.pid());
        let counts = Victim::ALL.map(|victim| (victim, Count::default())).into();
        Chaos {
            lab,
            random: Random(seed | 1),
            targets,
            bundle,
            keeper,
            idle_descriptors,
            lengths: Lengths::default(),
            counts,
            wanted,
            rounds: 0,
        }
    }

    /// How many kills of a victim are still wanted.
    fn missing(&self, victim: Victim) -> u64 {
        self.wanted.saturating_sub(self.counts[&victim].killed) as u64
    }

    fn is_done(&self) -> bool {
        Victim::ALL.iter().all(|victim| self.missing(*victim) == 0)
    }

    /// What is attached: the entries of `mcrun ps --json` by id.
    fn ps(&self) -> BTreeMap<String, Value> {
        let answer = json(&mut self.lab.mcrun(["ps", "--json"]));
        let entries = answer.as_array().expect("an array").iter();
        entries.map(|e| (e["container"].as_str().expect("an id").to_owned(), e.clone())).collect()
    }

    fn round(&mut self) {
        self.rounds += 1;
        let before = self.ps();
        let mut actions: Vec<Action> = Vec::new();
        let mut ended = Vec::new();
        for which in 0..CONTAINERS {
            let entry = before.get(&self.targets[which].id);
            let is_possible = |victim: Victim| match victim {
                Victim::Hook => entry.is_none(),
                Victim::Attach => entry.is_none_or(|entry| names(entry).len() < 4),
                Victim::Detach | Victim::Poststop => entry.is_some(),
                Victim::Reload | Victim::Gc | Victim::Runtime => {
                    actions.iter().all(|action| action.victim != victim)
                }
                Victim::Proxy | Victim::Keeper => false,
            };
            let possible = Victim::ALL.into_iter().filter(|victim| is_possible(*victim));
            let weights: Vec<_> = possible.map(|victim| (victim, self.missing(victim))).collect();
            // Something must be attached, so that it can be detached.
            let prepares = weights.iter().all(|(_, weight)| *weight == 0)
                || entry.is_none() && self.random.one_in(3);
            let victim = match self.random.weighted(&weights) {
                Some(victim) if !prepares => victim,
                _ if entry.is_none() => Victim::Attach,
                _ => Victim::Detach,
            };
            if victim == Victim::Poststop {
                let pid = self.targets[which].process.pid();
                kill(pid);
                wait_until("the container ends", PATIENCE, || (!alive(pid)).then_some(()));
                ended.push(which);
            }
            let mut action = self.action(victim, which, &before);
            if prepares {
                action.moment = None;
            }
            actions.push(action);
        }
        let context = format!(
            "round {}, {:?}",
            self.rounds,
            actions.iter().map(|action| (&action.kind, action.moment)).collect::<Vec<_>>()
        );
        thread::scope(|scope| {
            let running: Vec<_> = actions.iter_mut().map(|a| scope.spawn(|| a.run())).collect();
            self.kill_beside();
            let done: Vec<_> = running.into_iter().map(|r| r.join().expect("it has run")).collect();
            done
        })
        .iter()
        .zip(&actions)
        .for_each(|(done, action)| {
            let count = self.counts.get_mut(&action.victim).expect("a count");
            count.started += usize::from(action.moment.is_some());
            count.killed += usize::from(done.is_killed);
            if !done.is_killed {
                self.lengths.learn(&action.kind, done.length);
            }
        });
        for which in ended {
            self.targets[which] = Target::new(&self.lab);
        }
        if actions.iter().any(|action| action.victim == Victim::Runtime) {
            self.delete_container();
        }
        self.check(&context);
    }

    /// A command for one of the containers, whose entry of `mcrun ps --json` is among `before`.
    fn action(&mut self, victim: Victim, which: usize, before: &BTreeMap<String, Value>) -> Action {
        let entry = before.get(&self.targets[which].id);
        let Target { id, process } = &self.targets[which];
        let pid = process.pid();
        let names = entry.map(names).unwrap_or_default();
        let mut kind = format!("{victim:?}");
        let mut input = None;
        let hook = |stage: &str| {
            let mut command = self.lab.enter("host", env!("CARGO_BIN_EXE_mcrun-hook"));
            command.arg(stage);
            command
        };
        let command = match victim {
            Victim::Hook => {
                input = Some(self.lab.state(id, pid, &self.bundle.path, Some("parent=lan0")));
                hook("createRuntime")
            }
            Victim::Poststop => {
                input = Some(self.lab.state(id, 0, &self.bundle.path, None));
                hook("poststop")
            }
            Victim::Attach => {
                let address = 20 + which as u64 * 60 + self.rounds % 60;
                let with_address = format!("parent=lan0,ip=10.99.0.{address}/24");
                let specs = ["parent=lan0", &with_address, "parent=lan0,igmp=off"];
                let spec = self.random.below(3) as usize;
                kind += &format!(" of {spec} to {}", names.len().min(1));
                self.lab.mcrun(["attach", &pid.to_string(), "--mcast", specs[spec]])
            }
            Victim::Detach => {
                let mut command = self.lab.mcrun(["detach", id]);
                if self.random.below(3) > 0 {
                    command.arg(&names[self.random.below(names.len() as u64) as usize]);
                    kind += &format!(" of one of {}", names.len().min(2));
                }
                command
            }
            Victim::Reload => {
                let limit = 10 + self.rounds % 100;
                self.lab.configure(&format!("[groups]\nmax-groups = {limit}\n"));
                kind += &format!(" of {}", before.len());
                self.lab.mcrun(["reload"])
            }
            Victim::Gc => self.lab.mcrun(["gc"]),
            Victim::Runtime => {
                let arguments = ["run", "--detach", "--bundle"];
                let mut command = Runtime::Runc.command(&self.lab, arguments);
                command.arg(&self.bundle.path).arg(self.runtime_container());
                command
            }
            Victim::Proxy | Victim::Keeper => unreachable!("not a command"),
        };
        let moment = self.lengths.moment(&kind, &mut self.random).map(|stop| Moment {
            stop,
            after: match self.random.one_in(2) {
                true => Duration::from_micros(self.random.below(RUNS_ON)),
                false => Duration::ZERO,
            },
        });
        Action { victim, kind, command, input, moment }
    }

    /// Kills the keeper, a proxy, or both, while commands run.
    fn kill_beside(&mut self) {
        let weights = [
            (Some(Victim::Proxy), self.missing(Victim::Proxy)),
            (Some(Victim::Keeper), self.missing(Victim::Keeper)),
            (None, self.wanted as u64 / 4),
        ];
        let Some(Some(victim)) = self.random.weighted(&weights) else { return };
        // The moment is what the test is about: there is no event to wait for.
        let mut wait = |limit| thread::sleep(Duration::from_micros(self.random.below(limit)));
        wait(REPLACEMENT);
        if victim == Victim::Proxy {
            return self.kill_proxy();
        }
        if self.random.one_in(2) {
            self.kill_proxy();
            thread::sleep(Duration::from_micros(self.random.below(REPLACEMENT)));
        }
        self.kill_keeper();
        // One that has just begun to pull may be killed too.
        if self.random.one_in(4) {
            thread::sleep(Duration::from_micros(self.random.below(REPLACEMENT)));
            self.kill_keeper();
        }
    }

    fn kill_proxy(&mut self) {
        let processes = self.lab.host_processes();
        let proxies = processes.iter().filter(|(_, line)| line.contains("mcrun-proxy"));
        let proxies: Vec<_> = proxies.map(|(pid, _)| (*pid, 1)).collect();
        let Some(proxy) = self.random.weighted(&proxies) else { return };
        let count = self.counts.get_mut(&Victim::Proxy).expect("a count");
        count.started += 1;
        count.killed += usize::from(alive(proxy));
        kill(proxy);
    }

    fn kill_keeper(&mut self) {
        let count = self.counts.get_mut(&Victim::Keeper).expect("a count");
        count.started += 1;
        count.killed += usize::from(alive(self.keeper.pid()));
        self.keeper.signal(libc::SIGKILL);
        self.keeper.wait(PATIENCE);
        self.keeper = keeper(&self.lab);
    }

    fn runtime_container(&self) -> String {
        self.lab.name(&format!("r{}", self.rounds))
    }

    /// Ends what the runtime has started. A hook of it may still run after that.
    fn delete_container(&self) {
        let name = self.runtime_container();
        let mut delete = Runtime::Runc.command(&self.lab, ["delete", "--force", &name]);
        output(&mut delete);
        // A runtime that was killed early does not know its container, which may have begun to run.
        for entry in self.ps().values().filter(|entry| entry["name"] == name) {
            let pid = entry["pid"].as_i64().expect("a pid") as i32;
            kill(pid);
            wait_until("the container ends", PATIENCE, || (!alive(pid)).then_some(()));
        }
        wait_until("the runtime's processes end", PATIENCE, || {
            let processes = self.lab.host_processes();
            let busy = |line: &str| line.contains("runc") || line.contains("mcrun-hook");
            (!processes.iter().any(|(_, line)| busy(line))).then_some(())
        });
    }

    /// Shows how often each was killed.
    fn tell(&self) {
        println!("{} rounds\n{:<10} {:>8} {:>8}", self.rounds, "victim", "started", "killed");
        for (victim, Count { started, killed }) in &self.counts {
            println!("{:<10} {started:>8} {killed:>8}", format!("{victim:?}").to_lowercase());
        }
    }
}

fn keeper(lab: &Lab) -> Background {
    Background::start(
        lab.mcrun(["keep", "--stable-after", "1ms"]).stdout(Stdio::null()).stderr(Stdio::null()),
    )
}

/// The names of the interfaces of an entry of `mcrun ps --json`.
fn names(entry: &Value) -> Vec<String> {
    checks::interfaces(entry).into_iter().collect()
}

/// Kills until each victim has been killed so many times before its end, or the time is over.
fn chaos(seconds: u64, kills: u64) {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("after 1970");
    let seed: u64 = number("CHAOS_SEED").unwrap_or(since.as_nanos() as u64);
    let seconds = number("CHAOS_SECONDS").unwrap_or(seconds);
    let kills = number("CHAOS_KILLS").unwrap_or(kills);
    println!("CHAOS_SEED={seed} CHAOS_SECONDS={seconds} CHAOS_KILLS={kills}");
    let begun = Instant::now();
    let mut chaos = Chaos::new(seed, kills as usize);
    while !chaos.is_done() && begun.elapsed() < Duration::from_secs(seconds) {
        chaos.round();
        if chaos.rounds.is_multiple_of(100) {
            println!("{:?} gone", begun.elapsed());
            chaos.tell();
        }
    }
    chaos.tell();
    for (victim, Count { started, killed }) in &chaos.counts {
        assert!(*started < 20 || killed * 2 > *started, "{victim:?}: too few kills have hit");
    }
    chaos.finish();
}

#[test]
fn commands_that_are_killed_leave_nothing_that_gc_does_not_find() {
    chaos(10, 500);
}

#[test]
#[ignore = "make chaos runs it for up to forty minutes"]
fn everything_is_killed_five_hundred_times_and_leaves_nothing() {
    chaos(2400, 500);
}
