//! What the kernel does for mcrun, on Linux 6.12: the verifier of another kernel takes other programs.

use crate::lab::Lab;
use crate::operate::doctor::doctor;
use crate::relay_kernel::assert_relayed_by_the_kernel;
use crate::vm;

#[test]
fn the_kernel_relays_and_counts() {
    vm::run(|| {
        assert_relayed_by_the_kernel();
    });
}

#[test]
fn doctor_names_what_the_kernel_does_not_have() {
    vm::run(|| {
        let lab = Lab::new(3);
        let (_, findings) = doctor(&lab, &[]);
        let level = |check: &str| {
            let found = findings.iter().find(|finding| finding["check"] == check);
            found.unwrap_or_else(|| panic!("no {check}: {findings:?}"))["level"].clone()
        };
        assert_eq!(level("kernel-join-notifications"), "warning");
        for check in ["kernel-nf-tables", "kernel-bpf", "kernel-bpf-relay"] {
            assert_eq!(level(check), "ok", "{check}");
        }
    });
}
