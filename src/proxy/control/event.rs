//! What a proxy sends to its subscribers.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::multicast::FilterMode;
use crate::notice::Notice;

/// One line for a subscriber: an event, and when it happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimedEvent {
    /// Milliseconds since 1970-01-01 00:00 UTC, by the host's clock.
    pub time_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// A change that a subscriber is told of. As JSON an object with the field `event`.
///
/// A membership that has begun or changed is told by its status: `joined`, `denied`, `limited` or
/// `failed`. Changes that follow each other before the proxy acts are told as one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The container wants a group, and it is joined on the LAN.
    Joined(MembershipEvent),
    /// The container wants a group that a rule denies.
    Denied(MembershipEvent),
    /// The container wants a group, and a limit keeps it, or a part of its sources, off the LAN.
    Limited(MembershipEvent),
    /// The container wants a group that the host's kernel does not join.
    Failed(MembershipEvent),
    /// The container has left a group.
    Left {
        /// Interface in the container.
        interface: String,
        /// The group.
        group: IpAddr,
    },
    /// The LAN has a querier, another one than before, or one that speaks another version.
    Querier {
        /// Interface in the container.
        interface: String,
        /// The querier's address; 0.0.0.0 for one that only switches send (RFC 4541 §2.1.1).
        address: IpAddr,
        /// IGMP version that it speaks, 1 to 3.
        version: u8,
    },
    /// The LAN has no querier any more.
    QuerierGone {
        /// Interface in the container.
        interface: String,
    },
    /// The LAN has an MLD querier, another one than before, or one that speaks another version.
    MldQuerier {
        /// Interface in the container.
        interface: String,
        /// The querier's link-local address.
        address: IpAddr,
        /// MLD version that it speaks, 1 or 2.
        version: u8,
    },
    /// The LAN has no MLD querier any more.
    MldQuerierGone {
        /// Interface in the container.
        interface: String,
    },
    /// A group arrives steadily, for the first time since the join, or again after it had stopped.
    StreamStarted {
        /// Interface in the container.
        interface: String,
        /// The group.
        group: IpAddr,
    },
    /// Nothing has arrived for 10 s of a group that arrived steadily.
    StreamStopped {
        /// Interface in the container.
        interface: String,
        /// The group.
        group: IpAddr,
    },
    /// Something is wrong from now on: a warning or an error of the status.
    Alarm(Notice),
    /// It is wrong no more.
    AlarmCleared(Notice),
    /// A notice was written to the log, or left out there because there were too many lines.
    Notice(Notice),
    /// The last line for a subscriber that did not read fast enough.
    Lost {
        /// Events that were dropped before the connection was closed.
        events: u64,
    },
}

/// A group, and what the container wants of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembershipEvent {
    /// Interface in the container.
    pub interface: String,
    /// The group.
    pub group: IpAddr,
    /// Whether `sources` are the wanted or the excluded sources.
    pub mode: FilterMode,
    /// Source list.
    pub sources: Vec<IpAddr>,
    /// The rule, the limit or the error behind any event except `joined`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_a_flat_object() {
        let joined = TimedEvent {
            time_ms: 1_700_000_000_000,
            event: Event::Joined(MembershipEvent {
                interface: "mc0".into(),
                group: "239.1.2.3".parse().unwrap(),
                mode: FilterMode::Exclude,
                sources: Vec::new(),
                reason: None,
            }),
        };
        let notice = TimedEvent {
            time_ms: 1,
            event: Event::Notice(Notice::InterfaceGone { interface: "mc0".into() }),
        };
        let lost = TimedEvent { time_ms: 2, event: Event::Lost { events: 9 } };
        for (event, object) in [
            (
                joined,
                json!({
                    "time_ms": 1_700_000_000_000_u64, "event": "joined", "interface": "mc0",
                    "group": "239.1.2.3", "mode": "exclude", "sources": [],
                }),
            ),
            (
                notice,
                json!({
                    "time_ms": 1, "event": "notice", "code": "interface-gone", "severity": "info",
                    "interface": "mc0", "text": "mc0 is gone",
                }),
            ),
            (lost, json!({ "time_ms": 2, "event": "lost", "events": 9 })),
        ] {
            assert_eq!(serde_json::to_value(&event).unwrap(), object);
            assert_eq!(serde_json::from_value::<TimedEvent>(object).unwrap(), event);
        }
    }
}
