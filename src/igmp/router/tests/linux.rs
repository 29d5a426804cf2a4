//! What a Linux kernel (6.18) sends, as captured, and what it makes of it upstream.

use crate::igmp::router::Status;
use crate::igmp::router::tests::lab::*;
use crate::multicast::SourceFilter;

const ASM: &str = "239.1.1.1";
const SSM: &str = "232.1.1.1";

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}

/// IPv4 header of 24 bytes with Router Alert, TTL 1, from 192.0.2.10 to 224.0.0.22.
fn from_kernel(length_and_checksum: (&str, &str), igmp: &str) -> Vec<u8> {
    let (length, checksum) = length_and_checksum;
    bytes(&format!("46c0{length}000040000102{checksum}c000020ae000001694040000{igmp}"))
}

#[test]
fn reports_of_a_linux_kernel_are_understood() {
    let mut lab = Lab::new();
    let short = ("0028", "41ef");
    let one_source = ("002c", "41eb");
    // IP_ADD_MEMBERSHIP
    lab.packet(&from_kernel(short, "2200e9fb0000000104000000ef010101"));
    assert_eq!(lab.joined(ASM), SourceFilter::any());
    // IP_BLOCK_SOURCE
    lab.packet(&from_kernel(one_source, "2200ddf90000000106000001ef0101010a000001"));
    assert_eq!(lab.joined(ASM), exclude(&["10.0.0.1"]));
    // IP_DROP_MEMBERSHIP
    lab.packet(&from_kernel(short, "2200eafb0000000103000000ef010101"));
    assert_eq!(lab.joined(ASM), SourceFilter::none());
    // IP_ADD_SOURCE_MEMBERSHIP, twice
    lab.packet(&from_kernel(one_source, "2200e5f50000000105000001e80101010a000005"));
    assert_eq!(lab.joined(SSM), include(&["10.0.0.5"]));
    lab.packet(&from_kernel(one_source, "2200e5f40000000105000001e80101010a000006"));
    assert_eq!(lab.joined(SSM), include(&["10.0.0.5", "10.0.0.6"]));
    // IP_DROP_SOURCE_MEMBERSHIP
    lab.packet(&from_kernel(one_source, "2200e4f50000000106000001e80101010a000005"));
    assert_eq!(lab.joined(SSM), include(&["10.0.0.6"]));
    assert_eq!(lab.counter("no_router_alert"), 0);
    assert_eq!(lab.counter("reports_v3"), 6);
}

/// Line 3.1 from nothing: the answer to a general query tells a router that starts late all
/// there is.
#[test]
fn the_answer_of_a_linux_kernel_to_our_query_tells_everything() {
    let mut lab = Lab::new();
    lab.event(|router, now| router.handle_link_up(now));
    let answer = "2200edea0000000202000000ef01010101000002e80101010a0000050a000006";
    lab.packet(&from_kernel(("0038", "41df"), answer));
    assert_eq!(lab.joined(ASM), SourceFilter::any());
    assert_eq!(lab.joined(SSM), include(&["10.0.0.5", "10.0.0.6"]));
    assert_eq!(lab.status(SSM), Some(Status::Allowed));
}
