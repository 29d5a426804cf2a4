//! `mcrun-runtime`: called by Docker, containerd and CRI-O in place of runc. Its command line is
//! that of the runtime it stands in for.

use std::process::ExitCode;

fn main() -> ExitCode {
    mcrun::runtime_wrapper::main(&mcrun::state::config_dir())
}
