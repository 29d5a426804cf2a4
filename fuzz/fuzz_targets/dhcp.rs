//! Frames of the LAN as the process that holds a lease reads them, and what it may ask for.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mcrun::dhcp::{check_answer, check_answer_v6, frame, frame_v6, order};

fuzz_target!(|bytes: &[u8]| {
    check_answer(bytes);
    check_answer_v6(bytes);
    if let Some(payload) = frame_v6::server_payload(bytes) {
        check_answer_v6(payload);
    }
    if let Some((_, payload)) = frame::server_payload(bytes) {
        check_answer(payload);
    }
    if let Some(order) = order::Order::parse(bytes) {
        assert_eq!(order.bytes(), bytes);
    }
});
