//! The control group of all proxies: they do not share the limits and the end of the program that
//! started them, such as containerd or a login session.

use std::io;
use std::os::fd::AsFd;

use crate::sys::cgroup::ControlGroup;
use crate::sys::egress_filter;

/// At the top of the hierarchy, beside the groups of systemd and of engines.
pub(crate) const NAME: &str = "mcrun";
/// The limits, each a file and its value.
const LIMITS: [(&str, &str); 2] = [
    // Bytes of all proxies together: some thousand proxies, or some relays with full buffers.
    ("memory.max", "1073741824"),
    // Share of the processors beside other groups, which have 100. A join is short and urgent.
    ("cpu.weight", "200"),
];

/// Opens the group; makes it, sets its limits and attaches its filter where that is not done yet.
/// The second value says what the group lacks.
///
/// # Errors
/// Where there is no such group and none can be made.
pub(super) fn open() -> io::Result<(ControlGroup, Option<String>)> {
    let group = ControlGroup::open_or_make(NAME)?;
    let mut lacks = Vec::new();
    // The filter is the last thing that a new group gets.
    if !matches!(egress_filter::is_attached(group.as_fd()), Ok(true)) {
        for controller in ["+memory", "+cpu"] {
            // Version 1 may have the controller. Whether its files are there is looked at below.
            let _ = group.enable(controller);
        }
        for (file, value) in LIMITS {
            if group.has(file)
                && let Err(error) = group.write(file, value)
            {
                lacks.push(format!("{file} cannot be set: {error}"));
            }
        }
        if let Err(error) = egress_filter::attach(group.as_fd()) {
            lacks.push(format!("a filter of what proxies send cannot be attached: {error}"));
        }
    }
    if !LIMITS.iter().all(|(file, _)| group.has(file)) {
        lacks.push("the controllers memory and cpu are not in cgroup2".to_owned());
    }
    Ok((group, (!lacks.is_empty()).then(|| lacks.join("; "))))
}

/// Removes the group if no process is in it. One without the filter is not mcrun's.
pub(crate) fn remove_unused() {
    let Ok(group) = ControlGroup::find(NAME) else { return };
    if matches!(egress_filter::is_attached(group.as_fd()), Ok(true)) {
        // It stays while it has processes.
        let _ = group.remove();
    }
}
