//! A bundle whose container asks for attachments, and mcrun's hooks in its config.json.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::hook;
use crate::hook::Caller;
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

/// A bundle whose container has a text that asks for attachments.
pub(super) struct AskingBundle {
    path: PathBuf,
    text: Vec<u8>,
    /// What config.json says.
    pub(super) config: BundleConfig,
    /// Who has made the bundle, which decides whether the container's variable counts.
    pub(super) caller: Caller,
}

impl AskingBundle {
    /// `None` where nobody asks for anything, and for a directory without config.json: the runtime has its
    /// own words for that. `config_dir` is mcrun's configuration directory.
    ///
    /// # Errors
    /// When config.json cannot be read.
    pub(super) fn read(path: &Path, config_dir: &Path) -> Result<Option<Self>, ConfigError> {
        let (config, text) = match BundleConfig::read_with_text(path) {
            Err(ConfigError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            other => other?,
        };
        if config.attachment_text().is_none() {
            return Ok(None);
        }
        let caller = docker::caller(path, config_dir);
        Ok(Some(AskingBundle { path: path.to_owned(), text, config, caller }))
    }

    /// Its directory.
    pub(super) fn absolute_path(&self) -> Option<PathBuf> {
        std::path::absolute(&self.path).ok()
    }

    /// Whether a hook of mcrun's attaches the container.
    pub(super) fn has_hook(&self) -> bool {
        std::str::from_utf8(&self.text)
            .is_ok_and(|text| has_mcrun_hook("createRuntime", |stage| hooks(text, stage)))
    }

    /// Adds the hooks when the container asks for attachments, once however often it is called. `output`
    /// is where crun is to send what hooks say; the result says whether it does. A file that somebody else
    /// has named for that stays.
    ///
    /// # Errors
    /// When what is asked for is wrong, or config.json cannot be changed.
    pub(super) fn add_hooks(&self, output: Option<&HookOutput>) -> Result<bool, WrapperError> {
        if !hook::asks_for_attachment(&self.config, self.caller)? {
            return Ok(false);
        }
        let program = hook::program().map_err(WrapperError::Hook)?;
        let path = self.path.join("config.json");
        let edit = |source| WrapperError::Edit { path: path.clone(), source };
        let text = std::str::from_utf8(&self.text)
            .map_err(|error| edit(EditError::Json(serde::de::Error::custom(error))))?;
        let mut changed =
            add_hooks(text, &program, &hook::environment(self.caller)).map_err(edit)?;
        let named = self.config.annotation(hook_output::ANNOTATION).map(Path::new);
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
}

fn add_hooks(text: &str, program: &Path, env: &[String]) -> Result<String, EditError> {
    let mut text = text.to_owned();
    for (stage, entry) in hook_entries(program, env) {
        if !has_mcrun_hook(stage, |stage| hooks(&text, stage)) {
            text = json_edit::push(&text, &["hooks", stage], &entry)?;
        }
    }
    Ok(text)
}

/// The hooks of a stage. A list that cannot be understood has none; whoever adds to it is told.
fn hooks(text: &str, stage: &str) -> Vec<Value> {
    let list = json_edit::get(text, &["hooks", stage]).ok().flatten();
    list.and_then(|list| serde_json::from_str(list).ok()).unwrap_or_default()
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
