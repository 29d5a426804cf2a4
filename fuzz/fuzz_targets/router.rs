//! Arbitrary sequences of events for the router that speaks IGMP: nothing panics, everything stays
//! bounded, and upstream is never told what the policy forbids.
#![no_main]

use libfuzzer_sys::fuzz_target;

mod events;
mod input;

fuzz_target!(|data: &[u8]| events::run::<mcrun::igmp::Igmp>(data));
