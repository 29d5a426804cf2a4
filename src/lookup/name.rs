//! The name that an engine has for a container.
//!
//! docker and podman tell neither hooks nor the bundle, and a container may be renamed: the name is
//! read where the engine keeps it, which is a file near the bundle. Nothing is asked of a daemon,
//! which might hang.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;

use crate::oci::{BundleConfig, NAME_ANNOTATION};

/// Engines' files are read up to this many bytes: podman's list holds some 800 for each container.
const MAX_FILE: u64 = 16 << 20;

/// The name by which the container's engine knows it now; `None` where it has none but its id.
pub fn engine_name(id: &str, bundle: Option<&Path>) -> Option<String> {
    let bundle = bundle?;
    let config = BundleConfig::read(bundle).ok()?;
    // An annotation with a name overrides the rest.
    let own = |key: &str| config.annotation(key).map(str::to_owned);
    let name = own(NAME_ANNOTATION)
        .or_else(|| podman(id, bundle))
        .or_else(|| own("nerdctl/name"))
        .or_else(|| config.name(id))?;
    // It is shown on terminals.
    let name: String = name.chars().filter(|c| !c.is_control()).take(255).collect();
    Some(name).filter(|name| !name.is_empty())
}

/// podman: the bundle is `ROOT/DRIVER-containers/ID/userdata`. Beside the ids, `containers.json`
/// lists the names, and `volatile-containers.json` those of containers that `--rm` removes, as
/// every quadlet unit's (containers/storage, containers.go).
fn podman(id: &str, bundle: &Path) -> Option<String> {
    #[derive(Deserialize)]
    struct Entry {
        id: String,
        #[serde(default)]
        names: Vec<String>,
    }
    let directory = bundle.parent().filter(|dir| dir.ends_with(id))?;
    let lists = directory.parent()?;
    ["containers.json", "volatile-containers.json"].iter().find_map(|list| {
        let entries: Vec<Entry> = serde_json::from_slice(&read(&lists.join(list))?).ok()?;
        entries.into_iter().find(|entry| entry.id == id)?.names.into_iter().next()
    })
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
        let bundle = root.join("overlay-containers/5c3b/userdata");
        write(&bundle.join("config.json"), &json!({}));
        let list = json!([{ "id": "5c3b", "names": ["systemd-cam"] }]);
        write(&root.join("overlay-containers/volatile-containers.json"), &list);
        assert_eq!(engine_name("5c3b", Some(&bundle)).as_deref(), Some("systemd-cam"));

        let bundle = root.join("task/moby/77aa");
        let mounts = json!([
            { "destination": "/proc", "source": "proc" },
            { "destination": "/etc/hostname", "source": root.join("docker/containers/77aa/hostname") },
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

        let config = json!({ "annotations": { "nerdctl/name": "web", "io.mcrun.name": "mine" } });
        write(&bundle.join("config.json"), &config);
        assert_eq!(engine_name("c1", Some(&bundle)).as_deref(), Some("mine"));

        assert_eq!(engine_name("c1", None), None);
        assert_eq!(engine_name("c1", Some(Path::new("/nonexistent"))), None);
    }
}
