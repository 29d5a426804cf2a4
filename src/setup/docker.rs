//! dockerd's daemon.json: the runtime "mcrun".

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::json_edit;
use crate::setup::files::Edit;
use crate::setup::{SetupError, content};

const RUNTIME: [&str; 2] = ["runtimes", "mcrun"];

pub(super) fn edit(programs: &str) -> Edit {
    let program = format!("{programs}/mcrun-runtime");
    Edit::Part {
        empty: "{\n}\n",
        add: Box::new(move |text| add(text, &program).map_err(|error| error.to_string())),
        remove_part: Box::new(|text| {
            json_edit::remove(text, &RUNTIME).map_err(|error| error.to_string())
        }),
    }
}

fn add(text: &str, program: &str) -> Result<String, json_edit::EditError> {
    let path = [RUNTIME[0], RUNTIME[1], "path"];
    match json_edit::get(text, &RUNTIME)? {
        // Somebody may have added arguments or a shim to the entry: they stay.
        Some(runtime) if runtime != "null" => {
            let program = json!(program);
            match json_edit::get(text, &path)? {
                Some(there) if serde_json::from_str(there).ok() == Some(program.clone()) => {
                    Ok(text.to_owned())
                }
                _ => json_edit::set(text, &path, &program),
            }
        }
        _ => json_edit::set(text, &RUNTIME, &json!({ "path": program })),
    }
}

/// Sends SIGHUP to the dockerd that a pid file names. Returns its process id.
pub(super) fn reload(pid_file: &Path) -> Result<i32, SetupError> {
    let failed = |source| SetupError::File { action: "read", path: pid_file.to_owned(), source };
    let text = fs::read_to_string(pid_file).map_err(failed)?;
    let wrong = || {
        content(pid_file)(format!("{:?} is not the process id of a running dockerd", text.trim()))
    };
    let pid: i32 = text.trim().parse().ok().filter(|pid| *pid > 1).ok_or_else(wrong)?;
    // Opened before its name is read: the number cannot become another process's in between.
    let process = crate::sys::process::ProcessRef::of(pid).and_then(|process| process.open());
    let process = process.map_err(|_| wrong())?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    if name.trim() != "dockerd" {
        return Err(wrong());
    }
    process.signal(libc::SIGHUP).map_err(|source| {
        content(pid_file)(format!("cannot send SIGHUP to process {pid}: {source}"))
    })?;
    Ok(pid)
}
