//! What a test stream through the switch proves.

use crate::doctor::facts::{Fact, TestStream};
use crate::doctor::finding::{Finding, Findings, Subject};

/// The findings of a test stream to this parent.
pub(crate) fn check(parent: &str, stream: &Fact<TestStream>) -> Vec<Finding> {
    const JOINED: &str = "send-joined";
    const OTHER: &str = "send-other";
    let mut findings = Findings::of(Subject::Parent { parent: parent.to_owned() });
    let TestStream { from, group, other, sent, arrived: [joined, unasked] } = match stream {
        Ok(stream) => stream,
        Err(why) => {
            let text = format!("whether the switch forwards what is joined, and only that: {why}");
            findings.unknown("send", text);
            return findings.done();
        }
    };
    let text =
        format!("{joined} of {sent} packets from {from} to {group}, which is joined, arrived");
    if joined == sent {
        findings.ok(JOINED, text);
    } else if *joined > 0 {
        findings.warning(JOINED, text, "look for errors and load at the ports of the switch");
    } else {
        findings.failure(
            JOINED,
            format_args!("{text}: the switch does not forward what is joined"),
            "look at the switch: IGMP snooping, its querier, and whether reports of this port are let in",
        );
    }
    if *unasked == 0 {
        findings.ok(
            OTHER,
            format_args!(
                "none of {sent} packets from {from} to {other}, which is not joined, arrived"
            ),
        );
    } else {
        findings.warning(
            OTHER,
            format_args!(
                "{unasked} of {sent} packets from {from} to {other}, which is not joined, arrived: the \
                 switch floods"
            ),
            "turn IGMP snooping on at the switch, and see that the LAN has a querier",
        );
    }
    findings.done()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::doctor::Level;

    fn levels(arrived: [u32; 2]) -> Vec<(&'static str, Level)> {
        let stream = TestStream {
            from: "eth2".to_owned(),
            group: Ipv4Addr::new(239, 255, 1, 1),
            other: Ipv4Addr::new(239, 255, 1, 2),
            sent: 25,
            arrived,
        };
        check("eth1", &Ok(stream)).into_iter().map(|f| (f.check, f.level)).collect()
    }

    #[test]
    fn what_arrives_says_what_the_switch_does() {
        let both = |joined, other| vec![("send-joined", joined), ("send-other", other)];
        assert_eq!(levels([25, 0]), both(Level::Ok, Level::Ok));
        assert_eq!(levels([25, 25]), both(Level::Ok, Level::Warning));
        assert_eq!(levels([24, 0]), both(Level::Warning, Level::Ok));
        assert_eq!(levels([0, 0]), both(Level::Failure, Level::Ok));
        let unknown = check("eth1", &Err("one port".to_owned()));
        assert_eq!(unknown.iter().map(|f| f.level).collect::<Vec<_>>(), [Level::Unknown]);
    }
}
