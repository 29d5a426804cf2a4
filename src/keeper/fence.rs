//! The host fence: keeps from the host's sockets what only containers have joined.
//!
//! /proc/net/igmp tells how many sockets have joined a group. The keeper has a descriptor of each
//! socket with which a proxy joins, and the kernel tells whether a socket has joined a group. If
//! there are no more users than such sockets, no program of the host has joined, and the group is
//! fenced. What a proxy says of itself fences nothing.
//!
//! The kernel tells nobody that one more socket has joined, so the file is read from time to time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::net::if_::if_nametoindex;
use rustix::net::sockopt::socket_cookie;
use tokio::sync::Notify;

use crate::keeper::holding::Holding;
use crate::keeper::log;
use crate::oci::ContainerId;
use crate::proxy::{HeldKind, HoldStream, HostFence, MembershipFiles};
use crate::state::{Attached, AttachedInterface};
use crate::sys::sockopt::is_member;

/// Time between two readings of the host's memberships, while a proxy has joined any. A program of
/// the host that joins hears the group after this and [`DOUBT`] at most.
const INTERVAL: Duration = Duration::from_millis(400);
/// How long a group has had more users than are known before it is fenced no more: a proxy tells
/// the keeper 20 ms after a join.
const DOUBT: Duration = Duration::from_millis(150);

/// A group on an interface of the host.
pub(super) type Place = (u32, Ipv4Addr);

/// What the proxies of a container have joined.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Members {
    /// With the number that the kernel has for the socket.
    sockets: BTreeSet<(Place, u64)>,
    /// Interfaces where its relays hear by sockets of the host.
    relayed: BTreeSet<u32>,
}

impl Members {
    /// Adds a group that one of these join sockets may have joined.
    fn add(&mut self, place: Place, sockets: &[impl AsFd]) {
        let members = sockets.iter().filter(|socket| is_member(socket, place.0, place.1));
        // A socket has a number always.
        let numbers = members.filter_map(|socket| socket_cookie(socket).ok());
        self.sockets.extend(numbers.map(|number| (place, number)));
    }
}

/// What all containers have joined.
#[derive(Debug, Clone, Default)]
pub(super) struct Board(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    members: Mutex<HashMap<ContainerId, Members>>,
    changed: Notify,
}

impl Board {
    fn members(&self) -> MutexGuard<'_, HashMap<ContainerId, Members>> {
        self.0.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what the proxies of a container have joined.
    pub(super) fn put(&self, id: &ContainerId, members: Members) {
        let mut all = self.members();
        if all.get(id).unwrap_or(&Members::default()) == &members {
            return;
        }
        if members == Members::default() {
            all.remove(id);
        } else {
            all.insert(id.clone(), members);
        }
        self.0.changed.notify_one();
    }

    /// How many sockets of proxies have joined each group, on interfaces without a relay: what a
    /// relay joins must reach it at once.
    fn unrelayed(&self) -> BTreeMap<Place, u64> {
        let all = self.members();
        // A socket that several processes share is one user.
        let sockets: BTreeSet<_> = all.values().flat_map(|members| &members.sockets).collect();
        let mut counts = BTreeMap::new();
        for (place, _) in sockets {
            *counts.entry(*place).or_default() += 1;
        }
        let relayed: BTreeSet<_> = all.values().flat_map(|members| &members.relayed).collect();
        counts.retain(|(index, _), _| !relayed.contains(index));
        counts
    }
}

/// What one container has on the board, until the value is dropped.
pub(super) struct BoardEntry {
    id: ContainerId,
    /// `None`: nothing is fenced.
    board: Option<Board>,
    /// By interface of the container, the host's interface where its proxy joins.
    upstreams: HashMap<String, String>,
    /// Those of the host's interfaces where a relay hears.
    relayed: BTreeSet<u32>,
    /// For each proxy, where it says to have joined.
    places: Vec<Vec<Place>>,
    /// The numbers of what `places` follows from.
    versions: Vec<(u64, u64)>,
    is_unsure: bool,
}

impl BoardEntry {
    pub(super) fn new(id: ContainerId, board: Option<Board>) -> Self {
        BoardEntry {
            id,
            board,
            upstreams: HashMap::new(),
            relayed: BTreeSet::new(),
            places: Vec::new(),
            versions: Vec::new(),
            is_unsure: false,
        }
    }

    /// Takes the interfaces from the record.
    pub(super) fn set_interfaces(&mut self, attached: &Attached) {
        let upstream = |i: &AttachedInterface| i.attachment.upstream().as_str().to_owned();
        self.upstreams =
            attached.interfaces.iter().map(|i| (i.name.clone(), upstream(i))).collect();
        let relayed = attached.interfaces.iter().filter(|i| i.attachment.driver.is_relayed());
        let relayed = relayed.filter_map(|i| if_nametoindex(upstream(i).as_str()).ok()).collect();
        self.is_unsure |= relayed != self.relayed;
        self.relayed = relayed;
    }

    /// A proxy may have left a group that it says to have joined.
    pub(super) fn doubt(&mut self) {
        self.is_unsure = true;
    }

    /// Says what the proxies have joined, if that may have changed.
    pub(super) fn update(&mut self, holdings: &[Holding]) {
        let Some(board) = &self.board else { return };
        let streams = || holdings.iter().map(|holding| holding.stream.get_ref());
        let versions: Vec<_> = streams().map(|s| (s.generation(), s.status_version())).collect();
        if versions != self.versions {
            self.places = streams().map(|stream| places(stream, &self.upstreams)).collect();
            self.versions = versions;
        } else if !self.is_unsure {
            return;
        }
        self.is_unsure = false;
        let relayed = self.relayed.clone();
        let mut members = Members { relayed, ..Members::default() };
        for (stream, places) in streams().zip(&self.places) {
            for &place in places {
                members.add(place, stream.held(HeldKind::Join));
            }
        }
        board.put(&self.id, members);
    }
}

impl Drop for BoardEntry {
    fn drop(&mut self) {
        if let Some(board) = &self.board {
            board.put(&self.id, Members::default());
        }
    }
}

/// What a proxy says to have joined on the host.
fn places(stream: &HoldStream, upstreams: &HashMap<String, String>) -> Vec<Place> {
    let mut places = Vec::new();
    for interface in stream.interfaces() {
        let upstream = upstreams.get(&interface.interface);
        let index = upstream.and_then(|name| if_nametoindex(name.as_str()).ok());
        let Some(index) = index else { continue };
        for membership in &interface.groups {
            if let IpAddr::V4(group) = membership.group {
                places.push((index, group));
            }
        }
    }
    places
}

/// Which groups are fenced.
#[derive(Debug, Default)]
struct Groups {
    fenced: BTreeSet<Place>,
    /// Fenced groups that have more users than are known, and since when.
    doubtful: BTreeMap<Place, Instant>,
}

impl Groups {
    /// The groups are fenced that have no `users` except the sockets of proxies.
    fn update(&mut self, now: Instant, users: &BTreeMap<Place, u64>, known: &BTreeMap<Place, u64>) {
        let before = std::mem::take(self);
        for (place, known) in known {
            let Some(users) = users.get(place) else { continue };
            if users <= known {
                self.fenced.insert(*place);
            } else if before.fenced.contains(place) {
                let since = *before.doubtful.get(place).unwrap_or(&now);
                if now.duration_since(since) < DOUBT {
                    self.fenced.insert(*place);
                    self.doubtful.insert(*place, since);
                }
            }
        }
    }
}

/// Keeps the fence for as long as the keeper runs. Where it cannot be, the host's sockets hear what
/// containers have joined, as without a keeper.
pub(super) async fn run(board: Board) {
    let files = MembershipFiles::open();
    let opened = files.and_then(|files| Ok((files, HostFence::open()?)));
    let (files, mut fence) = match opened {
        Ok(opened) => opened,
        Err(error) => return log("fence", &error.to_string()),
    };
    let mut groups = Groups::default();
    let mut failure = None;
    loop {
        let known = board.unrelayed();
        let before = groups.fenced.clone();
        // What cannot be read is nobody's.
        let users = if known.is_empty() { None } else { files.users().ok() };
        groups.update(Instant::now(), &users.unwrap_or_default(), &known);
        if groups.fenced != before || failure.is_some() {
            let result = fence.set(&groups.fenced).map_err(|error| error.to_string());
            if let Err(error) = &result
                && failure.as_ref() != Some(error)
            {
                log("fence", &format!("the host's sockets hear what containers join: {error}"));
            }
            failure = result.err();
        }
        let pause = if groups.doubtful.is_empty() { INTERVAL } else { DOUBT };
        tokio::select! {
            () = board.0.changed.notified() => {}
            () = tokio::time::sleep(pause), if !known.is_empty() || failure.is_some() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = (3, Ipv4Addr::new(239, 1, 1, 1));

    fn id(name: &str) -> ContainerId {
        name.to_owned().try_into().unwrap()
    }

    fn members(sockets: &[u64]) -> Members {
        Members {
            sockets: sockets.iter().map(|number| (PLACE, *number)).collect(),
            relayed: BTreeSet::new(),
        }
    }

    #[test]
    fn a_socket_counts_once_and_where_a_relay_hears_nothing_is_fenced() {
        let board = Board::default();
        board.put(&id("a"), members(&[1, 2]));
        board.put(&id("b"), members(&[2, 3]));
        assert_eq!(board.unrelayed(), BTreeMap::from([(PLACE, 3)]));
        board.put(&id("c"), Members { relayed: BTreeSet::from([PLACE.0]), ..Members::default() });
        assert!(board.unrelayed().is_empty());
        board.put(&id("c"), Members::default());
        board.put(&id("b"), Members::default());
        assert_eq!(board.unrelayed(), BTreeMap::from([(PLACE, 2)]));
    }

    #[test]
    fn what_a_proxy_says_and_has_not_joined_counts_for_nothing() {
        let group = Ipv4Addr::new(239, 255, 78, 1);
        let loopback = nix::net::if_::if_nametoindex("lo").unwrap();
        let open = || std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (program, held) = (open(), open());
        crate::sys::sockopt::join_group(&program, loopback, group).unwrap();
        let mut members = Members::default();
        members.add((loopback, group), &[&held]);
        assert!(members.sockets.is_empty(), "a program of the host has joined");
        crate::sys::sockopt::join_group(&held, loopback, group).unwrap();
        let shared = held.try_clone().unwrap();
        members.add((loopback, group), &[&held, &shared]);
        assert_eq!(members.sockets.len(), 1, "a socket is one user, however often it is sent");
    }

    #[test]
    fn a_group_is_fenced_while_it_has_no_other_users() {
        let mut groups = Groups::default();
        let start = Instant::now();
        let mut is_fenced = |millis: u64, users: Option<u64>, known: Option<u64>| {
            let map = |count: Option<u64>| count.map(|count| (PLACE, count)).into_iter().collect();
            groups.update(start + Duration::from_millis(millis), &map(users), &map(known));
            groups.fenced.contains(&PLACE)
        };
        assert!(!is_fenced(0, Some(2), Some(1)), "a program of the host has joined before");
        assert!(is_fenced(0, Some(1), Some(1)));
        assert!(is_fenced(10, Some(2), Some(1)), "another proxy may have joined");
        assert!(is_fenced(50, Some(2), Some(2)), "it has");
        assert!(is_fenced(300, Some(3), Some(2)));
        assert!(is_fenced(449, Some(3), Some(2)));
        assert!(!is_fenced(450, Some(3), Some(2)), "a program of the host has joined");
        assert!(!is_fenced(451, Some(3), Some(2)));
        assert!(is_fenced(500, Some(2), Some(2)));
        assert!(!is_fenced(501, Some(2), None), "relayed, or not known any more");
        assert!(!is_fenced(502, None, Some(1)), "nobody has joined");
    }
}
