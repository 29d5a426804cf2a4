//! The metrics: their names, their meaning, and where their values come from.
//!
//! docs/metrics.md has the same table; a test keeps that page in step.

use std::time::Duration;

use crate::cli::metrics::samples::{Definition, Kind, Samples};
use crate::cli::metrics::snapshot::{GroupView, InterfaceView, Snapshot};
use crate::cli::metrics::totals::Counts;
use crate::cli::queriers::Protocol;
use crate::notice::Severity;
use crate::proxy::{MembershipStatus, QuerierStatus, RelayCounts};

const CONTAINER: &[&str] = &["container"];
const INTERFACE: &[&str] = &["container", "interface", "parent"];
const GROUP: &[&str] = &["container", "interface", "parent", "group"];
const UPSTREAM: &[&str] = &["upstream"];

/// All metrics, in the order of the text.
pub(super) const ALL: &[Definition] = &[
    Definition {
        name: "mcrun_build_info",
        kind: Kind::Gauge,
        labels: &["version"],
        help: "1. The version of the mcrun that tells.",
        samples: |_, out| out.add(&[env!("CARGO_PKG_VERSION")], 1.0),
    },
    Definition {
        name: "mcrun_containers",
        kind: Kind::Gauge,
        labels: &[],
        help: "Attached containers that run.",
        samples: |all, out| out.add(&[], all.containers.len() as f64),
    },
    Definition {
        name: "mcrun_unreadable_records",
        kind: Kind::Gauge,
        labels: &[],
        help: "Containers whose attachment record cannot be read. mcrun ps names them.",
        samples: |all, out| out.add(&[], all.gathered.unreadable.len() as f64),
    },
    Definition {
        name: "mcrun_keeper_up",
        kind: Kind::Gauge,
        labels: &[],
        help: "Whether mcrun keep runs.",
        samples: |all, out| out.add(&[], truth(all.gathered.keeper)),
    },
    Definition {
        name: "mcrun_gather_duration_seconds",
        kind: Kind::Gauge,
        labels: &[],
        help: "How long reading the records and asking the proxies took.",
        samples: |all, out| out.add(&[], all.gathered.took.as_secs_f64()),
    },
    Definition {
        name: "mcrun_metrics_groups_omitted",
        kind: Kind::Gauge,
        labels: &[],
        help: "Groups that have no series, because there are more than --max-groups.",
        samples: |all, out| out.add(&[], all.omitted as f64),
    },
    Definition {
        name: "mcrun_container_info",
        kind: Kind::Gauge,
        labels: &["container", "id"],
        help: "1. The id of the container.",
        samples: |all, out| {
            for view in &all.containers {
                out.add(&[&view.label, view.container.id()], 1.0);
            }
        },
    },
    Definition {
        name: "mcrun_container_attached_timestamp_seconds",
        kind: Kind::Gauge,
        labels: CONTAINER,
        help: "When the container was attached.",
        samples: |all, out| {
            for view in &all.containers {
                out.add(&[&view.label], view.container.record.attached_at as f64);
            }
        },
    },
    Definition {
        name: "mcrun_proxy_up",
        kind: Kind::Gauge,
        labels: CONTAINER,
        help: "Whether the container's proxy answers. No value for a container without a proxy.",
        samples: |all, out| {
            for view in &all.containers {
                if let Some(is_up) = view.is_proxy_up {
                    out.add(&[&view.label], truth(is_up));
                }
            }
        },
    },
    Definition {
        name: "mcrun_proxy_held",
        kind: Kind::Gauge,
        labels: CONTAINER,
        help: "Whether the keeper has all that must outlive the proxy.",
        samples: |all, out| {
            for view in &all.containers {
                if let Some(status) = &view.container.status {
                    out.add(&[&view.label], truth(status.held));
                }
            }
        },
    },
    Definition {
        name: "mcrun_proxy_deaths_total",
        kind: Kind::Counter,
        labels: CONTAINER,
        help: "Proxies of the container that have died and were replaced.",
        samples: |all, out| {
            for view in &all.containers {
                out.add(&[&view.label], view.container.record.proxy_deaths.into());
            }
        },
    },
    Definition {
        name: "mcrun_alarm",
        kind: Kind::Gauge,
        labels: &["container", "code", "severity"],
        help: "1 while a warning or an error of this code stands at the container.",
        samples: |all, out| {
            for view in &all.containers {
                for (code, severity) in &view.notices {
                    if let Some(severity) = alarming(*severity) {
                        out.add(&[&view.label, code, severity], 1.0);
                    }
                }
            }
        },
    },
    Definition {
        name: "mcrun_notice",
        kind: Kind::Gauge,
        labels: &["container", "code"],
        help: "1 while a notice of this code, which is no alarm, stands at the container.",
        samples: |all, out| {
            for view in &all.containers {
                let notices = view.notices.iter().filter(|(_, s)| alarming(*s).is_none());
                for (code, _) in notices {
                    out.add(&[&view.label, code], 1.0);
                }
            }
        },
    },
    Definition {
        name: "mcrun_memberships",
        kind: Kind::Gauge,
        labels: &["container", "status"],
        help: "Groups that the container wants, by what became of them: joined, denied, limited, \
               failed.",
        samples: |all, out| {
            for view in &all.containers {
                for status in MembershipStatus::ALL {
                    if let Some(number) = view.memberships(status) {
                        out.add(&[&view.label, status.name()], number as f64);
                    }
                }
            }
        },
    },
    Definition {
        name: "mcrun_interface_info",
        kind: Kind::Gauge,
        labels: &["container", "interface", "parent", "upstream", "driver", "igmp"],
        help: "1. How the interface is attached.",
        samples: |all, out| {
            for view in &all.interfaces {
                let attachment = &view.record.attachment;
                let more = [
                    attachment.upstream().as_str(),
                    attachment.driver.name(),
                    attachment.igmp.name(),
                ];
                out.add(&[&view.labels(), &more[..]].concat(), 1.0);
            }
        },
    },
    Definition {
        name: "mcrun_interface_waiting",
        kind: Kind::Gauge,
        labels: INTERFACE,
        help: "Whether the interface is not there, and waits for its parent.",
        samples: |all, out| {
            for view in &all.interfaces {
                out.add(&view.labels(), truth(view.record.is_waiting()));
            }
        },
    },
    Definition {
        name: "mcrun_igmp_messages_total",
        kind: Kind::Counter,
        labels: &["container", "interface", "parent", "result"],
        help: "IGMP messages, and what the proxy did with them, by the names in mcrun inspect.",
        samples: |all, out| {
            for view in &all.interfaces {
                for (result, number) in view.status.iter().flat_map(|status| &status.counters) {
                    out.add(&[&view.labels()[..], &[result]].concat(), *number as f64);
                }
            }
        },
    },
    Definition {
        name: "mcrun_relay_packets_total",
        kind: Kind::Counter,
        labels: &["container", "interface", "parent", "direction", "result"],
        help: "Packets of the relay, in (to the container) or out, by what became of them: relayed, \
               dropped, limited, denied.",
        samples: |all, out| {
            for view in &all.interfaces {
                let Some(relay) = view.status.and_then(|status| status.relay.as_ref()) else {
                    continue;
                };
                for (direction, counts) in [("in", relay.inbound), ("out", relay.outbound)] {
                    for (result, number) in results(counts) {
                        let labels = [&view.labels()[..], &[direction, result]].concat();
                        out.add(&labels, number as f64);
                    }
                }
            }
        },
    },
    Definition {
        name: "mcrun_relay_overrun_packets_total",
        kind: Kind::Counter,
        labels: INTERFACE,
        help: "Packets for the relay that the kernel dropped because a socket buffer was full.",
        samples: |all, out| {
            for view in &all.interfaces {
                if let Some(relay) = view.status.and_then(|status| status.relay.as_ref()) {
                    out.add(&view.labels(), relay.overruns as f64);
                }
            }
        },
    },
    Definition {
        name: "mcrun_group_membership",
        kind: Kind::Gauge,
        labels: &["container", "interface", "parent", "group", "status"],
        help: "1. What became of the group: joined, denied, limited or failed.",
        samples: |all, out| {
            for view in &all.groups {
                out.add(&[&view.labels()[..], &[view.entry.status.name()]].concat(), 1.0);
            }
        },
    },
    Definition {
        name: "mcrun_group_packets_total",
        kind: Kind::Counter,
        labels: GROUP,
        help: "Packets that have arrived from the sources that the container wants.",
        samples: |all, out| arrived(all, out, |counts| counts.packets),
    },
    Definition {
        name: "mcrun_group_bytes_total",
        kind: Kind::Counter,
        labels: GROUP,
        help: "Bytes of the UDP payload of these packets.",
        samples: |all, out| arrived(all, out, |counts| counts.bytes),
    },
    Definition {
        name: "mcrun_group_last_packet_timestamp_seconds",
        kind: Kind::Gauge,
        labels: GROUP,
        help: "When the last of these packets arrived. No value before the first one.",
        samples: |all, out| {
            for view in &all.groups {
                let arrived = view.arrived.as_ref();
                if let Some(ago) = arrived.and_then(|arrived| arrived.last_packet_ms) {
                    let ago = Duration::from_millis(ago);
                    let time = all.gathered.now.saturating_sub(ago);
                    out.add(&view.labels(), time.as_millis() as f64 / 1000.0);
                }
            }
        },
    },
    Definition {
        name: "mcrun_group_rtp_lost_packets",
        kind: Kind::Gauge,
        labels: GROUP,
        help: "RTP sequence numbers from which nothing has arrived. Falls when a late packet comes: \
               use delta(), not rate().",
        samples: |all, out| rtp(all, out, |counts| counts.lost),
    },
    Definition {
        name: "mcrun_group_rtp_reordered_packets_total",
        kind: Kind::Counter,
        labels: GROUP,
        help: "RTP packets that arrived after one with a higher sequence number.",
        samples: |all, out| rtp(all, out, |counts| counts.reordered),
    },
    Definition {
        name: "mcrun_group_rtp_duplicated_packets_total",
        kind: Kind::Counter,
        labels: GROUP,
        help: "RTP packets whose sequence number had arrived already, or was too old to tell.",
        samples: |all, out| rtp(all, out, |counts| counts.duplicated),
    },
    Definition {
        name: "mcrun_group_relay_packets_total",
        kind: Kind::Counter,
        labels: &["container", "interface", "parent", "group", "result"],
        help: "Packets of the group in both directions, where a relay carries them.",
        samples: |all, out| {
            for view in &all.groups {
                for (result, number) in view.entry.relay.into_iter().flat_map(results) {
                    out.add(&[&view.labels()[..], &[result]].concat(), number as f64);
                }
            }
        },
    },
    Definition {
        name: "mcrun_upstream_interfaces",
        kind: Kind::Gauge,
        labels: UPSTREAM,
        help: "Interfaces of containers that are attached to the LAN of this interface of the host.",
        samples: |all, out| {
            for view in &all.upstreams {
                out.add(&[view.name], view.users as f64);
            }
        },
    },
    Definition {
        name: "mcrun_querier_present",
        kind: Kind::Gauge,
        labels: UPSTREAM,
        help: "Whether the LAN has an IGMP querier. No value while that is not certain: as long as a \
               querier may be silent, 255 s if none has told its interval.",
        samples: |all, out| presence(all, Protocol::Igmp, out),
    },
    Definition {
        name: "mcrun_querier_info",
        kind: Kind::Gauge,
        labels: &["upstream", "address"],
        help: "1. The address of the querier; 0.0.0.0 for a proxy querier.",
        samples: |all, out| querier_address(all, Protocol::Igmp, out),
    },
    Definition {
        name: "mcrun_querier_version",
        kind: Kind::Gauge,
        labels: UPSTREAM,
        help: "The IGMP version that the querier speaks, 1 to 3.",
        samples: |all, out| querier_version(all, Protocol::Igmp, out),
    },
    Definition {
        name: "mcrun_querier_interval_seconds",
        kind: Kind::Gauge,
        labels: UPSTREAM,
        help: "The query interval that the querier tells. Queries of IGMPv3 alone tell it.",
        samples: |all, out| query_interval(all, Protocol::Igmp, out),
    },
    Definition {
        name: "mcrun_querier_last_query_timestamp_seconds",
        kind: Kind::Gauge,
        labels: UPSTREAM,
        help: "When the last general query was heard, to the second.",
        samples: |all, out| last_query(all, Protocol::Igmp, out),
    },
    Definition {
        name: "mcrun_mld_querier_present",
        kind: Kind::Gauge,
        labels: UPSTREAM,
        help: "Whether the LAN has an MLD querier, where a proxy speaks MLD. No value while that is not \
               certain, as of mcrun_querier_present.",
        samples: |all, out| presence(all, Protocol::Mld, out),
    },
    Definition {
        name: "mcrun_mld_querier_info",
        kind: Kind::Gauge,
        labels: &["upstream", "address"],
        help: "1. The address of the MLD querier.",
        samples: |all, out| querier_address(all, Protocol::Mld, out),
    },
    Definition {
        name: "mcrun_mld_querier_version",
        kind: Kind::Gauge,
        labels: UPSTREAM,
        help: "The MLD version that the MLD querier speaks, 1 or 2.",
        samples: |all, out| querier_version(all, Protocol::Mld, out),
    },
    Definition {
        name: "mcrun_mld_querier_interval_seconds",
        kind: Kind::Gauge,
        labels: UPSTREAM,
        help: "The query interval that the MLD querier tells. Queries of MLDv2 alone tell it.",
        samples: |all, out| query_interval(all, Protocol::Mld, out),
    },
    Definition {
        name: "mcrun_mld_querier_last_query_timestamp_seconds",
        kind: Kind::Gauge,
        labels: UPSTREAM,
        help: "When the last general query of MLD was heard, to the second.",
        samples: |all, out| last_query(all, Protocol::Mld, out),
    },
];

impl InterfaceView<'_> {
    fn labels(&self) -> [&str; 3] {
        let parent = self.record.attachment.parent_link().as_str();
        [&self.container, &self.record.name, parent]
    }
}

impl GroupView<'_> {
    fn labels(&self) -> [&str; 4] {
        [&self.container, self.interface, self.parent, &self.group]
    }
}

fn truth(is_so: bool) -> f64 {
    f64::from(u8::from(is_so))
}

/// The severity of an alarm; `None` for what is none.
fn alarming(severity: Severity) -> Option<&'static str> {
    match severity {
        Severity::Error => Some("error"),
        Severity::Warning => Some("warning"),
        Severity::Info => None,
    }
}

fn results(counts: RelayCounts) -> [(&'static str, u64); 4] {
    [
        ("relayed", counts.relayed),
        ("dropped", counts.dropped),
        ("limited", counts.limited),
        ("denied", counts.denied),
    ]
}

/// A number of what has arrived for each group, 0 before the first packet.
fn arrived(all: &Snapshot<'_>, out: &mut Samples, number: fn(&Counts) -> u64) {
    for view in &all.groups {
        if let Some(arrived) = &view.arrived {
            out.add(&view.labels(), number(&arrived.counts) as f64);
        }
    }
}

/// A number of each group of which most is RTP.
fn rtp(all: &Snapshot<'_>, out: &mut Samples, number: fn(&Counts) -> u64) {
    for view in &all.groups {
        if let Some(arrived) = view.arrived.as_ref().filter(|arrived| arrived.is_rtp) {
            out.add(&view.labels(), number(&arrived.counts) as f64);
        }
    }
}

/// Whether each LAN has a querier, where that is certain.
fn presence(all: &Snapshot<'_>, protocol: Protocol, out: &mut Samples) {
    for view in &all.upstreams {
        let heard = view.queriers.iter().filter(|heard| heard.protocol == protocol);
        for heard in heard.filter(|heard| heard.querier.is_some() || heard.is_missing()) {
            out.add(&[view.name], truth(heard.querier.is_some()));
        }
    }
}

fn queriers(all: &Snapshot<'_>, protocol: Protocol, mut each: impl FnMut(&str, &QuerierStatus)) {
    for view in &all.upstreams {
        let heard = view.queriers.iter().filter(|heard| heard.protocol == protocol);
        for querier in heard.filter_map(|heard| heard.querier) {
            each(view.name, querier);
        }
    }
}

fn querier_address(all: &Snapshot<'_>, protocol: Protocol, out: &mut Samples) {
    queriers(all, protocol, |name, q| out.add(&[name, &q.address.to_string()], 1.0));
}

fn querier_version(all: &Snapshot<'_>, protocol: Protocol, out: &mut Samples) {
    queriers(all, protocol, |name, querier| out.add(&[name], querier.version.into()));
}

fn query_interval(all: &Snapshot<'_>, protocol: Protocol, out: &mut Samples) {
    queriers(all, protocol, |name, querier| {
        if let Some(interval) = querier.interval_s {
            out.add(&[name], interval.into());
        }
    });
}

fn last_query(all: &Snapshot<'_>, protocol: Protocol, out: &mut Samples) {
    let now = all.gathered.now.as_secs();
    queriers(all, protocol, |name, querier| {
        out.add(&[name], now.saturating_sub(querier.last_query_s) as f64);
    });
}
