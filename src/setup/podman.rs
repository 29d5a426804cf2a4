//! podman's containers.conf: the directories of hooks.
//!
//! podman uses the `hooks_dir` of the last file that has one (containers.conf(5)). So mcrun's file
//! repeats the directories of the files before it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Value;

use crate::setup::{SetupError, content};
use crate::sys::toml_text;

/// Where `mcrun setup podman` puts its hooks.
const OURS: &str = "/etc/containers/oci/hooks.d";
/// podman's directory when no file names one.
const DEFAULT: &str = "/usr/share/containers/oci/hooks.d";
/// The name of mcrun's file.
const NAME: &str = "mcrun.conf";

/// The content of mcrun's file; `None` when another file names the directory already.
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
    // TOML writes a string as JSON does.
    let texts = directories.into_iter().map(|text| serde_json::Value::from(text).to_string());
    let value = format!("[{}]", texts.collect::<Vec<_>>().join(", "));
    let delivered = include_str!("../../hooks/podman/mcrun.conf");
    let lines = delivered.lines().map(|line| match line.starts_with("hooks_dir") {
        true => format!("hooks_dir = {value}\n"),
        false => format!("{line}\n"),
    });
    Ok(Some(lines.collect()))
}

/// The files that podman reads before mcrun's, in its order.
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
    let parsed: Configuration = toml_text::parse(&text).map_err(content(path))?;
    // Newer versions take a table in the list, {append=true}, which names no directory.
    Ok(parsed
        .engine
        .and_then(|engine| engine.hooks_dir)
        .map(|list| list.iter().filter_map(Value::as_str).map(str::to_owned).collect()))
}
