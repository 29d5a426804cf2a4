//! How runtimes are told to call the hook.

use std::io;
use std::path::PathBuf;

use crate::hook::Caller;
use crate::oci::spec::DEFAULT_PATH;

/// `mcrun-hook`, which stands beside the running program.
///
/// # Errors
/// When it is not there, or nobody knows where the running program is.
pub fn program() -> io::Result<PathBuf> {
    let own = std::env::current_exe().map_err(|error| {
        io::Error::new(error.kind(), format!("cannot find my own path: {error}"))
    })?;
    let hook = own.with_file_name("mcrun-hook");
    if !hook.is_file() {
        let missing = format!("{} is missing; it attaches containers", hook.display());
        return Err(io::Error::new(io::ErrorKind::NotFound, missing));
    }
    Ok(hook)
}

/// The environment of the hook as `NAME=VALUE`: runtimes run hooks with that of config.json, and
/// no other. Directories are absolute: hooks run in a directory of the runtime's choice. `caller`
/// decides whether the container's variable counts.
pub fn environment(caller: Caller) -> Vec<String> {
    let path = std::env::var("PATH").ok().filter(|path| !path.is_empty());
    let mut env = vec![format!("PATH={}", path.as_deref().unwrap_or(DEFAULT_PATH))];
    for name in ["MCRUN_STATE_DIR", "MCRUN_CONFIG_DIR"] {
        if let Some(value) = std::env::var(name).ok().filter(|value| !value.is_empty()) {
            // Only an empty path, or a lost working directory, has no absolute form.
            let path = std::path::absolute(&value).unwrap_or_else(|_| value.into());
            env.push(format!("{name}={}", path.display()));
        }
    }
    env.extend(caller.for_hook());
    env
}
