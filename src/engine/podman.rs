//! Where podman finds mcrun's hooks.
//!
//! podman reads the directories of `hooks_dir` in its configuration, unless `--hooks-dir` is on its
//! command line: then those and no others. So, where mcrun's hooks have to be added, what is
//! configured is handed on beside them.

use std::fs;
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::engine::EngineError;
use crate::sys::files;
use crate::sys::files::Replacement;

/// podman's own default (containers.conf(5), `hooks_dir`).
const DEFAULT: &str = "/usr/share/containers/oci/hooks.d";
/// Configuration files are read up to this many bytes.
const MAX_FILE: u64 = 1 << 20;
/// The hook definitions, as packages install them.
const HOOKS: [(&str, &str); 3] = [
    ("mcrun-createRuntime.json", include_str!("../../hooks/mcrun-createRuntime.json")),
    ("mcrun-poststart.json", include_str!("../../hooks/mcrun-poststart.json")),
    ("mcrun-poststop.json", include_str!("../../hooks/mcrun-poststop.json")),
];

/// The directories for `--hooks-dir`; none when podman reads mcrun's hooks as it is configured.
///
/// # Errors
/// When mcrun's hooks are installed nowhere and cannot be written to the state directory.
pub(super) fn hooks_dirs(state_dir: &Path) -> Result<Vec<PathBuf>, EngineError> {
    let configured = configured();
    if configured.iter().any(|dir| has_hooks(dir)) {
        return Ok(Vec::new());
    }
    let mut directories = configured;
    directories.retain(|dir| dir.is_dir());
    directories.push(installed().map_or_else(|| write_hooks(state_dir), Ok)?);
    Ok(directories)
}

/// `hooks_dir` of podman's configuration: the last file that says something has the last word
/// (containers.conf(5)).
fn configured() -> Vec<PathBuf> {
    let files = match std::env::var_os("CONTAINERS_CONF") {
        Some(file) => vec![PathBuf::from(file)],
        None => {
            let mut files = vec!["/usr/share/containers/containers.conf".into()];
            files.push("/etc/containers/containers.conf".into());
            files.extend(drop_ins(Path::new("/etc/containers/containers.conf.d")));
            files
        }
    };
    let files =
        files.into_iter().chain(std::env::var_os("CONTAINERS_CONF_OVERRIDE").map(Into::into));
    let said = files.filter_map(|file| hooks_dir_of(&read(&file)?)).next_back();
    said.unwrap_or_else(|| vec![DEFAULT.into()])
}

fn drop_ins(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries.map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "conf"));
    files.sort();
    files
}

fn read(file: &Path) -> Option<String> {
    let mut text = String::new();
    fs::File::open(file).ok()?.take(MAX_FILE).read_to_string(&mut text).ok()?;
    Some(text)
}

/// The value of a file; what cannot be understood is podman's to complain about.
fn hooks_dir_of(text: &str) -> Option<Vec<PathBuf>> {
    let table: toml::Table = text.parse().ok()?;
    let directories = table.get("engine")?.get("hooks_dir")?.as_array()?;
    Some(directories.iter().filter_map(|dir| dir.as_str().map(PathBuf::from)).collect())
}

/// Whether a directory holds a definition that runs mcrun's hook when a container is created.
fn has_hooks(directory: &Path) -> bool {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut files = entries.map(|entry| entry.path());
    files.any(|file| {
        file.extension().is_some_and(|extension| extension == "json")
            && read(&file).is_some_and(|text| is_create_hook(&text))
    })
}

fn is_create_hook(text: &str) -> bool {
    let Ok(hook) = serde_json::from_str::<Value>(text) else { return false };
    let path = hook.pointer("/hook/path").and_then(Value::as_str).unwrap_or_default();
    let stages = hook.get("stages").and_then(Value::as_array);
    Path::new(path).file_name().is_some_and(|name| name == "mcrun-hook")
        && Path::new(path).is_file()
        && stages.is_some_and(|s| s.iter().any(|s| s == "createRuntime" || s == "prestart"))
}

/// The directory that was installed with this program, when its hooks do what this process would:
/// with a state directory of its own they would not.
fn installed() -> Option<PathBuf> {
    let own = ["MCRUN_STATE_DIR", "MCRUN_CONFIG_DIR"];
    if own.iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty())) {
        return None;
    }
    let prefix = std::env::current_exe().ok()?.parent()?.parent()?.to_owned();
    Some(prefix.join("share/containers/oci/hooks.d")).filter(|dir| has_hooks(dir))
}

/// Writes the definitions, for the hook beside this program, to `hooks.d` in the state directory.
fn write_hooks(state_dir: &Path) -> Result<PathBuf, EngineError> {
    let own = std::env::current_exe()
        .map_err(|source| EngineError::Hooks { path: "/proc/self/exe".into(), source })?;
    let hook = own.with_file_name("mcrun-hook");
    if !hook.is_file() {
        return Err(EngineError::NoHook(hook));
    }
    let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
    let directory = absolute(state_dir.to_owned()).join("hooks.d");
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| EngineError::Hooks { path, source }
    };
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(&directory).map_err(failed(&directory))?;
    for (name, template) in HOOKS {
        let path = directory.join(name);
        let text = definition(template, &hook);
        if read(&path).is_none_or(|old| old != text) {
            // Another podman may be reading it.
            files::replace(&path, text.as_bytes(), Replacement::PRIVATE).map_err(failed(&path))?;
        }
    }
    Ok(directory)
}

/// A definition with this hook, and the directories of this process's environment.
fn definition(template: &str, hook: &Path) -> String {
    let mut value: Value = serde_json::from_str(template).unwrap_or_default();
    let mut env = Vec::new();
    for name in ["MCRUN_STATE_DIR", "MCRUN_CONFIG_DIR"] {
        if let Some(directory) = std::env::var_os(name).filter(|value| !value.is_empty()) {
            let directory = std::path::absolute(&directory).unwrap_or(directory.into());
            env.push(format!("{name}={}", directory.display()));
        }
    }
    if let Some(definition) = value.get_mut("hook") {
        definition["path"] = json!(hook);
        if !env.is_empty() {
            definition["env"] = json!(env);
        }
    }
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configured_directories_are_read() {
        let text = "[engine]\n# hooks\nhooks_dir = [\n  \"/a\", \"/b\",\n]\n";
        assert_eq!(hooks_dir_of(text).unwrap(), [PathBuf::from("/a"), "/b".into()]);
        for text in ["", "[engine]\nruntime = \"crun\"\n", "not = [toml"] {
            assert_eq!(hooks_dir_of(text), None, "{text}");
        }
    }

    #[test]
    fn a_written_definition_is_recognized_and_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let hook = dir.path().join("mcrun-hook");
        fs::write(&hook, "").unwrap();
        assert!(!has_hooks(dir.path()));
        for (name, template) in HOOKS.iter().rev() {
            let text = definition(template, &hook);
            assert_eq!(is_create_hook(&text), name.contains("createRuntime"), "{text}");
            fs::write(dir.path().join(name), text).unwrap();
        }
        assert!(has_hooks(dir.path()));
        // A definition whose program is gone does nothing.
        fs::remove_file(&hook).unwrap();
        assert!(!has_hooks(dir.path()));
    }
}
