//! `make install` and `make uninstall`.

use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tempfile::TempDir;

const PROGRAMS: [&str; 7] = [
    "mcrun",
    "mcrun-hook",
    "mcrun-cni",
    "mcrun-dhcp",
    "mcrun-netavark",
    "mcrun-proxy",
    "mcrun-runtime",
];

/// What `make` leaves in its target directory: the programs, and beside each the list of its
/// sources.
struct Built {
    target: TempDir,
    /// Stands for all sources.
    source: PathBuf,
}

impl Built {
    fn new() -> Built {
        let target = tempfile::tempdir().expect("temporary directory");
        let source = target.path().join("a source.rs");
        fs::write(&source, "").expect("source");
        let built = Built { target, source };
        let release = built.release();
        fs::create_dir_all(&release).expect("directory");
        let own = Path::new(env!("CARGO_BIN_EXE_mcrun")).parent().expect("a directory");
        let source = built.source.display().to_string().replace(' ', "\\ ");
        for program in PROGRAMS {
            let file = release.join(program);
            fs::copy(own.join(program), &file).expect("program");
            fs::write(
                release.join(format!("{program}.d")),
                format!("{}: {source}\n", file.display()),
            )
            .expect("list of sources");
        }
        built
    }

    fn release(&self) -> PathBuf {
        self.target.path().join("any-unknown-linux/release")
    }

    /// `make TARGET` against `root`, by somebody who has neither cargo nor rustc, as sudo has it
    /// with rustup: its programs are in PATH, and fail.
    fn try_make(&self, target: &str, root: &Path) -> Output {
        let failing = self.target.path().join("bin");
        fs::create_dir_all(&failing).expect("directory");
        for program in ["cargo", "rustc"] {
            let _ = symlink("/bin/false", failing.join(program));
        }
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", failing.display());
        Command::new("make")
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(["--no-print-directory", target, "PREFIX=/opt/mcrun"])
            .arg(format!("DESTDIR={}", root.display()))
            .env("PATH", path)
            .env("CARGO_TARGET_DIR", self.target.path())
            // A surrounding `make test` must not pass its own settings on.
            .env_remove("MAKEFLAGS")
            .env_remove("MFLAGS")
            .env_remove("MAKELEVEL")
            .output()
            .expect("make starts")
    }

    fn make(&self, target: &str, root: &Path) {
        let output = self.try_make(target, root);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "make {target}: {errors}");
    }

    /// Asserts that `make install` refuses in one line, and installs nothing.
    fn assert_refused(&self, what: &str) {
        let root = tempfile::tempdir().expect("temporary directory");
        let output = self.try_make("install", root.path());
        assert!(!output.status.success());
        let errors = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<_> = errors.lines().filter(|line| !line.starts_with("make: ")).collect();
        let advice = "run make first, as the user who has cargo";
        assert!(
            matches!(lines[..], [line] if line.contains(what) && line.ends_with(advice)),
            "{errors}"
        );
        assert_eq!(files(root.path()), BTreeSet::new());
    }
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

    let built = Built::new();
    built.make("install", root.path());

    for binary in PROGRAMS {
        assert!(prefix.join("bin").join(binary).is_file(), "{binary} beside the others");
    }
    for plugin in ["lib/cni/mcrun-cni", "lib/netavark/mcrun"] {
        let plugin = Command::new(prefix.join(plugin)).arg("--version").output();
        assert!(plugin.expect("starts").status.success());
    }
    let version = Command::new(prefix.join("bin/mcrun")).arg("--version").output().expect("starts");
    assert!(version.status.success());
    for file in [
        "share/man/man1/mcrun.1",
        "share/man/man1/mcrun-run.1",
        "share/man/man5/mcrun.toml.5",
        "share/man/man7/mcrun-attachment.7",
        "share/man/man8/mcrun-hook.8",
        "share/doc/mcrun/docs/troubleshooting.md",
        "share/doc/mcrun/docs/images/overview.svg",
        "share/bash-completion/completions/mcrun",
        "share/zsh/site-functions/_mcrun",
        "share/fish/vendor_completions.d/mcrun.fish",
        "share/doc/mcrun/LICENSE-MIT",
        "share/doc/mcrun/LICENSE-APACHE",
    ] {
        assert!(prefix.join(file).is_file(), "{file}");
    }
    for stage in ["createRuntime", "poststart", "poststop"] {
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

    for file in ["share/mcrun/lxc/start-host", "share/doc/mcrun/systemd-nspawn/mcrun.conf"] {
        let text = fs::read_to_string(prefix.join(file)).expect(file);
        assert!(text.contains("/opt/mcrun/bin/mcrun attach"), "{text}");
        assert!(!text.contains("/usr/local"), "{text}");
    }
    let example =
        fs::read_to_string(prefix.join("share/doc/mcrun/lxc/mcrun.conf")).expect("example");
    assert!(example.contains("= /opt/mcrun/share/mcrun/lxc/start-host parent="), "{example}");
    assert!(
        prefix.join("share/mcrun/lxc/start-host").metadata().unwrap().permissions().mode() & 0o111
            != 0
    );

    for (unit, command) in [("keeper", "keep"), ("metrics", "metrics --listen 9469")] {
        let file = prefix.join(format!("lib/systemd/system/mcrun-{unit}.service"));
        let text = fs::read_to_string(file).expect("unit");
        assert!(text.contains(&format!("ExecStart=/opt/mcrun/bin/mcrun {command}\n")), "{text}");
        assert!(!text.contains("/usr/local"), "{text}");
    }
    for file in ["contrib/prometheus/mcrun.rules.yml", "contrib/grafana/mcrun.json"] {
        assert!(prefix.join("share/doc/mcrun").join(file).is_file(), "{file}");
    }

    built.make("uninstall", root.path());

    assert_eq!(files(root.path()), BTreeSet::from([foreign]));
    assert!(!prefix.join("share/doc/mcrun").exists());
}

#[test]
fn binaries_that_are_older_than_a_source_are_not_installed() {
    let built = Built::new();
    let pulled = File::options().write(true).open(&built.source).expect("source");
    pulled.set_modified(SystemTime::now() + Duration::from_secs(60)).expect("modification time");
    built.assert_refused(&format!("mcrun is older than {}", built.source.display()));
}

#[test]
fn binaries_whose_source_has_gone_are_not_installed() {
    let built = Built::new();
    fs::remove_file(&built.source).expect("source goes");
    built.assert_refused("which is not there");
}

#[test]
fn an_incomplete_set_of_binaries_is_not_installed() {
    let built = Built::new();
    fs::remove_file(built.release().join("mcrun-proxy")).expect("program goes");
    built.assert_refused("release/mcrun-proxy is missing");
    fs::remove_dir_all(built.release()).expect("programs go");
    built.assert_refused("no programs below target/");
}
