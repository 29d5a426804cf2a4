//! `-u USER[:GROUP]`: names looked up in the container's own /etc/passwd and /etc/group.

use std::io::Read;
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;

/// Largest /etc/passwd or /etc/group that is read, in bytes.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// Who a command runs as.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary group ids.
    pub additional_gids: Vec<u32>,
}

/// Resolves `USER[:GROUP]`, each a name or a number, in a root filesystem.
///
/// Without GROUP: the user's primary group, and the supplementary groups that /etc/group lists.
/// With GROUP: that group alone. A number need not be in the files.
///
/// # Errors
/// A name that the container's files do not have.
pub fn resolve(rootfs: &Path, text: &str) -> Result<User, String> {
    resolve_in(&read(rootfs, "etc/passwd"), &read(rootfs, "etc/group"), text)
}

fn resolve_in(passwd: &str, groups: &str, text: &str) -> Result<User, String> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let bad = |why: String| format!("-u {text}: {why}");
    if user.is_empty() || group == Some("") {
        return Err(bad("expected USER or USER:GROUP".into()));
    }
    let entry = passwd.lines().filter_map(Account::parse).find(|account| {
        // A name wins over a number, as with docker.
        account.name == user || user.parse() == Ok(account.uid)
    });
    let uid = match (&entry, user.parse()) {
        (Some(account), _) => account.uid,
        (None, Ok(uid)) => uid,
        (None, Err(_)) => {
            return Err(bad(format!("no user {user:?} in the container's /etc/passwd")));
        }
    };
    let mut result = User { uid, gid: entry.as_ref().map_or(0, |a| a.gid), ..User::default() };
    match (group, entry) {
        (Some(group), _) => {
            let found = groups.lines().filter_map(Group::parse).find(|entry| entry.name == group);
            result.gid = match (found, group.parse()) {
                (Some(entry), _) => entry.gid,
                (None, Ok(gid)) => gid,
                (None, Err(_)) => {
                    return Err(bad(format!("no group {group:?} in the container's /etc/group")));
                }
            };
        }
        (None, Some(account)) => {
            let mine = groups.lines().filter_map(Group::parse);
            let mine = mine.filter(|g| g.members.split(',').any(|m| m == account.name));
            result.additional_gids =
                mine.map(|g| g.gid).filter(|gid| *gid != account.gid).collect();
        }
        (None, None) => {}
    }
    Ok(result)
}

/// A line of passwd(5).
struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
}

impl<'a> Account<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let uid = fields.nth(1)?.parse().ok()?;
        Some(Account { name, uid, gid: fields.next()?.parse().ok()? })
    }
}

/// A line of group(5).
struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl<'a> Group<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some(Group { name, gid, members: fields.next().unwrap_or_default() })
    }
}

/// A file of the root filesystem; empty when it does not exist. Symbolic links are resolved inside
/// the root filesystem, so that an image cannot make mcrun read files of the host.
fn read(rootfs: &Path, path: &str) -> String {
    let mut text = Vec::new();
    let _ = (|| -> std::io::Result<()> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = open(rootfs, flags, Mode::empty())?;
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let file = std::fs::File::from(openat2(&root, path, how)?);
        if file.metadata()?.is_file() {
            file.take(MAX_FILE).read_to_end(&mut text)?;
        }
        Ok(())
    })();
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\nmedia:x:1000:100::/:\nbroken\n";
    const GROUP: &str = "root:x:0:\nusers:x:100:media\nvideo:x:44:other,media\n";

    fn ids(text: &str) -> Result<(u32, u32, Vec<u32>), String> {
        resolve_in(PASSWD, GROUP, text).map(|u| (u.uid, u.gid, u.additional_gids))
    }

    #[test]
    fn names_and_numbers() {
        assert_eq!(ids("media"), Ok((1000, 100, vec![44])));
        assert_eq!(ids("1000"), Ok((1000, 100, vec![44])));
        assert_eq!(ids("media:video"), Ok((1000, 44, vec![])));
        assert_eq!(ids("7"), Ok((7, 0, vec![])));
        assert_eq!(ids("7:8"), Ok((7, 8, vec![])));
    }

    #[test]
    fn what_is_not_there_is_named() {
        assert_eq!(
            ids("bob").unwrap_err(),
            "-u bob: no user \"bob\" in the container's /etc/passwd"
        );
        assert!(ids("0:crowd").unwrap_err().contains("no group \"crowd\""));
        for bad in ["", ":", "root:", ":0", "-1", "4294967296"] {
            assert!(ids(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_link_out_of_the_root_filesystem_stays_inside() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", dir.path().join("etc/passwd")).unwrap();
        assert_eq!(read(dir.path(), "etc/passwd"), "");
        std::fs::write(dir.path().join("etc/hostname"), "inside").unwrap();
        assert_eq!(read(dir.path(), "etc/passwd"), "inside");
    }
}
