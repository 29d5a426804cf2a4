//! What mcrun-runtime knows of the dockerd that calls it.
//!
//! docker has annotations since version 24. Before, only the variable can ask for an attachment.
//! `mcrun setup docker` writes the version down, because mcrun-runtime must not ask dockerd, which
//! waits for it.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::hook::Caller;
use crate::sys::toml_text;

/// Name of the file in mcrun's configuration directory.
pub const FACTS_FILE: &str = "engines.toml";
/// The first docker whose `run` and `create` have `--annotation`.
const ANNOTATIONS_SINCE: u32 = 24;
/// containerd's namespace of docker's containers, and so the directory above their bundles.
const NAMESPACE: &str = "moby";

/// The content of [`FACTS_FILE`]. `version` is that of dockerd, `daemon_json` its configuration.
#[must_use]
pub fn facts_file(version: &str, daemon_json: &str) -> String {
    format!(
        "# Written by mcrun setup docker and read by mcrun-runtime. Run mcrun setup docker again when\n\
         # docker has been upgraded: before version {ANNOTATIONS_SINCE} it has no annotations, and the\n\
         # variable MCRUN_MCAST of a container counts instead.\n\
         [docker]\n\
         version = \"{version}\"\n\
         daemon-json = \"{daemon_json}\"\n"
    )
}

/// How a container's bundle has come to mcrun-runtime.
pub(super) fn caller(bundle: &Path, config_dir: &Path) -> Caller {
    let of_docker = fs::canonicalize(bundle)
        .is_ok_and(|path| path.parent().and_then(Path::file_name) == Some(OsStr::new(NAMESPACE)));
    if !of_docker {
        return Caller::WithAnnotations;
    }
    let Some((version, daemon_json)) = read_facts(config_dir) else {
        return Caller::WithAnnotations;
    };
    if mcrun_is_default(&daemon_json) {
        return Caller::ByDefault;
    }
    if version < ANNOTATIONS_SINCE { Caller::WithoutAnnotations } else { Caller::WithAnnotations }
}

/// The major version of dockerd and the path of its daemon.json. A file that is missing or cannot
/// be understood says nothing: the variable does not count then.
fn read_facts(config_dir: &Path) -> Option<(u32, PathBuf)> {
    let text = fs::read_to_string(config_dir.join(FACTS_FILE)).ok()?;
    let table: toml::Table = toml_text::parse(&text).ok()?;
    let docker = table.get("docker")?.as_table()?;
    let version = docker.get("version")?.as_str()?.split('.').next()?.parse().ok()?;
    Some((version, docker.get("daemon-json")?.as_str()?.into()))
}

/// Whether containers get mcrun's runtime without asking for it. If that cannot be told, they do.
fn mcrun_is_default(daemon_json: &Path) -> bool {
    let Ok(text) = fs::read(daemon_json) else { return true };
    let Ok(config) = serde_json::from_slice::<Value>(&text) else { return true };
    let Some(name) = config.get("default-runtime").and_then(Value::as_str) else { return false };
    let path = config.get("runtimes").and_then(|all| all.get(name)?.get("path")?.as_str());
    path.is_some_and(|path| Path::new(path).file_name() == Some(OsStr::new("mcrun-runtime")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_counts_for_an_old_docker_whose_runtime_was_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let daemon_json = at("daemon.json");
        let runtimes = r#""runtimes":{"m":{"path":"/opt/mcrun-runtime"}}"#;
        for bundle in ["moby/c1", "k8s.io/c1"] {
            fs::create_dir_all(at(bundle)).unwrap();
        }
        let told = |version: &str, config: &str, bundle: &str| {
            fs::write(&daemon_json, config).unwrap();
            let facts = facts_file(version, daemon_json.to_str().unwrap());
            fs::write(at(FACTS_FILE), facts).unwrap();
            caller(&at(bundle), directory.path())
        };
        let plain = format!("{{{runtimes}}}");
        let default = format!(r#"{{"default-runtime":"m",{runtimes}}}"#);
        let other = format!(r#"{{"default-runtime":"runc",{runtimes}}}"#);
        assert_eq!(told("20.10.24+dfsg1", &plain, "moby/c1"), Caller::WithoutAnnotations);
        assert_eq!(told("20.10.24+dfsg1", &other, "moby/c1"), Caller::WithoutAnnotations);
        assert_eq!(told("20.10.24+dfsg1", &default, "moby/c1"), Caller::ByDefault);
        assert_eq!(told("20.10.24+dfsg1", "{", "moby/c1"), Caller::ByDefault);
        assert_eq!(told("28.5.2", &default, "moby/c1"), Caller::ByDefault);
        assert_eq!(told("28.5.2", &plain, "moby/c1"), Caller::WithAnnotations);
        assert_eq!(told("20.10.24", &plain, "k8s.io/c1"), Caller::WithAnnotations);
        for torn in ["", "[docker", "[docker]\nversion = \"x\"\n"] {
            fs::write(at(FACTS_FILE), torn).unwrap();
            assert_eq!(caller(&at("moby/c1"), directory.path()), Caller::WithAnnotations);
        }
    }
}
