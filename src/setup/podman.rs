//! podman's containers.conf: the directories of hooks.
//!
//! The last file that names `hooks_dir` wins, so ours repeats what the others name
//! (containers.conf(5)).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Value;

use crate::setup::{SetupError, content};

/// Where `mcrun setup podman` puts its hooks.
const OURS: &str = "/etc/containers/oci/hooks.d";
/// What podman looks into when nobody names a directory.
const DEFAULT: &str = "/usr/share/containers/oci/hooks.d";
/// The name of our drop-in.
const NAME: &str = "mcrun.conf";

/// The drop-in, where one is needed: when no other file names our directory.
///
/// # Errors
/// When one of podman's files cannot be read or understood.
pub(super) fn drop_in(root: &Path) -> Result<Option<String>, SetupError> {
    let mut directories = vec![DEFAULT.to_owned()];
    for path in configuration_files(root)? {
        if let Some(named) = hooks_dir(&path)? {
            directories = named;
        }
    }
    if directories.iter().any(|directory| directory == OURS) {
        return Ok(None);
    }
    directories.push(OURS.into());
    // A text is written in TOML as in JSON.
    let texts = directories.into_iter().map(|text| serde_json::Value::from(text).to_string());
    let value = format!("[{}]", texts.collect::<Vec<_>>().join(", "));
    let delivered = include_str!("../../hooks/podman/mcrun.conf");
    let lines = delivered.lines().map(|line| match line.starts_with("hooks_dir") {
        true => format!("hooks_dir = {value}\n"),
        false => format!("{line}\n"),
    });
    Ok(Some(lines.collect()))
}

/// The files that podman reads before ours, in its order.
fn configuration_files(root: &Path) -> Result<Vec<PathBuf>, SetupError> {
    let mut files = Vec::new();
    for base in ["usr/share/containers/containers.conf", "etc/containers/containers.conf"] {
        let base = root.join(base);
        files.extend(Some(base.clone()).filter(|file| file.exists()));
        let mut parts = base.into_os_string();
        parts.push(".d");
        let parts = PathBuf::from(parts);
        let entries = match fs::read_dir(&parts) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(SetupError::File { action: "list", path: parts, source }),
        };
        let mut drop_ins: Vec<_> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "conf"))
            .filter(|path| path.file_name().is_some_and(|name| name != NAME))
            .collect();
        drop_ins.sort();
        files.extend(drop_ins);
    }
    Ok(files)
}

fn hooks_dir(path: &Path) -> Result<Option<Vec<String>>, SetupError> {
    #[derive(Deserialize)]
    struct Configuration {
        engine: Option<Engine>,
    }
    #[derive(Deserialize)]
    struct Engine {
        hooks_dir: Option<Vec<Value>>,
    }
    let text = fs::read_to_string(path).map_err(|source| SetupError::File {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    let parsed: Configuration =
        toml::from_str(&text).map_err(|error| content(path)(error.message().replace('\n', " ")))?;
    // Newer versions take a table in the list, {append=true}, which names no directory.
    Ok(parsed
        .engine
        .and_then(|engine| engine.hooks_dir)
        .map(|list| list.iter().filter_map(Value::as_str).map(str::to_owned).collect()))
}
