//! Which engine there is, and what it can do.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::engine::delivery::{DockerInfo, EngineFacts, major};
use crate::engine::option_table::HelpOptions;
use crate::engine::{EngineError, podman};

/// The engines that run images, in the order in which they are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineKind {
    /// docker.
    Docker,
    /// podman, also under the name docker.
    Podman,
    /// nerdctl.
    Nerdctl,
}

const KINDS: [(&str, EngineKind); 3] = [
    ("docker", EngineKind::Docker),
    ("podman", EngineKind::Podman),
    ("nerdctl", EngineKind::Nerdctl),
];

impl EngineKind {
    /// The engine of this name or path; `None` for an OCI runtime, or whatever else it is.
    pub fn of(name: &OsStr) -> Option<Self> {
        let name = Path::new(name).file_name()?;
        KINDS.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
    }
}

/// An engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Engine {
    /// The program.
    pub program: PathBuf,
    /// Which one it is.
    pub kind: EngineKind,
    /// What it said of itself already.
    facts: Option<EngineFacts>,
}

impl Engine {
    /// The engine of a name or path. `origin` begins error messages: `--engine ` or
    /// `MCRUN_ENGINE=`.
    ///
    /// # Errors
    /// When it is none of the three, or not there.
    pub fn named(name: &OsStr, origin: &str) -> Result<Self, EngineError> {
        let text = || format!("{origin}{}", name.to_string_lossy());
        let kind = EngineKind::of(name).ok_or_else(|| match name.to_str() {
            Some("lxc" | "incus" | "nspawn") => EngineError::AttachOnly(text()),
            _ => EngineError::UnknownEngine(text()),
        })?;
        let path = Path::new(name);
        let program = if path.components().count() > 1 {
            Some(path.to_owned()).filter(|path| is_program(path))
        } else {
            in_path(name)
        };
        let program = program.ok_or_else(|| EngineError::NoSuchEngine(text()))?;
        Ok(Engine { program, kind, facts: None })
    }

    /// The first usable engine: docker if its daemon answers, then podman, then nerdctl. If only
    /// one is installed, it is taken without a check: its own errors say what is wrong.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(state_dir: &Path) -> Result<Self, EngineError> {
        let there = KINDS.iter().filter_map(|(name, kind)| {
            let program = in_path(OsStr::new(name))?;
            Some(Engine { program, kind: *kind, facts: None })
        });
        let mut there: Vec<_> = there.collect();
        if there.len() > 1 && there[0].kind == EngineKind::Docker {
            match there[0].facts(state_dir) {
                Ok(facts) => there[0].facts = Some(facts),
                Err(_) => drop(there.remove(0)),
            }
        }
        there.into_iter().next().ok_or(EngineError::NoEngine)
    }

    /// What it can do, asked of itself. mcrun's hooks for podman are written below `state_dir`
    /// where they are not installed.
    ///
    /// # Errors
    /// When it does not answer, or mcrun's hooks cannot be given to podman.
    pub fn facts(&self, state_dir: &Path) -> Result<EngineFacts, EngineError> {
        if let Some(facts) = &self.facts {
            return Ok(facts.clone());
        }
        match self.kind {
            EngineKind::Docker => {
                let text = self.ask(&["info", "--format", "{{json .}}"])?;
                let info: DockerInfo = serde_json::from_str(&text).unwrap_or_default();
                match info.server_version.as_str() {
                    // podman installed under the name docker has no such key.
                    "" if text.contains("\"conmon\"") => self.podman(state_dir),
                    "" => Err(EngineError::NoDaemon),
                    _ => Ok(EngineFacts::Docker(info)),
                }
            }
            EngineKind::Podman => self.podman(state_dir),
            EngineKind::Nerdctl => Ok(EngineFacts::Nerdctl { major: self.major()? }),
        }
    }

    fn podman(&self, state_dir: &Path) -> Result<EngineFacts, EngineError> {
        Ok(EngineFacts::Podman { major: self.major()?, hooks_dirs: podman::hooks_dirs(state_dir)? })
    }

    /// The major version that `--version` tells, as in `podman version 4.3.1`.
    fn major(&self) -> Result<u32, EngineError> {
        let text = self.ask(&["--version"])?;
        Ok(text.split_whitespace().map(major).find(|version| *version > 0).unwrap_or(0))
    }

    /// Full ids of those of these arguments that are containers of its own, each on a line.
    pub fn ids(&self, arguments: &[OsString]) -> String {
        let names = arguments.iter().filter(|argument| !argument.as_bytes().starts_with(b"-"));
        let mut asked: Vec<&OsStr> =
            ["container", "inspect", "--format", "{{.Id}}"].iter().map(OsStr::new).collect();
        asked.extend(names.map(OsString::as_os_str));
        self.ask(&asked).unwrap_or_default()
    }

    /// The options of one of its commands, as its help tells them.
    pub fn help(&self, command: &str) -> HelpOptions {
        HelpOptions::parse(&self.ask(&[command, "--help"]).unwrap_or_default())
    }

    fn ask<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Result<String, EngineError> {
        let output = Command::new(&self.program)
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .map_err(|source| EngineError::Exec { program: self.program.clone(), source })?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn in_path(name: &OsStr) -> Option<PathBuf> {
    let search: OsString =
        std::env::var_os("PATH").unwrap_or_else(|| crate::oci::spec::DEFAULT_PATH.into());
    std::env::split_paths(&search)
        .map(|directory| directory.join(name))
        .find(|path| path.is_absolute() && is_program(path))
}

fn is_program(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_are_told_from_runtimes_by_name() {
        assert_eq!(EngineKind::of(OsStr::new("/usr/local/bin/docker")), Some(EngineKind::Docker));
        assert_eq!(EngineKind::of(OsStr::new("podman")), Some(EngineKind::Podman));
        for other in ["runc", "crun", "/usr/bin/youki", "", "/"] {
            assert_eq!(EngineKind::of(OsStr::new(other)), None, "{other}");
        }
        let error = Engine::named(OsStr::new("dokcer"), "--engine ").unwrap_err().to_string();
        assert!(error.starts_with("--engine dokcer: "), "{error}");
        let error = Engine::named(OsStr::new("incus"), "MCRUN_ENGINE=").unwrap_err().to_string();
        assert!(error.starts_with("MCRUN_ENGINE=incus: mcrun runs no containers"), "{error}");
        let error =
            Engine::named(OsStr::new("/nonexistent/podman"), "--engine ").unwrap_err().to_string();
        assert_eq!(error, "--engine /nonexistent/podman: no such program");
    }
}
