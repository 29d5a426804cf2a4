//! What the demonstration found: the table, the JSON and the promise.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::demo::capture::Seen;
use crate::demo::family::Family;
use crate::primitives::MacAddr;
use crate::probe::ReceiveResult;

/// A gap from which on a stream counts as interrupted, even if nothing is known to be lost.
const INTERRUPTED: Duration = Duration::from_secs(1);

/// The result of a demonstration; `mcrun demo --json` prints it.
#[derive(Debug, Clone, Serialize)]
pub struct DemoResult {
    /// Containers attached by mcrun.
    pub mcrun: ScenarioResult,
    /// The same on plain macvlan interfaces.
    pub macvlan: ScenarioResult,
    /// What mcrun promised and did not keep, a sentence each; empty when all is well.
    pub broken: Vec<String>,
}

/// What was seen in one half.
#[derive(Debug, Clone, Serialize)]
pub struct ScenarioResult {
    /// Packets that container 2, which stays, received.
    pub packets: u64,
    /// Packets it lost; `null` if unknown.
    pub lost: Option<u64>,
    /// Its longest time without a packet, in milliseconds.
    pub longest_gap_ms: f64,
    /// Packets that container 1 received, which joined after it and left early.
    pub first_container_packets: u64,
    /// Hardware addresses that sent IGMP, or MLD with IPv6, through the switch port: the hosts it sees.
    pub igmp_hosts: Vec<MacAddr>,
    /// IGMP or MLD queries that came from behind the port; a host sends none.
    pub queries: u64,
}

impl ScenarioResult {
    pub(super) fn new(first: &ReceiveResult, second: &ReceiveResult, seen: &Seen) -> Self {
        let gap = second.longest_gap.unwrap_or(second.elapsed);
        ScenarioResult {
            packets: second.packets,
            lost: second.lost,
            longest_gap_ms: (gap.as_secs_f64() * 1e6).round() / 1e3,
            first_container_packets: first.packets,
            igmp_hosts: seen.hosts.iter().copied().collect(),
            queries: seen.queries,
        }
    }

    /// What of mcrun's promise this half breaks, when `host` is the host's hardware address.
    fn broken(&self, host: MacAddr, family: Family) -> Vec<String> {
        let mut broken = Vec::new();
        let protocol = family.protocol();
        match self.lost {
            Some(0) => {}
            Some(lost) => broken.push(format!("container 2 lost {lost} packets")),
            None => broken.push("what container 2 lost is unknown".into()),
        }
        if self.longest_gap_ms > INTERRUPTED.as_secs_f64() * 1e3 {
            broken.push(format!("container 2 heard nothing for {:.0} ms", self.longest_gap_ms));
        }
        if self.igmp_hosts != [host] {
            let hosts: Vec<String> = self.igmp_hosts.iter().map(MacAddr::to_string).collect();
            let hosts = if hosts.is_empty() { "none".into() } else { hosts.join(", ") };
            broken.push(format!(
                "the switch port saw the {protocol} of {hosts}, not of {host} alone"
            ));
        }
        if self.queries > 0 {
            broken.push(format!("{} {protocol} queries came from the host", self.queries));
        }
        broken
    }

    fn row(&self, name: &str) -> Vec<String> {
        vec![
            name.into(),
            self.packets.to_string(),
            self.lost.map_or("?".into(), |lost| lost.to_string()),
            format!("{:.1} ms", self.longest_gap_ms),
            self.igmp_hosts.len().to_string(),
        ]
    }
}

impl DemoResult {
    pub(super) fn new(
        mcrun: ScenarioResult,
        macvlan: ScenarioResult,
        host: MacAddr,
        family: Family,
    ) -> Self {
        let broken = mcrun.broken(host, family);
        DemoResult { mcrun, macvlan, broken }
    }

    /// Both halves in a table.
    pub(super) fn table(&self, family: Family) -> String {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        let hosts = format!("{} hosts on the port", family.protocol());
        let head = ["container 2", "packets", "lost", "longest gap", &hosts];
        table.set_header(head);
        table.add_row(self.mcrun.row("mcrun"));
        table.add_row(self.macvlan.row("bare macvlan"));
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(last: u8) -> MacAddr {
        MacAddr::from_slice(&[2, 0, 0, 0, 0, last]).unwrap()
    }

    fn good() -> ScenarioResult {
        ScenarioResult {
            packets: 9000,
            lost: Some(0),
            longest_gap_ms: 3.2,
            first_container_packets: 2000,
            igmp_hosts: vec![mac(1)],
            queries: 0,
        }
    }

    #[test]
    fn a_kept_promise_is_not_broken() {
        assert_eq!(good().broken(mac(1), Family::V4), [""; 0]);
    }

    #[test]
    fn each_broken_part_is_named() {
        for (half, says) in [
            (ScenarioResult { lost: Some(7), ..good() }, "lost 7 packets"),
            (ScenarioResult { lost: None, ..good() }, "unknown"),
            (ScenarioResult { longest_gap_ms: 3000.0, ..good() }, "nothing for 3000 ms"),
            (ScenarioResult { igmp_hosts: vec![], ..good() }, "IGMP of none"),
            (ScenarioResult { igmp_hosts: vec![mac(2)], ..good() }, "IGMP of 02:00:00:00:00:02"),
            (
                ScenarioResult { igmp_hosts: vec![mac(1), mac(2)], ..good() },
                "not of 02:00:00:00:00:01 alone",
            ),
            (ScenarioResult { queries: 1, ..good() }, "1 IGMP queries"),
        ] {
            let broken = half.broken(mac(1), Family::V4);
            assert!(broken.len() == 1 && broken[0].contains(says), "{broken:?}");
        }
    }

    #[test]
    fn the_table_has_both_halves() {
        let macvlan =
            ScenarioResult { lost: Some(3600), igmp_hosts: vec![mac(2), mac(3)], ..good() };
        let table = DemoResult::new(good(), macvlan, mac(1), Family::V4).table(Family::V4);
        let rows: Vec<&str> = table.lines().collect();
        assert!(rows[2].contains("mcrun") && rows[2].contains(" 3.2 ms "), "{table}");
        assert!(rows[3].contains("bare macvlan") && rows[3].contains(" 3600 "), "{table}");
    }
}
