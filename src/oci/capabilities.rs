//! Capabilities of a container's command, as docker's options give and take them.

use std::str::FromStr;

use oci_spec::runtime::Capability;

/// What docker gives a container.
const DEFAULT: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// All names, by number (include/uapi/linux/capability.h).
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The capabilities this process may hand on, as a bit set by number.
///
/// # Errors
/// When /proc is not to be had.
pub fn own() -> std::io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        u64::from_str_radix(line.trim(), 16).ok()
    };
    match (field("CapPrm:"), field("CapBnd:")) {
        (Some(permitted), Some(bounding)) => Ok(permitted & bounding),
        _ => Err(std::io::Error::other("no CapPrm and CapBnd in /proc/self/status")),
    }
}

/// docker's default set, less what is not in `own`.
pub fn default_set(own: u64) -> Vec<String> {
    names(own).filter(|name| DEFAULT.contains(name)).map(str::to_owned).collect()
}

/// Everything in `own`.
pub fn all(own: u64) -> Vec<String> {
    names(own).map(str::to_owned).collect()
}

fn names(own: u64) -> impl Iterator<Item = &'static str> {
    NAMES.iter().enumerate().filter(move |(bit, _)| own & (1 << bit) != 0).map(|(_, name)| *name)
}

/// `base` with `--cap-add` and `--cap-drop` applied. As docker has it, `ALL` is everything and a
/// name in both lists is dropped, except that with `--cap-drop ALL` the added ones remain.
///
/// # Errors
/// An unknown name, or one to add that this process does not have itself.
pub fn adjust(
    base: &[String],
    add: &[String],
    drop: &[String],
    own: u64,
) -> Result<Vec<String>, String> {
    let add = parse_list("--cap-add", add)?;
    let drop = parse_list("--cap-drop", drop)?;
    let has = |list: &[String], name: &str| list.iter().any(|n| n == name);
    let mut set = if has(&add, "ALL") {
        all(own)
    } else if has(&drop, "ALL") {
        Vec::new()
    } else {
        base.to_vec()
    };
    for name in &add {
        if name == "ALL" || has(&set, name) {
            continue;
        }
        if !names(own).any(|n| n == name) {
            return Err(format!("--cap-add {name}: mcrun itself does not have this capability"));
        }
        set.push(name.clone());
    }
    set.retain(|name| !has(&drop, name));
    Ok(set)
}

fn parse_list(option: &str, list: &[String]) -> Result<Vec<String>, String> {
    list.iter()
        .map(|text| {
            let upper = text.to_ascii_uppercase();
            let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
            if short == "ALL" {
                return Ok(short.to_owned());
            }
            match Capability::from_str(short) {
                Ok(_) => Ok(format!("CAP_{short}")),
                Err(_) => Err(unknown(option, text, short)),
            }
        })
        .collect()
}

fn unknown(option: &str, text: &str, short: &str) -> String {
    let distance = |name: &&str| strsim::damerau_levenshtein(short, &name[4..]);
    let nearest = NAMES.iter().min_by_key(|name| distance(name));
    let hint = nearest.filter(|name| distance(name) <= 3).map(|name| &name[4..]);
    let hint = hint.map(|name| format!("; did you mean {name}?")).unwrap_or_default();
    format!("{option} {text}: no such capability{hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    const ALL: u64 = (1 << 41) - 1;

    #[test]
    fn every_name_is_one_the_specification_knows() {
        assert_eq!(parse_list("--cap-add", &list(&NAMES)).unwrap(), list(&NAMES));
    }

    #[test]
    fn dockers_rules_of_add_and_drop() {
        let base = default_set(ALL);
        assert_eq!(base.len(), 14);
        let adjusted = |add: &[&str], drop: &[&str]| adjust(&base, &list(add), &list(drop), ALL);
        assert_eq!(adjusted(&["net_admin"], &["ALL"]).unwrap(), ["CAP_NET_ADMIN"]);
        assert_eq!(adjusted(&["CAP_NET_ADMIN"], &[]).unwrap().len(), 15);
        assert_eq!(adjusted(&["CHOWN"], &["CHOWN"]).unwrap().len(), 13);
        assert_eq!(adjusted(&["ALL"], &["SYS_ADMIN"]).unwrap().len(), 40);
    }

    #[test]
    fn unknown_and_unavailable_names_are_refused() {
        let error = adjust(&[], &list(&["NET_ADMN"]), &[], ALL).unwrap_err();
        assert_eq!(error, "--cap-add NET_ADMN: no such capability; did you mean NET_ADMIN?");
        let error = adjust(&[], &list(&["SYS_RESOURCE"]), &[], ALL & !(1 << 24)).unwrap_err();
        assert!(error.contains("CAP_SYS_RESOURCE: mcrun itself does not have"), "{error}");
        assert!(!all(ALL & !(1 << 24)).contains(&"CAP_SYS_RESOURCE".to_owned()));
    }
}
