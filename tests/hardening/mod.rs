//! A proxy worth nothing to an attacker, and what a container or a station of the LAN can make a
//! proxy cost.

mod cgroup2;
mod control_group;
mod descriptors;
mod load;
mod proxy_user;

use std::fs;
use std::time::Duration;

use crate::lab::{Container, Lab};

/// A container with one attachment.
fn attached(lab: &Lab, name: &str, host: u8) -> Container {
    lab.start(name, &format!("10.99.0.{host}"))
}

/// Processor time of a process.
fn processor_time(pid: i32) -> Duration {
    // The first number is the time on a processor in nanoseconds.
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).expect("it runs");
    let time = text.split_whitespace().next().and_then(|word| word.parse().ok());
    Duration::from_nanos(time.expect("a number"))
}
