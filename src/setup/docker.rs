//! dockerd's daemon.json: the runtime "mcrun".

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::json_edit;
use crate::runtime_wrapper;
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

/// What mcrun-runtime is to know of docker. Without dockerd's version, nothing.
pub(super) fn facts(daemon_json: &str) -> Option<Edit> {
    Some(Edit::Whole(runtime_wrapper::facts_file(&installed()?, daemon_json)))
}

/// What keeps the installed dockerd from CDI devices, in one line; `None` where nothing does, and where
/// no dockerd is installed. `daemon_json` is its configuration, as far as it can be read.
pub(super) fn without_devices(daemon_json: &Path) -> Option<String> {
    let text = fs::read_to_string(daemon_json).unwrap_or_default();
    let switch = json_edit::get(&text, &["features", "cdi"]).ok().flatten();
    devices_need(&installed()?, switch, daemon_json)
}

/// docker knows CDI devices since 25.0, and without being asked to since 28.2.
fn devices_need(version: &str, switch: Option<&str>, daemon_json: &Path) -> Option<String> {
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    let release = (numbers.next()?, numbers.next().unwrap_or(0));
    if release < (25, 0) {
        return Some(format!(
            "docker {version} knows no CDI devices; mcrun setup docker is the way there"
        ));
    }
    let is_on = switch.map_or(release >= (28, 2), |switch| switch == "true");
    (!is_on).then(|| {
        format!(
            "docker {version} takes CDI devices after \"features\": {{\"cdi\": true}} in {} and systemctl \
             restart docker",
            daemon_json.display()
        )
    })
}

/// The version of the dockerd that is installed.
fn installed() -> Option<String> {
    let output = Command::new("dockerd").arg("--version").output().ok()?;
    version(&String::from_utf8(output.stdout).ok()?).map(str::to_owned)
}

/// The version in "Docker version 20.10.24+dfsg1, build 297e128".
fn version(text: &str) -> Option<&str> {
    let word = text.strip_prefix("Docker version ")?.split([',', ' ', '\n']).next()?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || ".+-~".contains(c);
    (word.starts_with(|c: char| c.is_ascii_digit()) && word.chars().all(is_plain)).then_some(word)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_dockerd_is_read_as_it_prints_it() {
        assert_eq!(
            version("Docker version 20.10.24+dfsg1, build 297e128\n"),
            Some("20.10.24+dfsg1")
        );
        assert_eq!(version("Docker version 28.5.2, build 1\n"), Some("28.5.2"));
        for text in ["", "dockerd 1", "Docker version ", "Docker version 1\";x, build"] {
            assert_eq!(version(text), None, "{text}");
        }
    }

    #[test]
    fn a_docker_that_takes_no_devices_by_itself_is_told_of() {
        let need =
            |version, switch| devices_need(version, switch, Path::new("/etc/docker/daemon.json"));
        for version in ["28.2.0", "28.5.2+dfsg3", "29.0.1"] {
            assert_eq!(need(version, None), None, "{version}");
            assert_eq!(need(version, Some("true")), None, "{version}");
            assert!(need(version, Some("false")).is_some(), "{version}");
        }
        for version in ["25.0.0", "26.1.5+dfsg1", "28.1.1"] {
            let expected = format!(
                "docker {version} takes CDI devices after \"features\": {{\"cdi\": true}} in \
                 /etc/docker/daemon.json and systemctl restart docker"
            );
            assert_eq!(need(version, None), Some(expected), "{version}");
            assert_eq!(need(version, Some("true")), None, "{version}");
        }
        let none = need("20.10.24+dfsg1", Some("true")).expect("told");
        assert!(none.starts_with("docker 20.10.24+dfsg1 knows no CDI devices"), "{none}");
    }
}
