//! The mounts of the calling process (proc_pid_mountinfo(5)).

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// What of the filesystem is mounted (field 4): `/` for all of it, `net:[4026532290]` for a
    /// network namespace.
    pub(crate) root: String,
    /// Where it is mounted (field 5).
    pub(crate) point: PathBuf,
    /// Type of the filesystem: `cgroup2`, `nsfs` and so on.
    pub(crate) filesystem: String,
}

/// All mounts in the calling process's mount namespace; none where /proc is not mounted.
pub(crate) fn mounts() -> Vec<Mount> {
    let text = fs::read("/proc/self/mountinfo").unwrap_or_default();
    String::from_utf8_lossy(&text).lines().filter_map(parse).collect()
}

fn parse(line: &str) -> Option<Mount> {
    // Optional fields end with a hyphen.
    let (mount, filesystem) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(3);
    let (root, point) = (fields.next()?, fields.next()?);
    Some(Mount {
        root: root.to_owned(),
        point: std::ffi::OsString::from_vec(unescape(point)).into(),
        filesystem: filesystem.split(' ').next()?.to_owned(),
    })
}

/// Blank, tab, line feed and backslash are written as a backslash and three octal digits
/// (`mangle_path` in fs/seq_file.c).
fn unescape(field: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((plain, escaped)) = rest.split_once('\\') {
        bytes.extend(plain.bytes());
        match escaped.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &escaped[3..];
            }
            None => {
                bytes.push(b'\\');
                rest = escaped;
            }
        }
    }
    bytes.extend(rest.bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_with_and_without_optional_fields() {
        let line = "66 31 0:4 net:[4026532290] /run/netns/blue rw shared:33 - nsfs nsfs rw";
        let mount = parse(line).unwrap();
        assert_eq!((mount.root.as_str(), mount.filesystem.as_str()), ("net:[4026532290]", "nsfs"));
        assert_eq!(mount.point, PathBuf::from("/run/netns/blue"));
        let line = "31 23 0:28 / /mnt/a\\040b\\134c rw,relatime - tmpfs tmpfs rw,mode=755";
        assert_eq!(parse(line).unwrap().point, PathBuf::from("/mnt/a b\\c"));
        for line in ["", "31 23 0:28 / /mnt rw", "31 23 - tmpfs"] {
            assert_eq!(parse(line), None, "{line:?}");
        }
    }

    #[test]
    fn the_root_and_proc_are_mounted() {
        let points: Vec<_> = mounts().into_iter().map(|mount| mount.point).collect();
        assert!(points.contains(&PathBuf::from("/")) && points.contains(&PathBuf::from("/proc")));
    }
}
