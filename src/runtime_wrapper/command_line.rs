//! The command line of OCI runtimes, as far as it must be understood.
//!
//! runc's is the contract (github.com/opencontainers/runc, main.go, create.go); crun and youki
//! have the same options and a few of their own. An option takes its value after `=` or as the
//! next argument; Go's parser takes one dash for two.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Options before the subcommand whose value may be the next argument.
const GLOBAL_VALUES: &[&str] = &[
    "root",
    "log",
    "log-format",
    "log-level",
    "criu",
    "rootless",
    "cgroup-manager",
    // Short forms of youki.
    "r",
    "l",
];

/// The same after `create`, `run` and `restore`.
const COMMAND_VALUES: &[&str] = &[
    "bundle",
    "b",
    "console-socket",
    "pidfd-socket",
    "pid-file",
    "preserve-fds",
    "config",
    "f",
    "image-path",
    "work-path",
    "parent-path",
    "manage-cgroups-mode",
    "empty-ns",
    "lsm-profile",
    "lsm-mount-context",
    // Short forms of youki.
    "p",
    "c",
];

/// What a runtime was told.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct RuntimeCommandLine {
    command: Option<OsString>,
    bundle: Option<PathBuf>,
    /// The first argument of the command that is no option: the container's id.
    container: Option<OsString>,
    /// How many arguments stand before the subcommand.
    options: usize,
    /// Where the runtime keeps what it knows of containers, if that was told.
    pub(super) root: Option<PathBuf>,
    /// Where it is to write the process id of a container.
    pub(super) pid_file: Option<PathBuf>,
    /// Where the runtime is to log.
    pub(super) log: Option<PathBuf>,
    /// Whether it is to log JSON.
    pub(super) log_json: bool,
}

impl RuntimeCommandLine {
    /// Reads the arguments after the program's name. There is no wrong command line here: to
    /// complain is for the real runtime.
    pub(super) fn parse(arguments: &[OsString]) -> Self {
        let mut line = RuntimeCommandLine::default();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let Some((name, attached)) = option(argument) else {
                // The subcommand. `--` may stand before it.
                if argument != "--" {
                    line.command = Some(argument.clone());
                    line.options = arguments.len() - rest.as_slice().len() - 1;
                    break;
                }
                continue;
            };
            let takes_value = attached.is_none() && GLOBAL_VALUES.iter().any(|n| *n == name);
            let value = if takes_value { rest.next().map(OsString::as_os_str) } else { attached };
            match (name.to_str(), value) {
                (Some("root" | "r"), Some(value)) => line.root = Some(value.into()),
                (Some("log" | "l"), Some(value)) => line.log = Some(value.into()),
                (Some("log-format"), Some(value)) => line.log_json = value == "json",
                _ => {}
            }
        }
        while let Some(argument) = rest.next() {
            if argument == "--" {
                line.container = line.container.or_else(|| rest.next().cloned());
                break;
            }
            // Options may stand behind the container's id for runtimes that are not Go's.
            let Some((name, attached)) = option(argument) else {
                line.container.get_or_insert_with(|| argument.clone());
                continue;
            };
            let takes_value = attached.is_none() && COMMAND_VALUES.iter().any(|n| *n == name);
            let value = if takes_value { rest.next().map(OsString::as_os_str) } else { attached };
            match (name.to_str(), value) {
                (Some("bundle" | "b"), Some(value)) => line.bundle = Some(value.into()),
                (Some("pid-file" | "p"), Some(value)) => line.pid_file = Some(value.into()),
                _ => {}
            }
        }
        line
    }

    /// The id of a container whose command is about to run; `None` for every other command.
    pub(super) fn started(&self) -> Option<&OsStr> {
        self.container_of("start")
    }

    /// The id of a container that is about to be created, and not started; `None` for every other
    /// command.
    pub(super) fn created(&self) -> Option<&OsStr> {
        self.container_of("create")
    }

    /// The id of a container that is about to be deleted; `None` for every other command.
    pub(super) fn deleted(&self) -> Option<&OsStr> {
        self.container_of("delete")
    }

    fn container_of(&self, command: &str) -> Option<&OsStr> {
        self.container.as_deref().filter(|_| self.command.as_deref() == Some(OsStr::new(command)))
    }

    /// The arguments before the subcommand, of all arguments.
    pub(super) fn options<'a>(&self, arguments: &'a [OsString]) -> &'a [OsString] {
        &arguments[..self.options]
    }

    /// Whether a container is about to be made and not yet started: the runtime ends soon.
    pub(super) fn creates(&self) -> bool {
        self.command.as_deref() == Some(OsStr::new("create"))
    }

    /// Whether a container is about to be made and started at once: the runtime lasts as long as it, or
    /// ends when it is started.
    pub(super) fn runs(&self) -> bool {
        self.command.as_deref() == Some(OsStr::new("run"))
    }

    /// The bundle of a container that is about to be made; `None` for every other command. Without
    /// `--bundle` it is the working directory.
    pub(super) fn bundle(&self) -> Option<PathBuf> {
        let command = self.command.as_deref()?.to_str()?;
        matches!(command, "create" | "run" | "restore")
            .then(|| self.bundle.clone().unwrap_or_else(|| ".".into()))
    }
}

/// An option's name without dashes, and the value attached to it.
fn option(argument: &OsStr) -> Option<(&OsStr, Option<&OsStr>)> {
    let bytes = argument.as_bytes();
    let name = bytes.strip_prefix(b"--").or_else(|| bytes.strip_prefix(b"-"))?;
    if name.is_empty() {
        return None;
    }
    match name.iter().position(|byte| *byte == b'=') {
        Some(at) => {
            Some((OsStr::from_bytes(&name[..at]), Some(OsStr::from_bytes(&name[at + 1..]))))
        }
        None => Some((OsStr::from_bytes(name), None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> RuntimeCommandLine {
        RuntimeCommandLine::parse(&text.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn the_bundle_is_found_wherever_it_stands() {
        for text in [
            // As containerd's shim calls runc, and dockerd.
            "--root /run/runc/k8s.io --log /b/log.json --log-format json --systemd-cgroup create --bundle /b --pid-file /b/init.pid c1",
            "--systemd-cgroup --log=/l --root=/create create --pid-file /p --bundle=/b c1",
            "--root create create -b /b c1",
            "-root /x -debug create -bundle /b c1",
            "--debug=true --rootless auto run -d -b=/b --console-socket /s c1",
            "--cgroup-manager systemd --log-level debug run --preserve-fds 3 --bundle /b c1",
            // As conmon calls crun.
            "-l /x -r /y create c1 --bundle /b",
            "restore --image-path /i --bundle /b c1",
            "run --pid-file --bundle --bundle /b c1",
        ] {
            assert_eq!(parse(text).bundle(), Some("/b".into()), "{text}");
        }
        assert_eq!(parse("--root /x create c1").bundle(), Some(".".into()));
    }

    #[test]
    fn other_commands_have_no_bundle() {
        for text in [
            "",
            "--version",
            "features",
            "--root create",
            "--root /x state c1",
            "exec --process /p c1 create --bundle /b",
            "spec --bundle /b",
            "kill c1 15",
            "--log",
        ] {
            assert_eq!(parse(text).bundle(), None, "{text}");
        }
        assert_eq!(parse("create -- --bundle /b").bundle(), Some(".".into()));
    }

    #[test]
    fn the_container_that_is_started_is_found() {
        for text in [
            "--root /run/docker/runtime-runc/moby --log /l --log-format json start c1",
            "start c1",
            "start -- c1",
            "--root start start c1 c2",
        ] {
            assert_eq!(parse(text).started(), Some(OsStr::new("c1")), "{text}");
        }
        for text in ["state c1", "start", "create --bundle /b start", "--root start"] {
            assert_eq!(parse(text).started(), None, "{text}");
        }
    }

    #[test]
    fn where_errors_go() {
        let line = parse("--log /run/log.json --log-format=json create c1");
        assert_eq!((line.log, line.log_json), (Some("/run/log.json".into()), true));
        let line = parse("--log=/run/log create --log /else c1");
        assert_eq!((line.log, line.log_json), (Some("/run/log".into()), false));
    }

    #[test]
    fn what_was_told_of_files_is_found() {
        let text = "--root /run/x --log=/l create --bundle /b --pid-file /b/init.pid c1";
        let arguments: Vec<_> = text.split_whitespace().map(OsString::from).collect();
        let line = RuntimeCommandLine::parse(&arguments);
        assert_eq!(line.options(&arguments), &arguments[..3]);
        assert_eq!((line.root, line.pid_file), (Some("/run/x".into()), Some("/b/init.pid".into())));
        assert_eq!(parse("--root=/x delete --force c1").deleted(), Some(OsStr::new("c1")));
        assert_eq!(parse("create c1").created(), Some(OsStr::new("c1")));
        assert_eq!(parse("create c1").deleted(), None);
    }

    #[test]
    fn arguments_need_not_be_text() {
        let odd = OsString::from(OsStr::from_bytes(b"--bundle=/\xff"));
        let line = RuntimeCommandLine::parse(&["create".into(), odd]);
        assert_eq!(line.bundle(), Some(OsStr::from_bytes(b"/\xff").into()));
    }
}
