//! Containers of LXC and Incus, by the processes that monitor them.
//!
//! liblxc keeps no file that names a container's init. Its monitor does: one that went into the
//! background has the title `[lxc monitor] LXCPATH NAME` (lxccontainer.c, `do_lxcapi_start`), one in
//! the foreground is `lxc-start` or `lxc-execute` with the name on its command line, as the unit
//! `lxc@.service` starts it. The init is a child of the monitor.

use std::path::Path;

use crate::lookup::{ContainerEngine, Machine};

const TITLE: &str = "[lxc monitor] ";
/// Options of lxc-start(1) and lxc-execute(1) that take a value.
const SHORT_WITH_VALUE: &str = "nfscLpolPug";
const LONG_WITH_VALUE: [&str; 15] = [
    "name",
    "rcfile",
    "define",
    "console",
    "console-log",
    "pidfile",
    "logfile",
    "logpriority",
    "lxcpath",
    "uid",
    "gid",
    "share-net",
    "share-ipc",
    "share-uts",
    "share-pid",
];

/// Reads the command line of a monitor; `None` for any other program.
///
/// The name is liblxc's: Incus tells it `PROJECT_INSTANCE` for an instance that is not in the default
/// project.
pub(super) fn parse(line: &[String]) -> Option<Machine> {
    let program = line.first()?;
    if let Some(title) = program.strip_prefix(TITLE) {
        // A name has no space. The path may.
        let (path, name) = title.trim_end().rsplit_once(' ')?;
        return Some(Machine { engine: engine_of(Path::new(path)), name: name.to_owned() });
    }
    let program = Path::new(program).file_name()?.to_str()?;
    if !["lxc-start", "lxc-execute"].contains(&program) {
        return None;
    }
    Some(Machine { engine: ContainerEngine::Lxc, name: named(&line[1..])? })
}

/// Whose containers are kept in a directory.
fn engine_of(path: &Path) -> ContainerEngine {
    match (path.ends_with("incus/containers"), path.ends_with("lxd/containers")) {
        (true, _) => ContainerEngine::Incus,
        (_, true) => ContainerEngine::Runtime,
        _ => ContainerEngine::Lxc,
    }
}

/// The container that `lxc-start` or `lxc-execute` was told to start: the value of `--name`, or else
/// the first argument that belongs to no option (getopt_long(3)).
fn named(arguments: &[String]) -> Option<String> {
    let mut positional = None;
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if let Some(long) = argument.strip_prefix("--") {
            if long.is_empty() {
                positional = positional.or_else(|| rest.next());
                break;
            }
            let (option, value) = match long.split_once('=') {
                Some((option, value)) => (option, Some(value)),
                None if LONG_WITH_VALUE.contains(&long) => (long, Some(rest.next()?.as_str())),
                None => (long, None),
            };
            if option == "name" {
                return value.map(str::to_owned);
            }
        } else if let Some(letters) = argument.strip_prefix('-').filter(|s| !s.is_empty()) {
            let Some(at) = letters.find(|c| SHORT_WITH_VALUE.contains(c)) else { continue };
            let (option, value) = letters[at..].split_at(1);
            let value = if value.is_empty() { rest.next()?.as_str() } else { value };
            if option == "n" {
                return Some(value.to_owned());
            }
        } else {
            positional = positional.or(Some(argument));
        }
    }
    positional.cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    fn name(line: &str) -> Option<String> {
        parse(&words(line)).map(|found| found.name)
    }

    #[test]
    fn a_monitor_in_the_background_has_a_title() {
        for (title, engine, name) in [
            ("[lxc monitor] /var/lib/lxc cam", ContainerEngine::Lxc, "cam"),
            ("[lxc monitor] /srv/my containers cam", ContainerEngine::Lxc, "cam"),
            ("[lxc monitor] /var/lib/incus/containers cam", ContainerEngine::Incus, "cam"),
            (
                "[lxc monitor] /var/snap/lxd/common/lxd/containers cam",
                ContainerEngine::Runtime,
                "cam",
            ),
        ] {
            let expected = Machine { engine, name: name.to_owned() };
            assert_eq!(parse(&[title.to_owned()]), Some(expected), "{title}");
        }
        for other in ["[lxc monitor]", "[lxc monitor] ", "[lxc monitor] cam", "", "sh"] {
            assert_eq!(parse(&[other.to_owned()]), None, "{other}");
        }
        assert_eq!(parse(&[]), None);
    }

    #[test]
    fn a_monitor_in_the_foreground_has_the_name_on_its_command_line() {
        for line in [
            "/usr/bin/lxc-start -F -n cam",
            "lxc-start --foreground --name=cam",
            "lxc-start -P /srv/lxc cam -F",
            "lxc-start --lxcpath /srv/lxc --name cam",
            "lxc-start -Fncam",
            "lxc-start -s lxc.uts.name=n -Fn cam",
            "lxc-execute -l DEBUG cam -- sleep 10",
            "lxc-execute -- cam sleep 10",
        ] {
            assert_eq!(name(line).as_deref(), Some("cam"), "{line}");
        }
        for other in
            ["lxc-start", "lxc-start -n", "lxc-start -F", "lxc-stop -n cam", "lxc-start --name"]
        {
            assert_eq!(name(other), None, "{other}");
        }
    }
}
