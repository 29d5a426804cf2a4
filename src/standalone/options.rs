//! What `mcrun run` is asked for, and the values of docker's options.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::standalone::StandaloneError;

/// Where the container comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerSource {
    /// A root filesystem, used in place; the rest is docker's defaults.
    Rootfs(PathBuf),
    /// A bundle: a directory with a config.json, which stays as it is.
    Bundle(PathBuf),
}

/// The options of `mcrun run`, as given.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// Where the container comes from; required.
    pub source: Option<ContainerSource>,
    /// Name or path of the runtime.
    pub engine: Option<String>,
    /// The container's name.
    pub name: Option<String>,
    /// Attachments, one by one.
    pub mcast: Vec<String>,
    /// Run in the background.
    pub detach: bool,
    /// Pass stdin on.
    pub interactive: bool,
    /// Give the container a terminal.
    pub tty: bool,
    /// Remove it when it ends.
    pub remove: bool,
    /// `NAME=VALUE`, or `NAME` of mcrun's own environment.
    pub env: Vec<String>,
    /// Files with lines of the same.
    pub env_file: Vec<PathBuf>,
    /// `SOURCE:DESTINATION[:OPTIONS]`.
    pub volume: Vec<String>,
    /// Directory in which the command starts.
    pub workdir: Option<String>,
    /// `USER[:GROUP]`.
    pub user: Option<String>,
    /// Host name.
    pub hostname: Option<String>,
    /// Capabilities to add.
    pub cap_add: Vec<String>,
    /// Capabilities to drop.
    pub cap_drop: Vec<String>,
    /// All capabilities and devices.
    pub privileged: bool,
    /// A read-only root filesystem.
    pub read_only: bool,
    /// Memory limit.
    pub memory: Option<String>,
    /// CPUs' worth of time.
    pub cpus: Option<String>,
    /// `KEY=VALUE`.
    pub annotation: Vec<String>,
    /// The command and its arguments.
    pub command: Vec<String>,
}

/// The variables of `--env-file` and then `-e`; a name alone takes mcrun's own value, and is
/// left out when there is none.
pub(super) fn environment(
    env: &[String],
    files: &[PathBuf],
) -> Result<Vec<(String, String)>, StandaloneError> {
    let mut variables = Vec::new();
    for file in files {
        let text = read_env_file(file).map_err(|e| {
            StandaloneError::new(format_args!("--env-file {}: {e}", file.display()))
        })?;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim_start();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let variable = parse_variable(line).map_err(|why| {
                let number = number + 1;
                StandaloneError::new(format_args!("--env-file {}:{number}: {why}", file.display()))
            })?;
            variables.extend(variable);
        }
    }
    for text in env {
        let variable = parse_variable(text)
            .map_err(|why| StandaloneError::new(format_args!("-e {text}: {why}")))?;
        variables.extend(variable);
    }
    Ok(variables)
}

fn read_env_file(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(1 << 20).read_to_string(&mut text)?;
    Ok(text)
}

fn parse_variable(text: &str) -> Result<Option<(String, String)>, String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text.trim_end(), std::env::var(text.trim_end()).ok()),
    };
    if name.is_empty() || name.contains(char::is_whitespace) || text.contains('\0') {
        return Err("expected NAME=VALUE or NAME".into());
    }
    Ok(value.map(|value| (name.to_owned(), value)))
}

/// `-v SOURCE:DESTINATION[:OPTIONS]` as a mount of config.json.
pub(super) fn volume(text: &str) -> Result<Value, StandaloneError> {
    let bad = |why: String| StandaloneError::new(format_args!("-v {text}: {why}"));
    let mut parts = text.split(':');
    let (Some(source), Some(destination)) = (parts.next(), parts.next()) else {
        return Err(bad("expected SOURCE:DESTINATION or SOURCE:DESTINATION:OPTIONS".into()));
    };
    let flags = parts.next().unwrap_or_default();
    if parts.next().is_some() || source.is_empty() {
        return Err(bad("expected SOURCE:DESTINATION or SOURCE:DESTINATION:OPTIONS".into()));
    }
    if !destination.starts_with('/') || destination.trim_matches('/').is_empty() {
        return Err(bad("the destination is an absolute path other than /".into()));
    }
    let path = std::fs::canonicalize(source).map_err(|error| bad(format!("{source}: {error}")))?;
    let path = path.to_str().ok_or_else(|| bad("the source's path is not UTF-8".into()))?;
    const PROPAGATION: [&str; 6] = ["private", "rprivate", "shared", "rshared", "slave", "rslave"];
    const OTHERS: [&str; 8] = ["ro", "rw", "exec", "noexec", "suid", "nosuid", "dev", "nodev"];
    let mut options = vec!["rbind"];
    for flag in flags.split(',').filter(|flag| !flag.is_empty()) {
        if !PROPAGATION.contains(&flag) && !OTHERS.contains(&flag) {
            let known = [&OTHERS[..], &PROPAGATION[..]].concat().join(", ");
            return Err(bad(format!("unknown option {flag:?}; there are {known}")));
        }
        options.push(flag);
    }
    if !options.iter().any(|option| PROPAGATION.contains(option)) {
        options.push("rprivate");
    }
    Ok(json!({ "destination": destination, "type": "bind", "source": path, "options": options }))
}

/// `--memory`: bytes, or with a suffix b, k, m, g or t (of 1024), at least docker's 6 MiB.
pub(super) fn memory(text: &str) -> Result<i64, StandaloneError> {
    let bad = |why: &str| StandaloneError::new(format_args!("--memory {text}: {why}"));
    let lower = text.to_ascii_lowercase();
    let number = lower.strip_suffix("ib").or(lower.strip_suffix('b')).unwrap_or(&lower);
    let (number, shift) = match number.char_indices().last() {
        Some((at, 'k')) => (&number[..at], 10),
        Some((at, 'm')) => (&number[..at], 20),
        Some((at, 'g')) => (&number[..at], 30),
        Some((at, 't')) => (&number[..at], 40),
        _ => (number, 0),
    };
    let form = "expected a number of bytes, or with a suffix k, m or g, such as 512m";
    let number: f64 =
        number.parse().ok().filter(|n: &f64| n.is_finite()).ok_or_else(|| bad(form))?;
    let bytes = number * (1u64 << shift) as f64;
    if bytes < (6 << 20) as f64 {
        return Err(bad("the least is 6m"));
    }
    if bytes > (1u64 << 60) as f64 {
        return Err(bad("more than there can be"));
    }
    Ok(bytes as i64)
}

/// `--cpus`: the CFS quota in microseconds of each [`CPU_PERIOD`].
pub(super) fn cpu_quota(text: &str, online: usize) -> Result<i64, StandaloneError> {
    let cpus: Option<f64> = text.parse().ok().filter(|n: &f64| n.is_finite());
    match cpus {
        Some(cpus) if (0.01..=online as f64).contains(&cpus) => {
            Ok((cpus * CPU_PERIOD as f64).round() as i64)
        }
        _ => Err(StandaloneError::new(format_args!(
            "--cpus {text}: expected a number from 0.01 to {online}, the CPUs there are"
        ))),
    }
}

/// The period of [`cpu_quota`] in microseconds, the kernel's default.
pub(super) const CPU_PERIOD: u64 = 100_000;

/// `--annotation KEY=VALUE`.
pub(super) fn annotation(text: &str) -> Result<(&str, &str), StandaloneError> {
    text.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or_else(|| {
        StandaloneError::new(format_args!("--annotation {text}: expected KEY=VALUE"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_takes_dockers_suffixes() {
        for (text, bytes) in [
            ("6m", 6 << 20),
            ("1G", 1 << 30),
            ("16mb", 16 << 20),
            ("7000000", 7_000_000),
            ("0.5g", 1 << 29),
            ("8MiB", 8 << 20),
        ] {
            assert_eq!(memory(text), Ok(bytes), "{text}");
        }
        for bad in ["", "m", "5m", "-1g", "1x", "nan", "inf", "9999999t"] {
            assert!(memory(bad).unwrap_err().to_string().starts_with("--memory "), "{bad}");
        }
    }

    #[test]
    fn cpus_are_within_the_machine() {
        assert_eq!(cpu_quota("1.5", 2), Ok(150_000));
        assert_eq!(cpu_quota("2", 2), Ok(200_000));
        for bad in ["0", "-1", "2.1", "x", "NaN"] {
            let error = cpu_quota(bad, 2).unwrap_err().to_string();
            assert!(error.ends_with("expected a number from 0.01 to 2, the CPUs there are"));
        }
    }

    #[test]
    fn volumes() {
        let mount = volume("/tmp:/data:ro,noexec").unwrap();
        assert_eq!(mount["options"], json!(["rbind", "ro", "noexec", "rprivate"]));
        assert_eq!(volume("/tmp:/data:rshared").unwrap()["options"], json!(["rbind", "rshared"]));
        for (text, why) in [
            ("/tmp", "expected SOURCE"),
            ("/tmp:data", "absolute path"),
            ("/tmp:/", "absolute path"),
            (":/data", "expected SOURCE"),
            ("/tmp:/data:ro:x", "expected SOURCE"),
            ("/nonexistent/x:/data", "No such file"),
            ("/tmp:/data:rx", "unknown option \"rx\"; there are ro, rw"),
        ] {
            let error = volume(text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("-v {text}: ")) && error.contains(why), "{error}");
        }
    }

    #[test]
    fn variables_come_from_files_and_options() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("env");
        std::fs::write(&file, "# comment\n\n  A=1 2\nPATH\nNOT_SET_ANYWHERE\n").unwrap();
        let got = environment(&["B==".into(), "C=".into()], std::slice::from_ref(&file)).unwrap();
        let own = std::env::var("PATH").unwrap();
        let want = [("A", "1 2"), ("PATH", &own), ("B", "="), ("C", "")];
        assert_eq!(got, want.map(|(k, v)| (k.to_owned(), v.to_owned())));
        std::fs::write(&file, "ok=1\n=2\n").unwrap();
        let error = environment(&[], std::slice::from_ref(&file)).unwrap_err().to_string();
        assert!(error.contains("env:2: expected NAME=VALUE"), "{error}");
        assert!(environment(&["A B=1".into()], &[]).is_err());
    }
}
