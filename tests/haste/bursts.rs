//! Bursts of changes: at their end the host has joined what the container's sockets ask for.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::lab;
use crate::lab::{Change, Container, Lab, Member, PATIENCE, wait_until};
use mcrun::multicast::{FilterMode, SourceFilter};

/// How long the host may take after the last change: the container's kernel reports a change again
/// and again, 20 ms apart.
const SETTLED: Duration = Duration::from_secs(3);

fn source(n: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 0, 50 + n as u8)
}

/// The groups for which the host has not joined what the sockets ask for, when it does not any more
/// before [`SETTLED`] is over.
fn deviations(
    lab: &Lab,
    asked: &[(Ipv4Addr, Option<SourceFilter>)],
) -> Vec<(Ipv4Addr, Option<SourceFilter>, Option<SourceFilter>)> {
    let until = std::time::Instant::now() + SETTLED;
    loop {
        let joins = lab.host_joins();
        let mut filters = lab.host_filters();
        let mut wrong = Vec::new();
        for (group, asked) in asked {
            let is = joins.contains(group).then(|| lab::joined_by_one(filters.remove(group)));
            if is != *asked {
                wrong.push((*group, asked.clone(), is));
            }
        }
        if wrong.is_empty() || std::time::Instant::now() > until {
            return wrong;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Reports that the kernel fills up: it continues a source list in the next report, with a record
/// of the same type that begins as if it were the whole list.
#[test]
fn a_source_list_that_is_split_over_two_reports_is_joined_as_a_whole() {
    const GROUPS: u8 = 40;
    const SOURCES: usize = 10;
    const ROUNDS: u64 = 3;
    let lab = Lab::new(3);
    let container = lab.start("hasty", "10.99.0.11");
    let groups: Vec<_> = (1..=GROUPS).map(|n| Ipv4Addr::new(239, 52, 0, n)).collect();
    let members: Vec<_> = groups.iter().map(|_| container.member()).collect();
    for (group, member) in groups.iter().zip(&members) {
        member.change(*group, &Change::Join);
    }
    lab.wait_forwarded(groups[groups.len() - 1]);
    // The answer to a query would add what was lost: nobody asks.
    lab.ip("sw", "link set br0 type bridge mcast_querier 0");
    let changes = || {
        let shown = lab::json(&mut lab.mcrun(["inspect", "--json", &container.name]));
        shown["status"]["interfaces"][0]["counters"]["changes"].as_u64().unwrap_or(0)
    };
    let before = changes();
    let wanted = SourceFilter::include((0..SOURCES).map(source));
    for round in 0..ROUNDS {
        for (group, member) in groups.iter().zip(&members) {
            member.change(*group, &Change::Set(wanted.clone()));
        }
        let asked: Vec<_> = groups.iter().map(|group| (*group, Some(wanted.clone()))).collect();
        assert_eq!(deviations(&lab, &asked), [], "round {round}");
        for (group, member) in groups.iter().zip(&members) {
            member.change(*group, &Change::Set(SourceFilter::any()));
        }
        let asked: Vec<_> =
            groups.iter().map(|group| (*group, Some(SourceFilter::any()))).collect();
        assert_eq!(deviations(&lab, &asked), [], "round {round}");
    }
    // Nothing was left for a moment and joined again.
    assert_eq!(changes() - before, 2 * ROUNDS * u64::from(GROUPS));
}

/// A generator of numbers (xorshift), so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }

    fn sources(&mut self) -> Vec<Ipv4Addr> {
        (0..10).filter(|_| self.below(3) == 0).map(source).collect()
    }
}

/// The sockets of one group, and what each of them receives.
struct Asked<'c> {
    container: &'c Container,
    group: Ipv4Addr,
    sockets: Vec<(Member, Option<SourceFilter>)>,
}

impl Asked<'_> {
    fn change(&mut self, random: &mut Random) {
        let at = random.below(self.sockets.len());
        let (member, filter) = &mut self.sockets[at];
        let change = match (random.below(6), &filter) {
            (0, _) => {
                // Closed as a whole, as when its program ends.
                *member = self.container.member();
                *filter = None;
                return;
            }
            (1 | 2, None) => Change::Join,
            (_, None) => Change::JoinSource(source(random.below(10))),
            (1, Some(_)) => Change::Leave,
            (2 | 3, Some(f)) if f.mode == FilterMode::Include => {
                let new = source(random.below(10));
                if f.sources.contains(&new) {
                    Change::LeaveSource(new)
                } else {
                    Change::JoinSource(new)
                }
            }
            (4, Some(_)) => Change::Set(SourceFilter::exclude(random.sources())),
            (_, Some(_)) => {
                let sources = random.sources();
                if sources.is_empty() {
                    Change::Leave
                } else {
                    Change::Set(SourceFilter::include(sources))
                }
            }
        };
        member.change(self.group, &change);
        *filter = lab::after(filter.take(), &change);
    }

    fn merged(&self) -> (Ipv4Addr, Option<SourceFilter>) {
        let filters: Vec<_> = self.sockets.iter().map(|(_, filter)| filter.clone()).collect();
        (self.group, lab::union(&filters))
    }
}

#[test]
fn after_a_burst_of_changes_the_host_has_joined_what_the_sockets_ask_for() {
    const BURSTS: u64 = 8;
    const GROUPS: u8 = 40;
    const CHANGES: usize = 400;
    let lab = Lab::new(3);
    let _lists = lab.show_all_lists();
    // The answer to a query would heal what went wrong: nobody asks.
    lab.ip("sw", "link set br0 type bridge mcast_querier 0");
    let container = lab.start("hasty", "10.99.0.11");
    let mut asked: Vec<_> = (1..=GROUPS)
        .map(|n| Asked {
            container: &container,
            group: Ipv4Addr::new(239, 53, 0, n),
            sockets: (0..3).map(|_| (container.member(), None)).collect(),
        })
        .collect();
    let mut all = Vec::new();
    for burst in 1..=BURSTS {
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ burst);
        for _ in 0..CHANGES {
            let group = random.below(asked.len());
            asked[group].change(&mut random);
        }
        let merged: Vec<_> = asked.iter().map(Asked::merged).collect();
        let wrong = deviations(&lab, &merged);
        all.extend(wrong.into_iter().map(|wrong| (burst, wrong)));
    }
    assert_eq!(all, [], "burst, group, asked for, joined");
    drop(asked);
    wait_until("all is left", PATIENCE, || {
        let joins = lab.host_joins();
        joins.iter().all(|group| group.octets()[1] != 53).then_some(())
    });
}
