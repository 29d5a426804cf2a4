//! One event, for people and for programs.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::multicast::FilterMode;
use crate::notice::Severity;
use crate::primitives::MacAddr;
use crate::proxy::{Event, MembershipEvent};
use crate::state::Refusal;

/// Something that happened to a container. As JSON a flat object with the field `event`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostEvent {
    /// Milliseconds since 1970-01-01 00:00 UTC, by the host's clock.
    pub time_ms: u64,
    /// Id of the container.
    pub container: String,
    /// What people call the container.
    pub name: String,
    /// What happened.
    #[serde(flatten)]
    pub what: Occurrence,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Occurrence {
    /// To the attachment.
    Attachment(AttachmentChange),
    /// What the proxy tells.
    Proxy(Event),
}

/// A change of an attachment or of its proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum AttachmentChange {
    /// The container has got an interface.
    Attached {
        /// Interface in the container.
        interface: String,
        /// LAN interface on the host.
        parent: String,
        /// `macvlan`, `ipvlan` or `relay`.
        driver: String,
        /// MAC address of the interface.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mac: Option<MacAddr>,
        /// Addresses with prefix lengths.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        addresses: Vec<String>,
    },
    /// The interface has gone, or the container has ended.
    Detached {
        /// Interface in the container.
        interface: String,
    },
    /// The proxy has ended while the container runs.
    ProxyDied {
        /// Its process id.
        pid: i32,
    },
    /// Another proxy has taken the place of the one before it.
    ProxyReplaced {
        /// Its process id.
        pid: i32,
        /// Process id of the one before it.
        before: i32,
    },
    /// The proxy cannot be subscribed to, so that its events are missing.
    NotFollowed {
        /// What the proxy says, or that it does not answer.
        error: String,
    },
    /// A hook has refused what the container asks for, and the container does not start.
    Refused {
        /// The hook's error, in one line.
        reason: String,
    },
    /// Events of the container were left out, since there were too many.
    Suppressed {
        /// How many.
        events: u64,
    },
}

impl HostEvent {
    /// An event of now.
    pub(super) fn now(container: &str, name: &str, what: Occurrence) -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        let time_ms = since_1970.map_or(0, |time| time.as_millis() as u64);
        HostEvent { time_ms, container: container.to_owned(), name: name.to_owned(), what }
    }

    /// The event of a refusal. The hook knows the container's id alone.
    pub(super) fn of_refusal(refusal: Refusal) -> Self {
        let time_ms = refusal.time_ms();
        let Refusal { container, reason, .. } = refusal;
        let what = Occurrence::Attachment(AttachmentChange::Refused { reason });
        HostEvent { time_ms, name: container.clone(), container, what }
    }

    /// When it happened.
    pub fn time(&self) -> SystemTime {
        // The file may have any number.
        UNIX_EPOCH.checked_add(Duration::from_millis(self.time_ms)).unwrap_or(UNIX_EPOCH)
    }

    /// The name of the event, as `event` of its JSON has it.
    pub fn code(&self) -> &'static str {
        match &self.what {
            Occurrence::Attachment(change) => match change {
                AttachmentChange::Attached { .. } => "attached",
                AttachmentChange::Detached { .. } => "detached",
                AttachmentChange::ProxyDied { .. } => "proxy-died",
                AttachmentChange::ProxyReplaced { .. } => "proxy-replaced",
                AttachmentChange::NotFollowed { .. } => "not-followed",
                AttachmentChange::Refused { .. } => "refused",
                AttachmentChange::Suppressed { .. } => "suppressed",
            },
            Occurrence::Proxy(event) => match event {
                Event::Joined(_) => "joined",
                Event::Denied(_) => "denied",
                Event::Limited(_) => "limited",
                Event::Failed(_) => "failed",
                Event::Left { .. } => "left",
                Event::Querier { .. } => "querier",
                Event::QuerierGone { .. } => "querier-gone",
                Event::MldQuerier { .. } => "mld-querier",
                Event::MldQuerierGone { .. } => "mld-querier-gone",
                Event::StreamStarted { .. } => "stream-started",
                Event::StreamStopped { .. } => "stream-stopped",
                Event::Alarm(_) => "alarm",
                Event::AlarmCleared(_) => "alarm-cleared",
                Event::Notice(_) => "notice",
                Event::Lost { .. } => "lost",
            },
        }
    }

    /// How much the event matters (RFC 5424 §6.2.1).
    pub fn severity(&self) -> Severity {
        match &self.what {
            Occurrence::Attachment(AttachmentChange::ProxyDied { .. }) => Severity::Error,
            Occurrence::Attachment(
                AttachmentChange::Suppressed { .. }
                | AttachmentChange::NotFollowed { .. }
                | AttachmentChange::Refused { .. },
            )
            | Occurrence::Proxy(
                Event::Denied(_)
                | Event::Limited(_)
                | Event::Failed(_)
                | Event::QuerierGone { .. }
                | Event::MldQuerierGone { .. }
                | Event::StreamStopped { .. }
                | Event::Lost { .. },
            ) => Severity::Warning,
            Occurrence::Proxy(Event::Alarm(notice) | Event::Notice(notice)) => notice.severity(),
            Occurrence::Attachment(_) | Occurrence::Proxy(_) => Severity::Info,
        }
    }

    /// The group that the event is about.
    pub fn group(&self) -> Option<IpAddr> {
        match &self.what {
            Occurrence::Proxy(
                Event::Joined(m) | Event::Denied(m) | Event::Limited(m) | Event::Failed(m),
            ) => Some(m.group),
            Occurrence::Proxy(
                Event::Left { group, .. }
                | Event::StreamStarted { group, .. }
                | Event::StreamStopped { group, .. },
            ) => Some(*group),
            _ => None,
        }
    }
}

/// What happened, without time and container: the details of a line.
impl fmt::Display for Occurrence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Occurrence::Attachment(change) => change.fmt(f),
            Occurrence::Proxy(event) => match event {
                Event::Joined(m) | Event::Denied(m) | Event::Limited(m) | Event::Failed(m) => {
                    membership(m, f)
                }
                Event::Left { interface, group }
                | Event::StreamStarted { interface, group }
                | Event::StreamStopped { interface, group } => write!(f, "{interface} {group}"),
                Event::Querier { interface, address, version }
                | Event::MldQuerier { interface, address, version } => {
                    write!(f, "{interface} {address} v{version}")
                }
                Event::QuerierGone { interface } | Event::MldQuerierGone { interface } => {
                    f.write_str(interface)
                }
                Event::Alarm(notice) | Event::AlarmCleared(notice) | Event::Notice(notice) => {
                    notice.fmt(f)
                }
                Event::Lost { events } => write!(f, "{events} events"),
            },
        }
    }
}

impl fmt::Display for AttachmentChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AttachmentChange::Attached { interface, parent, driver, mac, addresses } => {
                write!(f, "{interface} {driver} of {parent}")?;
                if let Some(mac) = mac {
                    write!(f, " {mac}")?;
                }
                addresses.iter().try_for_each(|address| write!(f, " {address}"))
            }
            AttachmentChange::Detached { interface } => f.write_str(interface),
            AttachmentChange::ProxyDied { pid } => write!(f, "pid {pid}"),
            AttachmentChange::ProxyReplaced { pid, before } => {
                write!(f, "pid {pid} in place of {before}")
            }
            AttachmentChange::NotFollowed { error } => f.write_str(error),
            AttachmentChange::Refused { reason } => f.write_str(reason),
            AttachmentChange::Suppressed { events } => write!(f, "{events} events"),
        }
    }
}

fn membership(membership: &MembershipEvent, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let MembershipEvent { interface, group, mode, sources, reason } = membership;
    write!(f, "{interface} {group}")?;
    if !sources.is_empty() {
        let word = match mode {
            FilterMode::Include => "from",
            FilterMode::Exclude => "not from",
        };
        let sources: Vec<_> = sources.iter().map(ToString::to_string).collect();
        write!(f, " {word} {}", sources.join(","))?;
    }
    match reason {
        Some(reason) => write!(f, " ({reason})"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::notice::Notice;

    fn event(what: Occurrence) -> HostEvent {
        HostEvent { time_ms: 1_764_331_200_123, container: "8f1c".into(), name: "cam".into(), what }
    }

    fn membership(mode: FilterMode, sources: &[[u8; 4]], reason: Option<&str>) -> MembershipEvent {
        MembershipEvent {
            interface: "mc0".into(),
            group: [239, 1, 2, 3].into(),
            mode,
            sources: sources.iter().map(|source| (*source).into()).collect(),
            reason: reason.map(Into::into),
        }
    }

    #[test]
    fn an_event_is_a_flat_object_with_its_name() {
        let attached = AttachmentChange::Attached {
            interface: "mc0".into(),
            parent: "eth1".into(),
            driver: "macvlan".into(),
            mac: None,
            addresses: vec!["10.0.0.5/24".into()],
        };
        let left = Event::Left { interface: "mc0".into(), group: [239, 1, 2, 3].into() };
        for (what, rest) in [
            (
                Occurrence::Attachment(attached),
                json!({
                    "event": "attached", "interface": "mc0", "parent": "eth1",
                    "driver": "macvlan", "addresses": ["10.0.0.5/24"],
                }),
            ),
            (
                Occurrence::Proxy(left),
                json!({ "event": "left", "interface": "mc0", "group": "239.1.2.3" }),
            ),
        ] {
            let event = event(what);
            let mut object = json!({
                "time_ms": 1_764_331_200_123_u64, "container": "8f1c", "name": "cam",
            });
            let fields = object.as_object_mut().unwrap();
            fields.extend(rest.as_object().unwrap().clone());
            assert_eq!(event.code(), object["event"]);
            assert_eq!(serde_json::to_value(&event).unwrap(), object);
            assert_eq!(serde_json::from_value::<HostEvent>(object).unwrap(), event);
        }
    }

    #[test]
    fn details_are_one_line() {
        let any = membership(FilterMode::Exclude, &[], None);
        let one = membership(FilterMode::Include, &[[10, 0, 0, 1], [10, 0, 0, 2]], Some("deny=x"));
        let interface = || "mc0".to_owned();
        let querier_gone =
            Notice::NoQuerier { interface: interface(), upstream: "eth1".into(), silent_s: 255 };
        let alarm_text = querier_gone.to_string();
        for (what, text) in [
            (Event::Joined(any), "mc0 239.1.2.3".to_owned()),
            (Event::Denied(one), "mc0 239.1.2.3 from 10.0.0.1,10.0.0.2 (deny=x)".into()),
            (
                Event::Querier {
                    interface: interface(),
                    address: [10, 0, 0, 1].into(),
                    version: 2,
                },
                "mc0 10.0.0.1 v2".into(),
            ),
            (Event::Alarm(querier_gone), alarm_text),
            (Event::Lost { events: 3 }, "3 events".into()),
        ] {
            assert_eq!(Occurrence::Proxy(what).to_string(), text);
        }
        let replaced = AttachmentChange::ProxyReplaced { pid: 9, before: 8 };
        assert_eq!(Occurrence::Attachment(replaced).to_string(), "pid 9 in place of 8");
    }
}
