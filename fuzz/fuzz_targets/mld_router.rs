//! The same sequences of events for the router that speaks MLD.
#![no_main]

use libfuzzer_sys::fuzz_target;

mod events;
mod input;

fuzz_target!(|data: &[u8]| events::run::<mcrun::mld::Mld>(data));
