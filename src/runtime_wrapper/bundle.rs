//! Adds mcrun's hooks to a bundle's config.json.

use std::fs;
use std::io;
use std::path::Path;

use serde_json::Value;

use crate::hook;
use crate::json_edit;
use crate::json_edit::EditError;
use crate::oci::caller;
use crate::oci::caller::CALLER_ANNOTATION;
use crate::oci::{BundleConfig, ConfigError, has_mcrun_hook, hook_entries};
use crate::runtime_wrapper::WrapperError;
use crate::runtime_wrapper::docker;
use crate::runtime_wrapper::hook_output;
use crate::runtime_wrapper::hook_output::HookOutput;
use crate::state::state_dir;
use crate::sys::files;
use crate::sys::files::Replacement;

/// Adds the hooks when the container asks for attachments, once however often it is called. A
/// bundle that asks for nothing is not touched. `config_dir` is mcrun's configuration directory.
/// `output` is where crun is to send what hooks say; the result says whether it does. A file that
/// somebody else has named for that stays.
///
/// # Errors
/// When what is asked for is wrong, or config.json cannot be read or written. A bundle without
/// config.json is left to the runtime, which has its own words for that.
pub(super) fn prepare(
    bundle: &Path,
    config_dir: &Path,
    output: Option<&HookOutput>,
) -> Result<bool, WrapperError> {
    let (config, text) = match BundleConfig::read_with_text(bundle) {
        Err(ConfigError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(false);
        }
        other => other?,
    };
    if config.attachment_text().is_none() {
        return Ok(false);
    }
    let asker = docker::caller(bundle, config_dir);
    if !hook::asks_for_attachment(&config, asker)? {
        return Ok(false);
    }
    let program = hook::program().map_err(WrapperError::Hook)?;
    let path = bundle.join("config.json");
    let edit = |source| WrapperError::Edit { path: path.clone(), source };
    let text = String::from_utf8(text)
        .map_err(|error| edit(EditError::Json(serde::de::Error::custom(error))))?;
    let mut changed = add_hooks(&text, &program, &hook::environment(asker)).map_err(edit)?;
    let named = config.annotation(hook_output::ANNOTATION).map(Path::new);
    let annotation = match output {
        Some(HookOutput::File(file)) if named.is_none_or(|named| named == file) => {
            Some((hook_output::ANNOTATION, file.to_string_lossy().into_owned()))
        }
        // Without the note, the log and mcrun doctor have what the hook says.
        Some(HookOutput::Caller) if named.is_none() => {
            caller::announce(&state_dir()).ok().map(|note| (CALLER_ANNOTATION, note))
        }
        _ => None,
    };
    if let Some((key, value)) = &annotation {
        let value = Value::from(value.as_str());
        changed = json_edit::set(&changed, &["annotations", key], &value).map_err(edit)?;
    }
    if changed != text {
        replace(&path, &changed).map_err(|source| WrapperError::Write { path, source })?;
    }
    Ok(annotation.is_some())
}

fn add_hooks(text: &str, program: &Path, env: &[String]) -> Result<String, EditError> {
    let mut text = text.to_owned();
    for (stage, entry) in hook_entries(program, env) {
        let hooks = |stage: &str| {
            let list = json_edit::get(&text, &["hooks", stage]).ok().flatten();
            list.and_then(|list| serde_json::from_str::<Vec<Value>>(list).ok()).unwrap_or_default()
        };
        if !has_mcrun_hook(stage, hooks) {
            text = json_edit::push(&text, &["hooks", stage], &entry)?;
        }
    }
    Ok(text)
}

/// Keeps mode and owner. No fsync: after a crash of the machine there is no container, and engines
/// write the file anew.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let old = fs::metadata(path)?;
    let how = Replacement { like: Some(&old), ..Replacement::PRIVATE };
    files::replace(path, text.as_bytes(), how)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn hooks_are_added_once_and_nothing_else_changes() {
        let text = r#"{"z":1e400,"hooks":{"prestart":[{"path":"/usr/bin/dockerd","args":["libnetwork-setkey"]}]},"a":null}"#;
        let program = Path::new("/opt/mcrun-hook");
        let added = add_hooks(text, program, &["PATH=/bin".into()]).unwrap();
        assert!(added.starts_with(r#"{"z":1e400,"hooks":{"prestart":"#), "{added}");
        assert!(added.ends_with(r#","a":null}"#), "{added}");
        let entry = json_edit::get(&added, &["hooks", "createRuntime"]).unwrap().unwrap();
        assert_eq!(
            serde_json::from_str::<Value>(entry).unwrap(),
            json!([{"path": "/opt/mcrun-hook", "args": ["mcrun-hook", "createRuntime"],
                    "env": ["PATH=/bin"], "timeout": 60}])
        );
        assert!(json_edit::get(&added, &["hooks", "poststop"]).unwrap().is_some());
        assert_eq!(add_hooks(&added, program, &[]).unwrap(), added);
    }

    #[test]
    fn hooks_of_another_shape_are_named() {
        let error = add_hooks(r#"{"hooks":[]}"#, Path::new("/h"), &[]).unwrap_err().to_string();
        assert_eq!(error, "hooks is not an object");
    }
}
