//! What the kernel does for mcrun, on Linux 6.12: the verifier of another kernel takes other programs.

use crate::relay_kernel::assert_relayed_by_the_kernel;
use crate::vm;

#[test]
fn the_kernel_relays_and_counts() {
    vm::run(|| {
        assert_relayed_by_the_kernel();
    });
}
