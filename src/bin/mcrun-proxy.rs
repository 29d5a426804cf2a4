//! `mcrun-proxy`: the IGMP proxy of one container, started by the hook.

use std::process::ExitCode;

fn main() -> ExitCode {
    mcrun::proxy::main()
}
