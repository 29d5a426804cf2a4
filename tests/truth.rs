//! What `mcrun groups` says is true: a group is shown as joined exactly where the host's kernel has
//! joined it and the switch forwards it, whatever has happened to the host's link, its addresses, its
//! firewall and the proxies.
//!
//! The seed is printed; `TRUTH_SEED` repeats a run as far as the machine's timing does.
//! `TRUTH_DISTURBANCES` sets how much happens, and `TRUTH_LIMIT` how many milliseconds it may take
//! until everything is true again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant, SystemTime};

use crate::chaos::random::Random;
use crate::keeper::keeper;
use crate::lab::{
    Background, Container, HOST, Lab, PARENT, PATIENCE, SOURCES, Udp, alive, json, kill, output,
    run, wait_until,
};

const PORT: u16 = 6000;
/// Other names of the LAN interface, on the host and in another namespace.
const OTHER_NAME: &str = "wan0";
const AWAY: &str = "lan7";
/// The address that is added to it.
const OTHER_ADDRESS: &str = "10.99.0.77/24";
/// What the containers join: groups from whatever source, and channels.
const GROUPS: u8 = 4;
const CHANNELS: u8 = 3;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

/// A group from whatever source, or from one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Wanted(Ipv4Addr, Option<Ipv4Addr>);

impl fmt::Debug for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Some(source) => write!(f, "{}@{source}", self.0),
            None => write!(f, "{}", self.0),
        }
    }
}

/// A container and what its application wants.
struct Member {
    container: Container,
    interface: &'static str,
    /// The link's index: a new one knows nothing of what was joined.
    index: u64,
    sockets: BTreeMap<Wanted, Udp>,
}

impl Member {
    fn join(&mut self, wanted: Wanted) {
        let socket = self.container.socket_on(self.interface, PORT);
        match wanted.1 {
            Some(source) => socket.join_source(wanted.0, source),
            None => socket.join(wanted.0),
        }
        self.sockets.insert(wanted, socket);
    }

    fn index(&self) -> Option<u64> {
        let found = output(self.container.enter("ip").args(["-j", "link", "show", self.interface]));
        let links: serde_json::Value = serde_json::from_slice(&found.stdout).ok()?;
        links[0]["ifindex"].as_u64()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Firewall {
    None,
    Input,
    Output,
}

/// What happens.
#[derive(Debug, Clone, Copy)]
enum Disturbance {
    Down,
    Up,
    CarrierLost,
    CarrierBack,
    Unplugged,
    PluggedIn,
    TakenAway,
    BroughtBack,
    Renamed,
    AddressAdded,
    AddressRemoved,
    OtherMac,
    OtherMtu,
    Loaded(Firewall),
    Killed(usize),
    Reloaded,
    Changed(usize, Wanted),
}

struct World {
    lab: Lab,
    _keeper: Background,
    /// Has the host's kernel show all source lists.
    _lists: socket2::Socket,
    members: Vec<Member>,
    /// The name of the LAN interface; none: it is unplugged.
    link: Option<&'static str>,
    is_away: bool,
    is_up: bool,
    has_carrier: bool,
    has_other_address: bool,
    macs: u8,
    firewall: Firewall,
    /// What was left while nothing could be sent: the switch forwards it until its timer ends.
    unsaid: BTreeSet<Wanted>,
    history: Vec<Disturbance>,
}

impl World {
    fn new() -> World {
        let lab = Lab::new(3);
        lab.add_bridge();
        let keeper = keeper(&lab);
        let child = lab.start_with("child", &["parent=lan0,ip=10.99.0.11/24"], &[]);
        let relayed = lab.start_with("relayed", &["parent=lan0,driver=relay"], &[]);
        lab.plug(&relayed, 10);
        let members = [(child, "mc0"), (relayed, "eth0")].map(|(container, interface)| {
            lab.wait_held(&container);
            let sockets = BTreeMap::new();
            Member { container, interface, index: 0, sockets }
        });
        let mut world = World {
            _lists: lab.show_all_lists(),
            lab,
            _keeper: keeper,
            members: members.into(),
            link: Some(PARENT),
            is_away: false,
            is_up: true,
            has_carrier: true,
            has_other_address: false,
            macs: 0,
            firewall: Firewall::None,
            unsaid: BTreeSet::new(),
            history: Vec::new(),
        };
        for member in &mut world.members {
            member.index = member.index().expect("a link");
            for wanted in [channel(0), group(0)] {
                member.join(wanted);
            }
        }
        world
    }

    /// The LAN interface is in the host's namespace.
    fn is_there(&self) -> bool {
        self.link.is_some() && !self.is_away
    }

    fn is_connected(&self) -> bool {
        self.is_there() && self.is_up && self.has_carrier
    }

    /// Something that can happen now.
    fn choose(&self, random: &mut Random) -> Disturbance {
        use Disturbance::*;
        let member = random.below(self.members.len() as u64) as usize;
        let wanted = match random.one_in(2) {
            true => channel(random.below(u64::from(CHANNELS)) as u8),
            false => group(random.below(u64::from(GROUPS)) as u8),
        };
        let mut all = vec![(Killed(member), 2), (Reloaded, 1), (Changed(member, wanted), 3)];
        match self.firewall {
            Firewall::None => {
                all.extend([(Loaded(Firewall::Input), 1), (Loaded(Firewall::Output), 1)]);
            }
            _ => all.push((Loaded(Firewall::None), 4)),
        }
        if self.is_away {
            all.push((BroughtBack, 6));
        } else if self.link.is_none() {
            all.push((PluggedIn, 6));
        } else {
            let carrier = if self.has_carrier { (CarrierLost, 2) } else { (CarrierBack, 6) };
            let up = if self.is_up { (Down, 2) } else { (Up, 6) };
            let address = if self.has_other_address { AddressRemoved } else { AddressAdded };
            all.extend([carrier, up, (Unplugged, 2), (TakenAway, 1)]);
            // A link that is made anew waits for a parent of the name.
            if self.members[0].index().is_some() {
                all.push((Renamed, 1));
            }
            all.extend([(address, 1), (OtherMac, 1), (OtherMtu, 1)]);
        }
        random.weighted(&all).expect("something")
    }

    fn disturb(&mut self, disturbance: Disturbance) {
        use Disturbance::*;
        self.history.push(disturbance);
        let lab = &self.lab;
        let link = self.link.unwrap_or(PARENT);
        match disturbance {
            Down => lab.ip("host", &format!("link set {link} down")),
            Up => lab.ip("host", &format!("link set {link} up")),
            CarrierLost => lab.ip("sw", "link set p-host down"),
            CarrierBack => lab.ip("sw", "link set p-host up"),
            Unplugged => lab.ip("host", &format!("link del {link}")),
            PluggedIn => plug_in(lab),
            TakenAway => {
                let src = lab.namespace("src");
                lab.ip("host", &format!("link set {link} netns {src} name {AWAY}"));
            }
            // It has lost its addresses, is down, and may have another index: what tells that it is
            // the parent is the parent's name.
            BroughtBack => {
                let host = lab.namespace("host");
                lab.ip("src", &format!("link set {AWAY} netns {host} name {PARENT}"));
                lab.ip("host", &format!("addr add {HOST}/24 dev {PARENT}"));
                lab.ip("host", &format!("link set {PARENT} up"));
            }
            Renamed => lab.ip("host", &format!("link set {link} name {}", renamed(link))),
            AddressAdded => lab.ip("host", &format!("addr add {OTHER_ADDRESS} dev {link}")),
            AddressRemoved => lab.ip("host", &format!("addr del {OTHER_ADDRESS} dev {link}")),
            OtherMac => {
                let mac = format!("02:99:00:00:00:{:02x}", self.macs);
                lab.ip("host", &format!("link set {link} address {mac}"));
            }
            OtherMtu => {
                lab.ip("host", &format!("link set {link} mtu {}", 1450 + u32::from(self.macs % 50)))
            }
            Loaded(firewall) => load(lab, firewall),
            Killed(member) => {
                let ps = lab.ps(&self.members[member].container).expect("listed");
                if let Some(pid) = ps["proxy"]["pid"].as_i64().map(|pid| pid as i32)
                    && alive(pid)
                {
                    kill(pid);
                }
            }
            Reloaded => {
                // Without the LAN interface no proxy can be replaced.
                let done = output(&mut lab.mcrun(["reload"]));
                assert!(done.status.success() || !self.is_there(), "{done:?}");
            }
            Changed(member, wanted) => {
                let is_unsaid = !self.is_connected() || self.firewall == Firewall::Output;
                let member = &mut self.members[member];
                if member.sockets.remove(&wanted).is_some() {
                    self.unsaid.extend(is_unsaid.then_some(wanted));
                } else if member.index().is_some() {
                    member.join(wanted);
                    self.unsaid.remove(&wanted);
                }
            }
        }
        match disturbance {
            Down => self.is_up = false,
            Up => self.is_up = true,
            CarrierLost => self.has_carrier = false,
            CarrierBack => self.has_carrier = true,
            Unplugged => (self.link, self.has_other_address) = (None, false),
            PluggedIn => {
                (self.link, self.is_up, self.has_carrier) = (Some(PARENT), true, true);
            }
            TakenAway => (self.is_away, self.has_other_address) = (true, false),
            BroughtBack => {
                (self.is_away, self.link, self.is_up) = (false, Some(PARENT), true);
            }
            Renamed => self.link = Some(renamed(link)),
            AddressAdded => self.has_other_address = true,
            AddressRemoved => self.has_other_address = false,
            OtherMac | OtherMtu => self.macs = self.macs.wrapping_add(1),
            Loaded(firewall) => self.firewall = firewall,
            Killed(_) | Reloaded | Changed(..) => {}
        }
    }

    /// Programs on a link that was made anew join again, as they have to.
    fn join_again(&mut self) {
        for member in &mut self.members {
            let Some(index) = member.index().filter(|index| *index != member.index) else {
                continue;
            };
            member.index = index;
            for (wanted, _) in std::mem::take(&mut member.sockets) {
                member.join(wanted);
            }
        }
    }

    /// What `mcrun groups` shows as joined.
    fn shown(&self) -> BTreeSet<Wanted> {
        let list = json(&mut self.lab.mcrun(["groups", "--json"]));
        let rows = list.as_array().expect("a list");
        let joined = rows.iter().filter(|row| row["status"] == "joined");
        joined
            .flat_map(|row| {
                let group = address(&row["group"]);
                let sources = row["sources"].as_array().expect("a list");
                match row["mode"] == "include" {
                    true => sources.iter().map(|s| Wanted(group, Some(address(s)))).collect(),
                    false => vec![Wanted(group, None)],
                }
            })
            .collect()
    }

    /// What the host's kernel has joined on the LAN interface.
    fn on_host(&self) -> BTreeSet<Wanted> {
        let Some(link) = self.link.filter(|_| self.is_there()) else { return BTreeSet::new() };
        let lists = run(self.lab.enter("host", "cat").arg("/proc/net/mcfilter"));
        let memberships = run(self.lab.enter("host", "cat").arg("/proc/net/igmp"));
        let mut is_own = false;
        let mut found = BTreeSet::new();
        for line in memberships.lines().skip(1) {
            let words: Vec<_> = line.split_whitespace().collect();
            if !line.starts_with('\t') {
                is_own = words.get(1).is_some_and(|name| name.trim_end_matches(':') == link);
                continue;
            }
            let group = u32::from_str_radix(words[0], 16).expect("an address");
            let group = Ipv4Addr::from(group.to_ne_bytes());
            if is_own && is_ours(group) {
                found.insert(Wanted(group, None));
            }
        }
        for line in lists.lines().skip(1) {
            let words: Vec<_> = line.split_whitespace().collect();
            let parse = |word: &str| {
                let digits = word.trim_start_matches("0x");
                Ipv4Addr::from(u32::from_str_radix(digits, 16).expect("an address"))
            };
            if let [_, device, group, source, included, _] = words[..]
                && device == link
                && included != "0"
            {
                found.remove(&Wanted(parse(group), None));
                found.insert(Wanted(parse(group), Some(parse(source))));
            }
        }
        found
    }

    /// What the switch forwards to the host.
    fn on_switch(&self) -> BTreeSet<Wanted> {
        let all = self.lab.forwarded().into_iter();
        // The host's own groups of IPv6 are forwarded too.
        let entries: Vec<_> = all.filter(|entry| !entry.contains(':')).collect();
        let parse = |entry: &String| match entry.split_once('@') {
            Some((group, source)) => {
                Wanted(group.parse().expect("a group"), Some(source.parse().expect("a source")))
            }
            None => Wanted(entry.parse().expect("a group"), None),
        };
        let found: BTreeSet<_> = entries.iter().map(parse).collect();
        // The switch shows the group of a channel too.
        let is_of_channel = |w: &Wanted| found.iter().any(|c| c.0 == w.0 && c.1.is_some());
        let shown = found.iter().filter(|w| is_ours(w.0) && (w.1.is_some() || !is_of_channel(w)));
        shown.copied().collect()
    }

    /// Why what is shown is not true; none: it is.
    fn lie(&self) -> Option<String> {
        let (shown, host, switch) = (self.shown(), self.on_host(), self.on_switch());
        let wanted: BTreeSet<_> =
            self.members.iter().flat_map(|m| m.sockets.keys()).copied().collect();
        let both: BTreeSet<_> = host.intersection(&switch).copied().collect();
        let is_true = match (self.is_connected(), self.firewall) {
            (true, Firewall::None | Firewall::Input) => {
                let more: BTreeSet<_> = switch.difference(&host).copied().collect();
                shown == both && host == both && host == wanted && more.is_subset(&self.unsaid)
            }
            // What was reported before is forwarded for a time, and is not certain any more.
            (true, Firewall::Output) => shown.is_subset(&both) && host == wanted,
            (false, _) => shown == both,
        };
        (!is_true).then(|| {
            let files = ["/proc/net/igmp", "/proc/net/mcfilter"];
            let files = run(self.lab.enter("host", "cat").args(files));
            format!(
                "wanted {wanted:?}\nshown  {shown:?}\nhost   {host:?}\nswitch {switch:?}\n{files}"
            )
        })
    }

    /// Waits until both ends of the link know whether they are connected: the kernels take up to a
    /// second to say so (`linkwatch_schedule_work` in net/core/link_watch.c). Before, a switch learns
    /// nothing at a port that is up again, and forwards to one that is not.
    fn wait_for_links(&self) {
        let is_up = |node: &str, link: &str| {
            let found = output(self.lab.enter(node, "ip").args(["-j", "link", "show", link]));
            let links = serde_json::from_slice::<serde_json::Value>(&found.stdout);
            links.is_ok_and(|links| links[0]["operstate"] == "UP")
        };
        let link = self.link.filter(|_| self.is_connected());
        wait_until("both ends know the link", PATIENCE, || {
            let known = match link {
                Some(link) => is_up("host", link) && is_up("sw", "p-host"),
                None => !is_up("sw", "p-host"),
            };
            known.then_some(())
        });
    }

    /// Waits until what is shown is true, and returns how long that took.
    fn becomes_true(&mut self, limit: Duration) -> Result<Duration, String> {
        self.wait_for_links();
        let begun = Instant::now();
        if self.is_connected() && self.members[0].index().is_none() {
            let due = begun + PATIENCE;
            while self.members[0].index().is_none() {
                if due < Instant::now() {
                    return Err("the link was not made anew".into());
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        self.join_again();
        loop {
            let at = begun.elapsed();
            let Some(lie) = self.lie() else { return Ok(at) };
            if begun.elapsed() > limit {
                let ps = run(&mut self.lab.mcrun(["ps"]));
                let groups = run(&mut self.lab.mcrun(["groups"]));
                return Err(format!("{lie}\n{groups}\n{ps}"));
            }
            // It may have been made anew meanwhile.
            self.join_again();
        }
    }
}

fn group(number: u8) -> Wanted {
    Wanted(Ipv4Addr::new(239, 66, 0, number + 1), None)
}

fn channel(number: u8) -> Wanted {
    Wanted(Ipv4Addr::new(232, 66, 0, number + 1), Some(SOURCES[0]))
}

fn is_ours(group: Ipv4Addr) -> bool {
    group.octets()[1] == 66
}

fn address(value: &serde_json::Value) -> Ipv4Addr {
    value.as_str().and_then(|text| text.parse().ok()).expect("an address")
}

fn renamed(link: &str) -> &'static str {
    if link == PARENT { OTHER_NAME } else { PARENT }
}

/// An interface of the parent's name, which is up.
fn plug_in(lab: &Lab) {
    let host = lab.namespace("host");
    lab.ip("sw", &format!("link add p-host type veth peer name {PARENT} netns {host}"));
    lab.ip("sw", "link set p-host master br0 up");
    let port = ["link", "set", "dev", "p-host", "fastleave", "on", "mcast_flood", "off"];
    run(lab.enter("sw", "bridge").args(port));
    lab.ip("host", &format!("addr add {HOST}/24 dev {PARENT}"));
    lab.ip("host", &format!("link set {PARENT} up"));
}

/// Loads a firewall of the host that drops IGMP, in place of the one before.
fn load(lab: &Lab, firewall: Firewall) {
    let rules = |hook: &str| {
        let hook = format!("type filter hook {hook} priority 0;");
        format!("table ip truth {{\nchain c {{\n{hook}\nip protocol igmp drop\n}}\n}}")
    };
    let text = match firewall {
        Firewall::None => String::new(),
        Firewall::Input => rules("input"),
        Firewall::Output => rules("output"),
    };
    let file = lab.directory().join("truth.nft");
    fs::write(&file, format!("table ip truth\ndelete table ip truth\n{text}\n")).expect("rules");
    run(lab.enter("host", "nft").arg("-f").arg(&file));
}

#[test]
fn what_is_shown_as_joined_is_joined_whatever_happens() {
    use Disturbance::{BroughtBack, CarrierBack, Loaded, PluggedIn, Up};
    let by_clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a time");
    let seed = number("TRUTH_SEED", by_clock.as_nanos() as u64) | 1;
    println!("TRUTH_SEED={seed}");
    let mut random = Random(seed);
    let disturbances = number("TRUTH_DISTURBANCES", 40) as usize;
    let limit = Duration::from_millis(number("TRUTH_LIMIT", 4000));
    let mut world = World::new();
    let mut longest = Duration::ZERO;
    let mut check = |world: &mut World| match world.becomes_true(limit) {
        Ok(took) => {
            let last = world.history.last();
            println!("{:4} {took:7.1?} {last:?}", world.history.len());
            longest = longest.max(took);
        }
        Err(lie) => panic!(
            "TRUTH_SEED={seed}, after {:?}, {} before:\n{lie}",
            world.history.iter().rev().take(8).collect::<Vec<_>>(),
            world.history.len().saturating_sub(8)
        ),
    };
    check(&mut world);
    while world.history.len() < disturbances {
        // Several may come at once.
        for _ in 0..=random.below(2) {
            let disturbance = world.choose(&mut random);
            world.disturb(disturbance);
        }
        check(&mut world);
    }
    // In the end everything is as it was.
    let restore = [
        (world.is_away, BroughtBack),
        (world.link.is_none(), PluggedIn),
        (!world.is_up, Up),
        (!world.has_carrier, CarrierBack),
        (world.firewall != Firewall::None, Loaded(Firewall::None)),
    ];
    for (is_due, disturbance) in restore {
        if is_due {
            world.disturb(disturbance);
        }
    }
    check(&mut world);
    wait_until("the proxies run", PATIENCE, || {
        let states = world.members.iter().map(|m| world.lab.ps(&m.container));
        let mut states = states.map(|ps| ps.is_some_and(|ps| ps["proxy"]["state"] == "running"));
        states.all(|is_running| is_running).then_some(())
    });
    println!("the longest: {longest:?}");
}
