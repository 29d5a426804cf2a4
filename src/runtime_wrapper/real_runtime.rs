//! The runtime that does the work.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::attachment::RuntimeConfig;
use crate::runtime_wrapper::WrapperError;

/// Names that are looked for, in this order.
const KNOWN: [&str; 3] = ["runc", "crun", "youki"];
/// Where they are looked for after `PATH`, which daemons may have none of.
const PLACES: [&str; 4] = ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"];

/// The runtime to run: `MCRUN_RUNTIME`, else what the administrator named in mcrun.toml, else the
/// first of runc, crun and youki that is there. Never a copy of this program.
///
/// # Errors
/// When there is none, or the one that was named is not there.
pub(super) fn find(config_dir: &Path) -> Result<PathBuf, WrapperError> {
    let named = match std::env::var_os("MCRUN_RUNTIME").filter(|value| !value.is_empty()) {
        Some(value) => Some(("MCRUN_RUNTIME", value.into())),
        None => RuntimeConfig::read(config_dir)?.path.map(|path| ("runtime.path", path)),
    };
    let search = std::env::var_os("PATH").unwrap_or_default();
    let own = std::env::current_exe().ok();
    find_in(named, &search, own.as_deref()).map_err(WrapperError::Runtime)
}

fn find_in(
    named: Option<(&str, PathBuf)>,
    search: &OsStr,
    own: Option<&Path>,
) -> Result<PathBuf, String> {
    let own = own.and_then(|path| fs::metadata(path).ok());
    let usable = |path: &Path| {
        fs::metadata(path).is_ok_and(|found| {
            let is_own = own
                .as_ref()
                .is_some_and(|own| (own.dev(), own.ino()) == (found.dev(), found.ino()));
            found.is_file() && found.permissions().mode() & 0o111 != 0 && !is_own && !is_copy(path)
        })
    };
    let look_for = |name: &Path| {
        let places = std::env::split_paths(search).chain(PLACES.map(PathBuf::from));
        // A relative directory in PATH would mean another file in each bundle.
        places.filter(|place| place.is_absolute()).map(|place| place.join(name)).find(|p| usable(p))
    };
    match named {
        None => KNOWN.iter().find_map(|name| look_for(name.as_ref())).ok_or_else(|| {
            format!(
                "no OCI runtime found; install one of {}, or name it in mcrun.toml",
                KNOWN.join(", ")
            )
        }),
        Some((origin, path)) if path.components().count() > 1 => {
            if path.is_absolute() && usable(&path) {
                Ok(path)
            } else {
                Err(format!(
                    "{origin}: {} is not the absolute path of a runtime other than mcrun-runtime",
                    path.display()
                ))
            }
        }
        Some((origin, name)) => {
            look_for(&name).ok_or_else(|| format!("{origin}: no program {} found", name.display()))
        }
    }
}

/// Whether a path leads to another copy of mcrun-runtime: two of them would call each other for
/// ever.
fn is_copy(path: &Path) -> bool {
    fs::canonicalize(path).is_ok_and(|path| path.file_name() == Some("mcrun-runtime".as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(path: &Path) {
        fs::write(path, "").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn it_never_finds_itself() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        // Installed in runc's place, and another copy behind crun's name.
        program(&at("own"));
        fs::hard_link(at("own"), at("runc")).unwrap();
        fs::create_dir(at("copy")).unwrap();
        program(&at("copy/mcrun-runtime"));
        std::os::unix::fs::symlink(at("copy/mcrun-runtime"), at("crun")).unwrap();
        program(&at("youki"));
        let named = |name: &str| Some(("MCRUN_RUNTIME", PathBuf::from(name)));
        let find = |named| find_in(named, directory.path().as_os_str(), Some(&at("own")));
        assert_eq!(find(named("youki")).unwrap(), at("youki"));
        for own in [at("runc"), at("crun"), "youki/../runc".into(), at("missing")] {
            let error = find(named(own.to_str().unwrap())).unwrap_err();
            assert!(error.starts_with("MCRUN_RUNTIME: "), "{error}");
        }
        let found = find(None).unwrap();
        assert!(!found.starts_with(directory.path()) || found == at("youki"), "{found:?}");
        let error = find(named("rnuc")).unwrap_err();
        assert_eq!(error, "MCRUN_RUNTIME: no program rnuc found");
    }

    #[test]
    fn the_search_path_comes_first() {
        let directory = tempfile::tempdir().unwrap();
        program(&directory.path().join("runc"));
        let found = find_in(None, directory.path().as_os_str(), None).unwrap();
        assert_eq!(found, directory.path().join("runc"));
    }
}
