//! What a runtime keeps of its containers: where the bundle of each is.
//!
//! Runtimes have a command for that, `state`, which costs a start of the runtime and tells no bundle of a
//! container that is not whole. The file that the command reads is read here.

use std::ffi::OsStr;
use std::fs;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::oci::ContainerId;
use crate::runtime_wrapper::command_line::RuntimeCommandLine;

/// Most bytes of a file that are read. runc writes some thousands.
const MAX_FILE: u64 = 4 << 20;

/// A runtime whose files are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Runc,
    Crun,
    Youki,
}

/// The containers below the root directory of a runtime.
#[derive(Debug)]
pub(super) struct Containers {
    kind: Kind,
    root: PathBuf,
}

impl Containers {
    /// Those that the runtime of this path means on this command line; `None` for a runtime that is not
    /// called runc, crun or youki.
    pub(super) fn of(line: &RuntimeCommandLine, runtime: &Path) -> Option<Self> {
        let real = fs::canonicalize(runtime).ok();
        let kind = Kind::called(runtime).or_else(|| Kind::called(real.as_deref()?))?;
        let root = line.root.clone().unwrap_or_else(|| kind.default_root());
        Some(Containers { kind, root })
    }

    /// The bundle of a container, as an absolute path; `None` where there is no such container.
    pub(super) fn bundle(&self, id: &ContainerId) -> Option<PathBuf> {
        let mut text = Vec::new();
        let path = self.root.join(id.as_str()).join(self.kind.file());
        File::open(path).ok()?.take(MAX_FILE).read_to_end(&mut text).ok()?;
        self.kind.bundle(&text).filter(|path| path.is_absolute())
    }
}

impl Kind {
    fn called(program: &Path) -> Option<Self> {
        match program.file_name().and_then(OsStr::to_str)? {
            "runc" => Some(Kind::Runc),
            "crun" => Some(Kind::Crun),
            "youki" => Some(Kind::Youki),
            _ => None,
        }
    }

    /// Where root's containers are without `--root`.
    fn default_root(self) -> PathBuf {
        match self {
            Kind::Runc => "/run/runc".into(),
            // `libcrun_get_state_directory` in src/libcrun/container.c looks at the variable first.
            Kind::Crun => std::env::var_os("XDG_RUNTIME_DIR")
                .filter(|directory| !directory.is_empty())
                .map_or_else(|| "/run/crun".into(), |directory| Path::new(&directory).join("crun")),
            Kind::Youki => "/run/youki".into(),
        }
    }

    fn file(self) -> &'static str {
        match self {
            Kind::Runc | Kind::Youki => "state.json",
            Kind::Crun => "status",
        }
    }

    fn bundle(self, text: &[u8]) -> Option<PathBuf> {
        #[derive(Deserialize)]
        struct Named {
            bundle: PathBuf,
        }
        #[derive(Deserialize)]
        struct State {
            config: Config,
        }
        #[derive(Deserialize)]
        struct Config {
            labels: Vec<String>,
        }
        if self == Kind::Runc {
            // The label that runc adds for itself (`CreateLibcontainerConfig` in
            // libcontainer/specconv/spec_linux.go) stands behind those of the annotations.
            let State { config: Config { labels } } = serde_json::from_slice(text).ok()?;
            return labels
                .iter()
                .rev()
                .find_map(|label| Some(label.strip_prefix("bundle=")?.into()));
        }
        serde_json::from_slice::<Named>(text).ok().map(|named| named.bundle)
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    fn containers(root: &Path, runtime: &str) -> Option<Containers> {
        let arguments: Vec<OsString> =
            vec!["--root".into(), root.into(), "start".into(), "c1".into()];
        Containers::of(&RuntimeCommandLine::parse(&arguments), Path::new(runtime))
    }

    #[test]
    fn the_bundle_stands_in_the_files_of_each_runtime() {
        let root = tempfile::tempdir().unwrap();
        let id = ContainerId::try_from("c1".to_owned()).unwrap();
        let directory = root.path().join("c1");
        fs::create_dir(&directory).unwrap();
        let runc = r#"{"id":"c1","config":{"rootfs":"/b/r","labels":["bundle=/planted","x=y","bundle=/b"]}}"#;
        fs::write(directory.join("state.json"), runc).unwrap();
        fs::write(directory.join("status"), r#"{"pid":7,"bundle":"/c","rootfs":"r"}"#).unwrap();
        let bundle = |runtime| containers(root.path(), runtime).unwrap().bundle(&id);
        assert_eq!(bundle("/sbin/runc"), Some("/b".into()));
        assert_eq!(bundle("crun"), Some("/c".into()));
        assert_eq!(bundle("youki"), None);
        fs::write(directory.join("state.json"), r#"{"id":"c1","bundle":"/y"}"#).unwrap();
        assert_eq!(bundle("youki"), Some("/y".into()));
        for torn in ["", "{", r#"{"bundle":"relative"}"#, "[]"] {
            fs::write(directory.join("status"), torn).unwrap();
            assert_eq!(bundle("crun"), None, "{torn}");
        }
        assert!(containers(root.path(), "/opt/kata-runtime").is_none());
    }

    #[test]
    fn a_runtime_behind_a_link_is_known_by_its_own_name() {
        let directory = tempfile::tempdir().unwrap();
        let (real, link) = (directory.path().join("crun"), directory.path().join("oci"));
        fs::write(&real, "").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        assert_eq!(containers(directory.path(), link.to_str().unwrap()).unwrap().kind, Kind::Crun);
    }
}
