//! Whether a command can be run in a root filesystem.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use serde_json::Value;

use crate::oci::spec::DEFAULT_PATH;

/// What is at a command's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CommandState {
    /// Nothing.
    Missing,
    /// A directory, or a file without permission to execute.
    NotExecutable,
    /// A file that may be executed, or nobody looked.
    Executable,
}

/// A command, and what is at its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CommandCheck {
    name: String,
    state: CommandState,
}

impl CommandCheck {
    /// Of no command.
    pub(super) fn none() -> Self {
        CommandCheck { name: String::new(), state: CommandState::Executable }
    }

    #[cfg(test)]
    pub(super) fn of(name: &str, state: CommandState) -> Self {
        CommandCheck { name: name.to_owned(), state }
    }

    /// Looks for the command of `process`, the object of config.json, below `rootfs`.
    ///
    /// Mounts of a container that has not started are not seen, which is why a runtime's own
    /// message has to name the command before this counts.
    pub(super) fn new(rootfs: &Path, process: Option<&Value>) -> Self {
        let text = |pointer: &str| process.and_then(|p| p.pointer(pointer)?.as_str());
        let Some(name) = text("/args/0").filter(|name| !name.is_empty()) else {
            return Self::none();
        };
        let Ok(root) = File::open(rootfs).map(OwnedFd::from) else { return Self::none() };
        let cwd = Path::new(text("/cwd").unwrap_or("/"));
        let candidates: Vec<PathBuf> = if name.contains('/') {
            vec![cwd.join(name)]
        } else {
            let variables = process.and_then(|p| p.get("env")?.as_array());
            let variables = variables.into_iter().flatten().filter_map(Value::as_str);
            let path = variables.filter_map(|entry| entry.strip_prefix("PATH=")).next_back();
            let path = path.unwrap_or(DEFAULT_PATH);
            std::env::split_paths(path).map(|dir| cwd.join(dir).join(name)).collect()
        };
        let mut state = CommandState::Missing;
        for path in candidates {
            match state_of(&root, &path) {
                CommandState::Missing => {}
                CommandState::Executable => {
                    return Self { name: name.to_owned(), state: CommandState::Executable };
                }
                CommandState::NotExecutable => state = CommandState::NotExecutable,
            }
        }
        CommandCheck { name: name.to_owned(), state }
    }

    /// The command as it was given.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What is at its place.
    pub(super) fn state(&self) -> CommandState {
        self.state
    }

    /// Whether a message names the command, as a word of its own.
    pub(super) fn is_named_in(&self, message: &str) -> bool {
        let inside = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '/' | '.');
        !self.name.is_empty()
            && message.match_indices(&self.name).any(|(at, found)| {
                !message[..at].ends_with(inside) && !message[at + found.len()..].starts_with(inside)
            })
    }
}

/// Resolves links as the container would, with `root` as its root (openat2(2), `RESOLVE_IN_ROOT`).
fn state_of(root: &OwnedFd, path: &Path) -> CommandState {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT);
    let Ok(file) = openat2(root, path, how) else { return CommandState::Missing };
    match std::fs::metadata(format!("/proc/self/fd/{}", file.as_raw_fd())) {
        Ok(found) if found.is_file() && found.permissions().mode() & 0o111 != 0 => {
            CommandState::Executable
        }
        _ => CommandState::NotExecutable,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_command_is_looked_for_as_the_container_would() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::fs::create_dir_all(root.join("usr/bin")).unwrap();
        std::fs::write(root.join("usr/bin/tool"), "").unwrap();
        std::fs::write(root.join("plain"), "").unwrap();
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(root.join("usr/bin/tool"), mode).unwrap();
        // An absolute link that leads elsewhere on the host.
        symlink("/usr/bin", root.join("bin")).unwrap();
        let state = |command: &str, cwd: &str| {
            let process = json!({ "args": [command], "cwd": cwd, "env": ["PATH=/sbin:/bin"] });
            CommandCheck::new(root, Some(&process)).state()
        };
        assert_eq!(state("tool", "/"), CommandState::Executable);
        assert_eq!(state("/bin/tool", "/"), CommandState::Executable);
        assert_eq!(state("./tool", "/usr/bin"), CommandState::Executable);
        assert_eq!(state("sh", "/"), CommandState::Missing);
        assert_eq!(state("/plain", "/"), CommandState::NotExecutable);
        assert_eq!(state("/usr", "/"), CommandState::NotExecutable);
    }

    #[test]
    fn a_command_is_named_as_a_word() {
        let command = CommandCheck::of("sh", CommandState::Missing);
        for text in ["exec: \"sh\": x", "`sh` x", "sh: not found"] {
            assert!(command.is_named_in(text), "{text}");
        }
        for text in ["/usr/share", "mount /bin/sh: x", "crash", "sh.log", ""] {
            assert!(!command.is_named_in(text), "{text}");
        }
    }
}
