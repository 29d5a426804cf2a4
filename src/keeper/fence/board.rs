//! What the proxies of all containers have joined on the host, by what the kernel says of the
//! sockets that the keeper holds.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::net::if_::if_nametoindex;
use rustix::net::sockopt::socket_cookie;
use tokio::sync::Notify;

use crate::keeper::holding::Holding;
use crate::oci::ContainerId;
use crate::proxy::{HeldKind, HoldStream};
use crate::state::{Attached, AttachedInterface};
use crate::sys::sockopt::is_member;

/// The longest time after which the kernel is asked again what a proxy's sockets have joined. A proxy
/// leaves without saying so only if somebody else has got hold of it, and mostly the number of users
/// tells; not where a program of the host joins at the same moment.
const ASK_AGAIN: Duration = Duration::from_mins(10);

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
pub(in crate::keeper) struct Board(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    members: Mutex<HashMap<ContainerId, Members>>,
    changed: Notify,
    disputes: Mutex<Disputes>,
}

/// Groups that a proxy may have left without saying so.
#[derive(Debug, Default)]
struct Disputes {
    /// Of the last dispute.
    number: u64,
    /// The last dispute of each group.
    places: BTreeMap<Place, u64>,
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

    /// Waits until what the proxies have joined changes.
    pub(super) async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// One of the proxies that have joined these groups may have left without saying so. Earlier
    /// disputes count while their groups are known.
    pub(super) fn dispute(&self, disputed: BTreeSet<Place>, known: &BTreeMap<Place, u64>) {
        let mut disputes = self.disputes();
        disputes.places.retain(|place, _| known.contains_key(place));
        if !disputed.is_empty() {
            disputes.number += 1;
            let number = disputes.number;
            disputes.places.extend(disputed.into_iter().map(|place| (place, number)));
        }
    }

    fn disputes(&self) -> MutexGuard<'_, Disputes> {
        self.0.disputes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many sockets of proxies have joined each group, on interfaces without a relay: what a
    /// relay joins must reach it at once.
    pub(super) fn unrelayed(&self) -> BTreeMap<Place, u64> {
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
pub(in crate::keeper) struct BoardEntry {
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
    /// When the kernel was asked last.
    asked: Instant,
    /// The last dispute before that.
    settled: u64,
}

impl BoardEntry {
    pub(in crate::keeper) fn new(id: ContainerId, board: Option<Board>) -> Self {
        BoardEntry {
            id,
            board,
            upstreams: HashMap::new(),
            relayed: BTreeSet::new(),
            places: Vec::new(),
            versions: Vec::new(),
            is_unsure: false,
            asked: Instant::now(),
            settled: 0,
        }
    }

    /// Takes the interfaces from the record.
    pub(in crate::keeper) fn set_interfaces(&mut self, attached: &Attached) {
        let upstream = |i: &AttachedInterface| i.attachment.upstream().as_str().to_owned();
        self.upstreams =
            attached.interfaces.iter().map(|i| (i.name.clone(), upstream(i))).collect();
        let relayed = attached.interfaces.iter().filter(|i| i.attachment.driver.is_relayed());
        let relayed = relayed.filter_map(|i| if_nametoindex(upstream(i).as_str()).ok()).collect();
        self.is_unsure |= relayed != self.relayed;
        self.relayed = relayed;
    }

    /// Finds out whether a proxy may have left a group that it says to have joined.
    pub(in crate::keeper) fn doubt(&mut self) {
        let Some(board) = &self.board else { return };
        let disputes = board.disputes();
        let disputed = |place| disputes.places.get(place).is_some_and(|n| *n > self.settled);
        let is_old = self.asked.elapsed() >= ASK_AGAIN;
        self.is_unsure |= is_old || self.places.iter().flatten().any(disputed);
        self.settled = disputes.number;
    }

    /// Says what the proxies have joined, if that may have changed.
    pub(in crate::keeper) fn update(&mut self, holdings: &[Holding]) {
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
        self.asked = Instant::now();
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
    fn each_container_of_a_disputed_group_is_asked_about_once() {
        let board = Board::default();
        let entry = |name: &str, places: &[Place]| {
            let mut entry = BoardEntry::new(id(name), Some(board.clone()));
            entry.places = vec![places.to_vec()];
            entry
        };
        let other = (4, PLACE.1);
        let mut entries = [entry("a", &[PLACE]), entry("b", &[PLACE, other]), entry("c", &[other])];
        let known = BTreeMap::from([(PLACE, 2)]);
        let mut unsure = || {
            entries.each_mut().map(|entry| {
                entry.doubt();
                std::mem::take(&mut entry.is_unsure)
            })
        };
        assert_eq!(unsure(), [false; 3]);
        board.dispute(BTreeSet::from([PLACE]), &known);
        assert_eq!(unsure(), [true, true, false]);
        board.dispute(BTreeSet::new(), &known);
        assert_eq!(unsure(), [false; 3], "what was settled is no dispute any more");
        board.dispute(BTreeSet::from([PLACE]), &known);
        board.dispute(BTreeSet::new(), &BTreeMap::new());
        assert_eq!(unsure(), [false; 3], "no proxy has joined the group any more");
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
}
