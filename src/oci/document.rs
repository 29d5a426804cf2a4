//! config.json as a JSON value: what a bundle brings and mcrun does not know stays as it is.
//!
//! A typed round trip would lose unknown keys and refuse unknown enum values.

use std::io::Read;
use std::path::{Component, Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value, json};

/// Largest config.json that is read, in bytes.
const MAX_CONFIG: u64 = 16 * 1024 * 1024;

/// Why a config.json cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// It cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// It is not JSON.
    #[error("{path} is not valid JSON: {source}")]
    Json {
        /// The file.
        path: PathBuf,
        /// The parser's reason.
        source: serde_json::Error,
    },
    /// A part of it has another type than the OCI runtime specification says.
    #[error("config.json: {key} is not {expected}")]
    Type {
        /// Path of the part, with dots.
        key: String,
        /// What it should be.
        expected: &'static str,
    },
}

/// A container's config.json.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub struct ConfigDocument(Value);

impl ConfigDocument {
    /// From a specification made by [`crate::oci::spec`].
    ///
    /// # Errors
    /// When it has no JSON form, such as a path that is not UTF-8.
    pub fn new(spec: &impl Serialize) -> Result<Self, serde_json::Error> {
        Ok(ConfigDocument(serde_json::to_value(spec)?))
    }

    /// Reads `bundle/config.json` and makes its relative paths absolute, so that it means the
    /// same in another directory.
    ///
    /// # Errors
    /// When it cannot be read, is larger than 16 MiB, or is not a JSON object.
    pub fn read(bundle: &Path) -> Result<Self, DocumentError> {
        let path = bundle.join("config.json");
        let read = |source| DocumentError::Read { path: path.clone(), source };
        let mut bytes = Vec::new();
        let file = std::fs::File::open(&path).map_err(read)?;
        file.take(MAX_CONFIG + 1).read_to_end(&mut bytes).map_err(read)?;
        if bytes.len() as u64 > MAX_CONFIG {
            return Err(read(std::io::Error::other("larger than 16 MiB")));
        }
        let value = serde_json::from_slice(&bytes)
            .map_err(|source| DocumentError::Json { path: path.clone(), source })?;
        let mut config = ConfigDocument(value);
        config.object(&[])?;
        config.make_absolute(bundle)?;
        Ok(config)
    }

    fn make_absolute(&mut self, bundle: &Path) -> Result<(), DocumentError> {
        let absolute = |text: &str| bundle.join(text).to_string_lossy().into_owned();
        let root = self.object(&["root"])?;
        let path = root.get("path").and_then(Value::as_str).unwrap_or("rootfs").to_owned();
        root.insert("path".into(), absolute(&path).into());
        for mount in self.array(&["mounts"])? {
            let Some(mount) = mount.as_object_mut() else { continue };
            let bind = mount.get("type").and_then(Value::as_str) == Some("bind")
                || mount.get("options").and_then(Value::as_array).is_some_and(|options| {
                    options.iter().any(|option| option == "bind" || option == "rbind")
                });
            let source = mount.get("source").and_then(Value::as_str).map(str::to_owned);
            if let (true, Some(source)) = (bind, source) {
                mount.insert("source".into(), absolute(&source).into());
            }
        }
        Ok(())
    }

    /// The root filesystem's directory.
    pub fn rootfs(&self) -> PathBuf {
        PathBuf::from(self.0.pointer("/root/path").and_then(Value::as_str).unwrap_or_default())
    }

    /// `process` as it stands, for a further process of the same container.
    pub fn process(&self) -> Option<&Value> {
        self.0.get("process")
    }

    /// The text of one annotation.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.0.get("annotations")?.get(key)?.as_str()
    }

    /// The value of one variable of the command's environment; the last one counts.
    pub fn variable(&self, name: &str) -> Option<&str> {
        let list = self.0.pointer("/process/env")?.as_array()?;
        let entries = list.iter().rev().filter_map(Value::as_str);
        entries.filter_map(|entry| entry.split_once('=')).find(|(n, _)| *n == name).map(|(_, v)| v)
    }

    /// The text at a path of keys.
    pub fn text(&self, path: &[&str]) -> Option<&str> {
        path.iter().try_fold(&self.0, |value, key| value.get(key))?.as_str()
    }

    /// Whether there is a command.
    pub fn has_command(&self) -> bool {
        !self.command().is_empty()
    }

    /// The command and its arguments.
    pub fn command(&self) -> Vec<String> {
        let list = self.0.pointer("/process/args").and_then(Value::as_array);
        let list = list.map(Vec::as_slice).unwrap_or_default();
        list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// Sets the value at a path of keys, making the objects on the way.
    ///
    /// # Errors
    /// When something on the way is not an object.
    pub fn set(&mut self, path: &[&str], value: impl Into<Value>) -> Result<(), DocumentError> {
        let Some((last, parents)) = path.split_last() else { return Ok(()) };
        self.object(parents)?.insert((*last).to_owned(), value.into());
        Ok(())
    }

    /// Sets a value unless the path has one already.
    ///
    /// # Errors
    /// When something on the way is not an object.
    pub fn set_default(
        &mut self,
        path: &[&str],
        value: impl Into<Value>,
    ) -> Result<(), DocumentError> {
        let Some((last, parents)) = path.split_last() else { return Ok(()) };
        self.object(parents)?.entry(*last).or_insert(value.into());
        Ok(())
    }

    /// Appends to the array at a path, making it when missing.
    ///
    /// # Errors
    /// When something on the way has another type.
    pub fn push(&mut self, path: &[&str], value: impl Into<Value>) -> Result<(), DocumentError> {
        self.array(path)?.push(value.into());
        Ok(())
    }

    /// Sets variables of the command's environment, replacing those of the same name.
    ///
    /// # Errors
    /// When `process.env` is not an array.
    pub fn set_env(&mut self, variables: &[(String, String)]) -> Result<(), DocumentError> {
        let list = self.array(&["process", "env"])?;
        for (name, value) in variables {
            let entry = Value::from(format!("{name}={value}"));
            let same = |old: &&mut Value| {
                old.as_str().and_then(|o| o.split_once('=')).is_some_and(|(n, _)| n == name)
            };
            match list.iter_mut().find(same) {
                Some(old) => *old = entry,
                None => list.push(entry),
            }
        }
        Ok(())
    }

    /// The names in one of the capability sets of the command.
    pub fn capabilities(&self, set: &str) -> Vec<String> {
        let list = self.0.pointer("/process/capabilities").and_then(|sets| sets.get(set));
        let list = list.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// Gives the command these capabilities. As docker does it, nothing is inheritable or
    /// ambient: a command that does not run as root has none.
    ///
    /// # Errors
    /// When `process` is not an object.
    pub fn set_capabilities(&mut self, names: &[String]) -> Result<(), DocumentError> {
        self.set(
            &["process", "capabilities"],
            json!({ "bounding": names, "effective": names, "permitted": names }),
        )
    }

    /// Adds a bind mount, by docker's rule replacing a mount at the same place.
    ///
    /// # Errors
    /// When `mounts` is not an array.
    pub fn mount(&mut self, mount: Value) -> Result<(), DocumentError> {
        let mounts = self.array(&["mounts"])?;
        mounts.retain(|old| {
            old.get("destination").and_then(Value::as_str).map(normal)
                != mount.get("destination").and_then(Value::as_str).map(normal)
        });
        mounts.push(mount);
        Ok(())
    }

    /// Adds the createRuntime and poststop hooks of `hook`, unless an mcrun-hook is there
    /// already. `env` is their whole environment, as `NAME=VALUE`.
    ///
    /// # Errors
    /// When `hooks` or one of its lists has another type.
    pub fn add_hooks(&mut self, hook: &Path, env: &[String]) -> Result<(), DocumentError> {
        for (stage, entry) in crate::oci::hook_entries(hook, env) {
            if !crate::oci::has_mcrun_hook(stage, |stage| {
                let hooks = self.0.pointer(&format!("/hooks/{stage}")).and_then(Value::as_array);
                hooks.cloned().unwrap_or_default()
            }) {
                self.push(&["hooks", stage], entry)?;
            }
        }
        Ok(())
    }

    fn object(&mut self, path: &[&str]) -> Result<&mut Map<String, Value>, DocumentError> {
        let wrong = |keys: &[&str]| DocumentError::Type {
            key: if keys.is_empty() { "the file".into() } else { keys.join(".") },
            expected: "an object",
        };
        let mut value = &mut self.0;
        for (depth, key) in path.iter().enumerate() {
            let object = value.as_object_mut().ok_or_else(|| wrong(&path[..depth]))?;
            value = object.entry(*key).or_insert_with(|| Value::Object(Map::new()));
            // Go's encoder writes null for what is absent.
            if value.is_null() {
                *value = Value::Object(Map::new());
            }
        }
        value.as_object_mut().ok_or_else(|| wrong(path))
    }

    fn array(&mut self, path: &[&str]) -> Result<&mut Vec<Value>, DocumentError> {
        let wrong = || DocumentError::Type { key: path.join("."), expected: "an array" };
        let (last, parents) = path.split_last().ok_or_else(wrong)?;
        let value = self.object(parents)?.entry(*last).or_insert_with(|| json!([]));
        if value.is_null() {
            *value = json!([]);
        }
        value.as_array_mut().ok_or_else(wrong)
    }
}

/// A container path without repeated and trailing slashes and without `.`.
fn normal(path: &str) -> PathBuf {
    Path::new(path).components().filter(|part| *part != Component::CurDir).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(config: &Value) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        dir
    }

    #[test]
    fn unknown_keys_stay_and_relative_paths_become_absolute() {
        let dir = bundle(&json!({
            "ociVersion": "9.9.9", "future": {"x": [1, 2.5]}, "mounts": [
                {"destination": "/d", "type": "bind", "source": "data", "flavour": 1},
                {"destination": "/proc", "type": "proc", "source": "proc"},
            ]
        }));
        let config = ConfigDocument::read(dir.path()).unwrap();
        assert_eq!(config.0["future"], json!({"x": [1, 2.5]}));
        assert_eq!(config.rootfs(), dir.path().join("rootfs"));
        let data = dir.path().join("data");
        assert_eq!(config.0["mounts"][0]["source"], data.to_str().unwrap());
        assert_eq!(config.0["mounts"][0]["flavour"], 1);
        assert_eq!(config.0["mounts"][1]["source"], "proc");
    }

    #[test]
    fn a_broken_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = ConfigDocument::read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("config.json") && error.contains("No such file"), "{error}");
        std::fs::write(dir.path().join("config.json"), "{").unwrap();
        let error = ConfigDocument::read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("is not valid JSON"), "{error}");
        let error = ConfigDocument::read(bundle(&json!([])).path()).unwrap_err().to_string();
        assert_eq!(error, "config.json: the file is not an object");
        let error =
            ConfigDocument::read(bundle(&json!({"mounts": 3})).path()).unwrap_err().to_string();
        assert_eq!(error, "config.json: mounts is not an array");
    }

    #[test]
    fn variables_replace_their_namesakes_only() {
        let mut config = ConfigDocument(json!({"process": {"env": ["A=1", "AB=2", "odd"]}}));
        config.set_env(&[("A".into(), "x=y".into()), ("C".into(), String::new())]).unwrap();
        assert_eq!(config.0["process"]["env"], json!(["A=x=y", "AB=2", "odd", "C="]));
        assert_eq!(config.variable("A"), Some("x=y"));
        assert_eq!(config.variable("B"), None);
    }

    #[test]
    fn hooks_are_added_once_beside_foreign_ones() {
        let mut config = ConfigDocument(json!({"hooks": {"poststop": [{"path": "/bin/other"}]}}));
        for _ in 0..2 {
            config.add_hooks(Path::new("/opt/mcrun-hook"), &["PATH=/bin".into()]).unwrap();
        }
        assert_eq!(config.0["hooks"]["createRuntime"].as_array().unwrap().len(), 1);
        let poststop = config.0["hooks"]["poststop"].as_array().unwrap();
        assert_eq!(poststop.len(), 2);
        assert_eq!(poststop[1]["args"], json!(["mcrun-hook", "poststop"]));
    }

    #[test]
    fn a_null_is_an_absent_part() {
        let mut config = ConfigDocument(json!({"hooks": null, "mounts": null}));
        config.add_hooks(Path::new("/mcrun-hook"), &[]).unwrap();
        config.mount(json!({"destination": "/x"})).unwrap();
        config.mount(json!({"destination": "/x/", "source": "new"})).unwrap();
        assert_eq!(config.0["mounts"], json!([{"destination": "/x/", "source": "new"}]));
    }
}
