//! The control group of all proxies: they do not share the limits and the end of the program that
//! started them, such as containerd or a login session.

use std::io;
use std::os::fd::AsFd;

use crate::sys::cgroup::ControlGroup;
use crate::sys::egress_filter;

/// At the top of the hierarchy, beside the groups of systemd and of engines.
const NAME: &str = "mcrun";
/// Memory of all proxies together, in bytes: some thousand proxies, or some relays with full
/// buffers.
const MEMORY_MAX: &str = "1073741824";
/// Share of the processors beside the other groups, which have 100. A join is short and urgent.
const CPU_WEIGHT: &str = "200";

/// Opens the group; makes it, sets its limits and attaches its filter where that is not done yet.
/// The second value says what the group lacks.
///
/// # Errors
/// Where there is no such group and none can be made.
pub(super) fn open() -> io::Result<(ControlGroup, Option<String>)> {
    let group = ControlGroup::open_or_make(NAME)?;
    let mut lacks = Vec::new();
    if !group.has("memory.max") || !group.has("cpu.weight") {
        // Version 1 may have the controllers, or the level above may not pass them on.
        for controller in ["+memory", "+cpu"] {
            let _ = group.enable(controller);
        }
        if !group.has("memory.max") || !group.has("cpu.weight") {
            lacks.push("the controllers memory and cpu are not in cgroup2".to_owned());
        }
    }
    let is_filtered = match egress_filter::is_attached(group.as_fd()) {
        Ok(true) => return Ok((group, (!lacks.is_empty()).then(|| lacks.join("; ")))),
        Ok(false) => egress_filter::attach(group.as_fd()),
        Err(error) => Err(error),
    };
    // The filter is the last thing that a new group gets.
    for (file, value) in [("memory.max", MEMORY_MAX), ("cpu.weight", CPU_WEIGHT)] {
        if group.has(file)
            && let Err(error) = group.write(file, value)
        {
            lacks.push(format!("{file}: {error}"));
        }
    }
    if let Err(error) = is_filtered {
        lacks.push(format!("a filter of what proxies send cannot be attached: {error}"));
    }
    Ok((group, (!lacks.is_empty()).then(|| lacks.join("; "))))
}
