//! `make install` and `make uninstall`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Runs `make TARGET` against `root` with the binaries of this build.
fn make(target: &str, root: &Path) {
    let built = Path::new(env!("CARGO_BIN_EXE_mcrun")).parent().expect("a directory");
    let output = Command::new("make")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["--no-print-directory", target, "PREFIX=/opt/mcrun"])
        .arg(format!("DESTDIR={}", root.display()))
        .arg(format!("release={}", built.display()))
        // A surrounding `make test` must not pass its own settings on.
        .env_remove("MAKEFLAGS")
        .env_remove("MFLAGS")
        .output()
        .expect("make starts");
    assert!(output.status.success(), "make {target}: {}", String::from_utf8_lossy(&output.stderr));
}

fn files(directory: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(directory).expect("readable") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path);
        }
    }
    found
}

#[test]
fn install_puts_a_working_set_in_place_and_uninstall_takes_exactly_that_away() {
    let root = tempfile::tempdir().expect("temporary directory");
    let prefix = root.path().join("opt/mcrun");
    fs::create_dir_all(prefix.join("bin")).expect("directory");
    let foreign = prefix.join("bin/somebody-elses");
    fs::write(&foreign, "").expect("file");

    make("install", root.path());

    for binary in ["mcrun", "mcrun-hook", "mcrun-proxy", "mcrun-runtime"] {
        assert!(prefix.join("bin").join(binary).is_file(), "{binary} beside the others");
    }
    let version = Command::new(prefix.join("bin/mcrun")).arg("--version").output().expect("starts");
    assert!(version.status.success());
    for file in [
        "share/man/man1/mcrun.1",
        "share/man/man1/mcrun-run.1",
        "share/bash-completion/completions/mcrun",
        "share/zsh/site-functions/_mcrun",
        "share/fish/vendor_completions.d/mcrun.fish",
        "share/doc/mcrun/LICENSE-MIT",
        "share/doc/mcrun/LICENSE-APACHE",
    ] {
        assert!(prefix.join(file).is_file(), "{file}");
    }
    for stage in ["createRuntime", "poststop"] {
        let file = prefix.join(format!("share/containers/oci/hooks.d/mcrun-{stage}.json"));
        let hook: Value =
            serde_json::from_slice(&fs::read(file).expect("hook file")).expect("JSON");
        assert_eq!(hook["hook"]["path"], "/opt/mcrun/bin/mcrun-hook");
        assert_eq!(hook["hook"]["args"][1], stage);
        assert_eq!(hook["stages"][0], stage);
    }
    let example = fs::read_to_string(prefix.join("share/doc/mcrun/config.json")).expect("example");
    assert!(example.contains("\"/opt/mcrun/bin/mcrun-hook\""), "{example}");
    assert!(!example.contains("/usr/local"), "{example}");
    for (file, program) in [
        ("docker/daemon.json", "mcrun-runtime"),
        ("containerd/config.toml", "mcrun-runtime"),
        ("crio/99-mcrun.conf", "mcrun-runtime"),
        ("cdi/mcrun.yaml", "mcrun-hook"),
    ] {
        let text = fs::read_to_string(prefix.join("share/doc/mcrun").join(file)).expect(file);
        assert!(text.contains(&format!("\"/opt/mcrun/bin/{program}\"")), "{text}");
        assert!(!text.contains("/usr/local"), "{text}");
    }

    make("uninstall", root.path());

    assert_eq!(files(root.path()), BTreeSet::from([foreign]));
    assert!(!prefix.join("share/doc/mcrun").exists());
}
