//! What an engine calls a container.
//!
//! docker tells neither hooks nor the bundle, and a container may be renamed: the name is read where the
//! engine keeps it, which is a file near the bundle. Nothing is asked of a daemon, which might hang.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::oci::BundleConfig;

/// Engines' files are read up to this many bytes: podman's list holds some 800 for each container.
const MAX_FILE: u64 = 16 << 20;

/// The name by which the container's engine knows it now; `None` where it has none but its id.
pub fn engine_name(id: &str, bundle: Option<&Path>) -> Option<String> {
    let bundle = bundle?;
    let name = podman(id, bundle).or_else(|| {
        let config = BundleConfig::read(bundle).ok()?;
        annotated(&config).or_else(|| docker(id, &config))
    })?;
    // It is shown on terminals.
    let name: String = name.chars().filter(|c| !c.is_control()).take(255).collect();
    Some(name).filter(|name| !name.is_empty())
}

/// podman: the bundle is `ROOT/DRIVER-containers/ID/userdata`, and `containers.json` beside the ids lists the
/// names (containers/storage).
fn podman(id: &str, bundle: &Path) -> Option<String> {
    #[derive(Deserialize)]
    struct Entry {
        id: String,
        #[serde(default)]
        names: Vec<String>,
    }
    let directory = bundle.parent().filter(|dir| dir.ends_with(id))?;
    let text = read(&directory.parent()?.join("containers.json"))?;
    let entries: Vec<Entry> = serde_json::from_slice(&text).ok()?;
    entries.into_iter().find(|entry| entry.id == id)?.names.into_iter().next()
}

/// nerdctl and CRI write it into the bundle; a pod's sandbox goes by the name of the pod.
fn annotated(config: &BundleConfig) -> Option<String> {
    let sandbox = config.annotation("io.kubernetes.cri.container-type") == Some("sandbox");
    let of_pod = config.annotation("io.kubernetes.cri.sandbox-name").filter(|_| sandbox);
    config.annotation("nerdctl/name").or(of_pod).map(str::to_owned)
}

/// docker: some files of the container are mounted from `ROOT/containers/ID`, where `config.v2.json` is.
fn docker(id: &str, config: &BundleConfig) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Container {
        #[serde(rename = "ID")]
        id: String,
        name: String,
    }
    let own = Path::new("containers").join(id);
    let directory: PathBuf =
        config.mount_sources().filter_map(Path::parent).find(|dir| dir.ends_with(&own))?.to_owned();
    let text = read(&directory.join("config.v2.json"))?;
    let container: Container = serde_json::from_slice(&text).ok()?;
    let name = container.name.strip_prefix('/').unwrap_or(&container.name);
    (container.id == id).then(|| name.to_owned())
}

fn read(file: &Path) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    let file = File::open(file).ok()?;
    // Not a pipe, which would make us wait.
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    file.take(MAX_FILE).read_to_end(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::{Value, json};

    use super::*;

    fn write(path: &Path, value: &Value) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, value.to_string()).unwrap();
    }

    #[test]
    fn the_name_is_read_where_each_engine_keeps_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();

        let bundle = root.join("overlay-containers/9f6e/userdata");
        write(&bundle.join("config.json"), &json!({}));
        let list = json!([{ "id": "1", "names": ["other"] }, { "id": "9f6e", "names": ["cam"] }]);
        write(&root.join("overlay-containers/containers.json"), &list);
        assert_eq!(engine_name("9f6e", Some(&bundle)).as_deref(), Some("cam"));

        let bundle = root.join("task/moby/77aa");
        let mounts = json!([
            { "destination": "/proc", "source": "proc" },
            { "destination": "/etc/hosts", "source": root.join("docker/containers/77aa/hosts") },
        ]);
        write(&bundle.join("config.json"), &json!({ "mounts": mounts }));
        assert_eq!(engine_name("77aa", Some(&bundle)), None);
        let state = json!({ "ID": "77aa", "Name": "/mic\u{1b}1", "State": {} });
        write(&root.join("docker/containers/77aa/config.v2.json"), &state);
        assert_eq!(engine_name("77aa", Some(&bundle)).as_deref(), Some("mic1"));

        let bundle = root.join("task/default/c1");
        let config = json!({ "annotations": { "nerdctl/name": "web" } });
        write(&bundle.join("config.json"), &config);
        assert_eq!(engine_name("c1", Some(&bundle)).as_deref(), Some("web"));

        assert_eq!(engine_name("c1", None), None);
        assert_eq!(engine_name("c1", Some(Path::new("/nonexistent"))), None);
    }
}
