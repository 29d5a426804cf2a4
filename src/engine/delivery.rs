//! How an attachment reaches the hook through an engine: by annotation, variable, runtime or hooks
//! directory. The result is the engine's command line.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::engine::EngineError;
use crate::engine::command_line::EngineCommandLine;
use crate::oci::{ANNOTATION, VARIABLE};

/// The program that stands in for runc.
const RUNTIME: &str = "mcrun-runtime";

/// What is known of the engine at hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineFacts {
    /// docker, as its daemon describes itself.
    Docker(DockerInfo),
    /// podman of a major version, and the `--hooks-dir` directories that it needs: none when it
    /// reads mcrun's hooks anyway.
    Podman {
        /// The 4 of 4.3.1.
        major: u32,
        /// In the order in which podman is to read them.
        hooks_dirs: Vec<PathBuf>,
    },
    /// nerdctl of a major version.
    Nerdctl {
        /// The 2 of 2.0.3.
        major: u32,
    },
}

/// The part of `docker info --format '{{json .}}'` that decides.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DockerInfo {
    /// Absent or empty when the daemon does not answer.
    pub server_version: String,
    client_info: ClientInfo,
    runtimes: BTreeMap<String, RuntimeInfo>,
    default_runtime: String,
}

/// What the client says of itself; `Version` is there since docker 24 or so.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ClientInfo {
    version: String,
}

/// A runtime of docker's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct RuntimeInfo {
    path: String,
}

impl DockerInfo {
    /// Whether `run` and `create` know `--annotation`: both ends since 24.
    fn has_annotations(&self) -> bool {
        [&self.server_version, &self.client_info.version].iter().all(|v| major(v) >= 24)
    }

    fn is_ours(&self, name: &str) -> bool {
        self.runtimes.get(name).is_some_and(|runtime| {
            Path::new(&runtime.path).file_name() == Some(OsStr::new(RUNTIME))
        })
    }

    /// The name of mcrun's runtime that is to be asked for; `None` when docker takes it anyway.
    fn runtime(&self, wanted: Option<&OsStr>) -> Result<Option<&str>, EngineError> {
        match wanted {
            Some(name) if name.to_str().is_some_and(|name| self.is_ours(name)) => return Ok(None),
            Some(name) => return Err(EngineError::Runtime(name.to_string_lossy().into_owned())),
            None if self.is_ours(&self.default_runtime) => return Ok(None),
            None => {}
        }
        let mut ours = self.runtimes.keys().filter(|name| self.is_ours(name));
        let ours = ours.next().ok_or(EngineError::NoDockerRuntime)?;
        Ok(Some(ours))
    }
}

/// The number before the first dot; 0 when there is none.
pub(super) fn major(version: &str) -> u32 {
    version.split('.').next().and_then(|n| n.trim().parse().ok()).unwrap_or(0)
}

/// The arguments of the engine for `command` (`run` or `create`).
///
/// The options that deliver the attachment come after the caller's, so that they override those of
/// the same name. A command line without attachments is unchanged.
///
/// # Errors
/// When the engine cannot carry one as it is set up, or with these options.
pub fn arguments(
    command: &str,
    line: &EngineCommandLine,
    facts: &EngineFacts,
) -> Result<Vec<OsString>, EngineError> {
    let mut global = Vec::new();
    let mut delivery_options: Vec<OsString> = Vec::new();
    if !line.mcast.is_empty() {
        if let Some(network) = line.shared_network() {
            return Err(EngineError::Network(network.to_string_lossy().into_owned()));
        }
        let text = line.attachments();
        let as_annotation = |delivery_options: &mut Vec<OsString>| {
            delivery_options.extend(["--annotation".into(), pair(ANNOTATION, &text)]);
        };
        let as_quoted_annotation = |delivery_options: &mut Vec<OsString>| {
            delivery_options.extend(["--annotation".into(), quoted(&pair(ANNOTATION, &text))]);
        };
        let as_variable = |delivery_options: &mut Vec<OsString>| {
            delivery_options.extend(["--env".into(), pair(VARIABLE, &text)]);
        };
        match facts {
            EngineFacts::Docker(info) => {
                if let Some(runtime) = info.runtime(line.runtime.as_deref())? {
                    delivery_options.extend(["--runtime".into(), runtime.into()]);
                }
                if info.has_annotations() {
                    as_annotation(&mut delivery_options);
                } else {
                    as_variable(&mut delivery_options);
                }
            }
            EngineFacts::Podman { major, hooks_dirs } => {
                if !hooks_dirs.is_empty() && line.restart.as_deref().is_some_and(restarts) {
                    return Err(EngineError::PodmanRestart);
                }
                global = hooks_options(hooks_dirs);
                // Before 5.0 podman splits the value at its commas, as a line of CSV.
                if *major < 5 {
                    as_quoted_annotation(&mut delivery_options);
                } else {
                    as_annotation(&mut delivery_options);
                }
            }
            EngineFacts::Nerdctl { major } => {
                match line.runtime.as_deref() {
                    None => delivery_options.extend(["--runtime".into(), RUNTIME.into()]),
                    Some(name) if Path::new(name).file_name() == Some(OsStr::new(RUNTIME)) => {}
                    Some(name) => {
                        return Err(EngineError::Runtime(name.to_string_lossy().into_owned()));
                    }
                }
                if *major >= 2 {
                    as_annotation(&mut delivery_options)
                } else {
                    as_variable(&mut delivery_options)
                }
            }
        }
    }
    let mut arguments = global;
    arguments.push(command.into());
    arguments.extend(line.options.iter().cloned());
    arguments.extend(delivery_options);
    arguments.extend(line.rest.iter().cloned());
    Ok(arguments)
}

/// The arguments of the engine for a command in which nothing is mcrun's, such as `start`.
pub fn plain_arguments(
    command: &str,
    arguments: &[OsString],
    facts: &EngineFacts,
) -> Vec<OsString> {
    let mut all = match facts {
        EngineFacts::Podman { hooks_dirs, .. } => hooks_options(hooks_dirs),
        EngineFacts::Docker(_) | EngineFacts::Nerdctl { .. } => Vec::new(),
    };
    all.push(command.into());
    all.extend(arguments.iter().cloned());
    all
}

fn hooks_options(directories: &[PathBuf]) -> Vec<OsString> {
    directories.iter().flat_map(|dir| ["--hooks-dir".into(), dir.clone().into()]).collect()
}

fn pair(key: &str, value: &OsStr) -> OsString {
    let mut pair = OsString::from(key);
    pair.push("=");
    pair.push(value);
    pair
}

/// One field of CSV (RFC 4180 section 2).
fn quoted(text: &OsStr) -> OsString {
    let mut bytes = vec![b'"'];
    for byte in text.as_bytes() {
        bytes.extend(std::iter::repeat_n(*byte, if *byte == b'"' { 2 } else { 1 }));
    }
    bytes.push(b'"');
    OsString::from_vec(bytes)
}

/// Whether a restart policy starts the container again.
fn restarts(policy: &OsStr) -> bool {
    !matches!(policy.as_bytes(), b"" | b"no")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::command_line::EngineCommandLine;
    use crate::engine::option_table::OptionTable;

    fn words(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    fn run(text: &str, facts: &EngineFacts) -> Result<Vec<OsString>, String> {
        let line = EngineCommandLine::parse(&words(text), &OptionTable::default()).unwrap();
        arguments("run", &line, facts).map_err(|e| e.to_string())
    }

    fn docker(json: &str) -> EngineFacts {
        EngineFacts::Docker(serde_json::from_str(json).unwrap())
    }

    const LINE: &str = "-it --rm --mcast parent=eth1 -e X=1 image sh";

    #[test]
    fn docker_before_24_gets_a_variable() {
        let facts = docker(
            r#"{"ServerVersion":"20.10.24","ClientInfo":{"Debug":false},"DefaultRuntime":"runc",
                "Runtimes":{"mcrun":{"path":"/opt/mcrun-runtime"},"runc":{"path":"runc"}}}"#,
        );
        let expected = "run -it --rm -e X=1 --runtime mcrun --env MCRUN_MCAST=parent=eth1 image sh";
        assert_eq!(run(LINE, &facts).unwrap(), words(expected));
        // A name given by the user that is mcrun's is as good.
        let own = run("--runtime=mcrun --mcast parent=eth1 image", &facts).unwrap();
        assert_eq!(own, words("run --runtime=mcrun --env MCRUN_MCAST=parent=eth1 image"));
    }

    #[test]
    fn docker_from_24_gets_an_annotation_and_the_default_runtime_is_not_named() {
        let facts = docker(
            r#"{"ServerVersion":"28.2.2","ClientInfo":{"Version":"24.0.1"},"DefaultRuntime":"m",
                "Runtimes":{"m":{"path":"/opt/mcrun-runtime","status":{}},"runc":{"path":"runc"}}}"#,
        );
        let expected = "run -it --rm -e X=1 --annotation io.mcrun.mcast=parent=eth1 image sh";
        assert_eq!(run(LINE, &facts).unwrap(), words(expected));
    }

    #[test]
    fn a_missing_setup_is_named() {
        let facts = docker(
            r#"{"ServerVersion":"20.10.24","DefaultRuntime":"runc","Runtimes":{"runc":{"path":"runc"}}}"#,
        );
        let error = run(LINE, &facts).unwrap_err();
        assert_eq!(error, "docker does not know mcrun's runtime: run mcrun setup docker first");
        let error = run("--runtime runc --mcast parent=eth1 image", &facts).unwrap_err();
        assert!(error.starts_with("--runtime runc: "), "{error}");
        // Nothing is needed where nothing is attached.
        assert_eq!(run("-it image", &facts).unwrap(), words("run -it image"));
    }

    #[test]
    fn podman_gets_hooks_before_the_command() {
        let facts = EngineFacts::Podman { major: 5, hooks_dirs: vec!["/a".into(), "/b".into()] };
        let expected = "--hooks-dir /a --hooks-dir /b run -it --rm -e X=1 \
                        --annotation io.mcrun.mcast=parent=eth1 image sh";
        assert_eq!(run(LINE, &facts).unwrap(), words(expected));
        assert_eq!(run("-it image", &facts).unwrap(), words("run -it image"));
        let error = run("--restart always --mcast parent=eth1 image", &facts).unwrap_err();
        assert!(error.contains("mcrun setup podman"), "{error}");
        let facts = EngineFacts::Podman { major: 4, hooks_dirs: vec![] };
        let expected =
            "run --restart always --annotation \"io.mcrun.mcast=parent=eth1,ip=none\" image";
        let arguments = run("--restart always --mcast parent=eth1,ip=none image", &facts).unwrap();
        assert_eq!(arguments, words(expected));
    }

    #[test]
    fn nerdctl_gets_the_runtime_by_its_program() {
        let expected = "run -it --rm -e X=1 --runtime mcrun-runtime --annotation io.mcrun.mcast=parent=eth1 image sh";
        assert_eq!(run(LINE, &EngineFacts::Nerdctl { major: 2 }).unwrap(), words(expected));
        let old = run(LINE, &EngineFacts::Nerdctl { major: 1 }).unwrap();
        assert!(old.contains(&"MCRUN_MCAST=parent=eth1".into()), "{old:?}");
    }

    #[test]
    fn a_container_without_a_network_of_its_own_is_refused() {
        for network in ["--net=host", "--network host", "--network container:x"] {
            let text = format!("{network} --mcast parent=eth1 image");
            let error = run(&text, &EngineFacts::Nerdctl { major: 2 }).unwrap_err();
            assert!(error.contains("a network namespace of its own"), "{error}");
        }
    }
}
