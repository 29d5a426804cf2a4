//! What asks for systemd as the first process: its control groups, its units, what it stores for a service.
//! The tests run in a virtual machine that boots (`make test-vm`), and the container host is the machine
//! itself, with mcrun where `make install` puts it.

mod keeper;
mod machines;
mod pod;
mod quadlet;

use std::process::Command;

use crate::lab::{PATIENCE, run, wait_until};

/// `systemctl ARGUMENTS`, which has to succeed.
fn systemctl(arguments: &[&str]) {
    run(Command::new("systemctl").args(arguments));
}

/// A property of a unit, as systemd shows it.
fn property(unit: &str, name: &str) -> String {
    let value = run(Command::new("systemctl").args(["show", "--property", name, "--value", unit]));
    value.trim().to_owned()
}

/// The same where it is a number.
fn number(unit: &str, name: &str) -> u64 {
    let value = property(unit, name);
    value.parse().unwrap_or_else(|e| panic!("{unit}: {name}={value}: {e}"))
}

/// Waits until a unit runs with another main process than this one, which is told.
fn wait_for_successor(unit: &str, before: u64) -> u64 {
    wait_until(&format!("{unit} runs anew"), 2 * PATIENCE, || {
        let pid = number(unit, "MainPID");
        (property(unit, "ActiveState") == "active" && pid != before && pid != 0).then_some(pid)
    })
}
