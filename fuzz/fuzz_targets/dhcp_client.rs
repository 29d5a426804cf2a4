//! A client of DHCPv4 beside a hostile server and hostile stations.
#![no_main]

use libfuzzer_sys::fuzz_target;

mod input;
#[allow(dead_code, reason = "the other protocol has a target of its own")]
mod leases;

fuzz_target!(|data: &[u8]| leases::run::<leases::V4>(data));
