//! Users for proxies: each proxy has a user id that no other process has.
//!
//! A lock file in the state directory has two bytes for each id. The service locks both bytes of an
//! id that it chooses, and releases the second one for the proxy, which locks it for as long as it
//! runs. The kernel releases the locks of a process that ends, so nothing has to be cleaned up.
//! The locks keep apart proxies that start at the same time. An id that some other process has is
//! told by the kernel.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use crate::attachment::UidRange;
use crate::oci::ContainerId;

/// The lock file in the state directory.
const FILE: &str = "proxy-users";
/// Where systemd keeps a file for each dynamic user id (`DynamicUser=` in systemd.exec(5)).
const SYSTEMD_DYNAMIC_USERS: &str = "/run/systemd/dynamic-uid";
/// Files that name the host's accounts and groups.
const ACCOUNTS: [&str; 2] = ["/etc/passwd", "/etc/group"];

/// Why there is no user for a proxy.
#[derive(Debug, thiserror::Error)]
pub enum ProxyUserError {
    /// The lock file cannot be used.
    #[error("state directory: cannot lock {FILE}: {0}")]
    LockFile(io::Error),
    /// Every id of the range is in use.
    #[error(
        "no user id is free for the proxy in {0}; [proxy] uids in mcrun.toml names a larger range"
    )]
    NoneFree(UidRange),
}

/// An id that is reserved for a proxy that is being started. Keep it until the proxy is ready.
#[derive(Debug)]
pub struct ReservedUser {
    /// User id and group id.
    pub id: u32,
    _lock: File,
}

impl ReservedUser {
    /// Reserves an id of `range` for a proxy of this container. No account of the host, no
    /// other process and no other proxy has it.
    ///
    /// The search begins at a position that depends on the container's id, so that it seldom meets
    /// an id in use, however many there are.
    ///
    /// # Errors
    /// [`ProxyUserError`].
    pub(super) fn reserve(
        root: &Path,
        container: &ContainerId,
        range: UidRange,
    ) -> Result<Self, ProxyUserError> {
        let lock = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(root.join(FILE))
            .map_err(ProxyUserError::LockFile)?;
        let accounts = ACCOUNTS.map(|file| std::fs::read_to_string(file).unwrap_or_default());
        for id in range.from_position(hash(container.as_str())) {
            let is_taken = names_id(&accounts, id) || has_process(id) || is_dynamic_user(id);
            if is_taken || !try_lock(&lock, id).map_err(ProxyUserError::LockFile)? {
                continue;
            }
            return Ok(ReservedUser { id, _lock: lock });
        }
        Err(ProxyUserError::NoneFree(range))
    }
}

/// Holds the id of the calling proxy until the file is closed. The service has reserved it.
///
/// # Errors
/// Those of open(2) and fcntl(2); `EAGAIN` when another proxy has the id.
pub(crate) fn hold(root: &Path, id: u32) -> io::Result<File> {
    // Not for writing: a proxy that an attacker has taken over cannot fill the file.
    let file = File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(root.join(FILE))?;
    set_lock(&file, libc::F_RDLCK, proxy_byte(id), 1)?;
    Ok(file)
}

/// Locks both bytes of an id, and releases that of the proxy. `false`: somebody else has the id.
fn try_lock(file: &File, id: u32) -> io::Result<bool> {
    match set_lock(file, libc::F_WRLCK, service_byte(id), 2) {
        Ok(()) => {}
        Err(Errno::EAGAIN | Errno::EACCES) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    set_lock(file, libc::F_UNLCK, proxy_byte(id), 1)?;
    Ok(true)
}

fn service_byte(id: u32) -> i64 {
    i64::from(id) * 2
}

fn proxy_byte(id: u32) -> i64 {
    service_byte(id) + 1
}

fn set_lock(file: &File, kind: i32, start: i64, length: i64) -> Result<(), Errno> {
    let lock = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: length,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_OFD_SETLK(&lock)).map(drop)
}

/// Whether a line of the files has the id in a field of its own. A group's id in the place of a
/// user's counts too: one id more to leave out does no harm.
fn names_id(accounts: &[String], id: u32) -> bool {
    let field = format!(":{id}:");
    accounts.iter().any(|text| text.contains(&field))
}

/// Whether a process has this real user id. For an id that nobody has the kernel finds no entry in
/// its table of users, and looks at no process (`getpriority` in kernel/sys.c).
fn has_process(id: u32) -> bool {
    // SAFETY: the call takes numbers only.
    let priority = unsafe { libc::syscall(libc::SYS_getpriority, libc::PRIO_USER, id) };
    priority != -1 || Errno::last() != Errno::ESRCH
}

fn is_dynamic_user(id: u32) -> bool {
    Path::new(SYSTEMD_DYNAMIC_USERS).join(id.to_string()).exists()
}

/// FNV-1a.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::process::CommandExt;
    use std::process::Command;
    use std::sync::Mutex;

    use super::*;

    fn container(n: usize) -> ContainerId {
        format!("container-{n}").try_into().unwrap()
    }

    /// A range that no account of a usual host has, and no other test: the tests of one process
    /// run at once, and one of them gives an id of its range to a process.
    fn range(test: u32, size: u32) -> UidRange {
        let first = 1_900_000_000 + std::process::id() % 100_000 * 300 + test * 100;
        format!("{first}-{}", first + size - 1).parse().unwrap()
    }

    #[test]
    fn many_at_once_get_an_id_each_and_there_are_no_more_than_the_range_has() {
        let dir = tempfile::tempdir().unwrap();
        let reserved = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for n in 0..8 {
                let (reserved, root) = (&reserved, dir.path());
                scope.spawn(move || {
                    for m in 0..5 {
                        let user = ReservedUser::reserve(root, &container(n * 5 + m), range(0, 40));
                        reserved.lock().unwrap().push(user.unwrap());
                    }
                });
            }
        });
        let reserved = reserved.into_inner().unwrap();
        let ids: BTreeSet<u32> = reserved.iter().map(|user| user.id).collect();
        assert_eq!(ids.len(), 40);
        let error = ReservedUser::reserve(dir.path(), &container(99), range(0, 40)).unwrap_err();
        let expected = format!("no user id is free for the proxy in {}; ", range(0, 40));
        assert!(error.to_string().starts_with(&expected), "{error}");
    }

    #[test]
    fn an_id_is_free_again_when_its_proxy_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = || ReservedUser::reserve(dir.path(), &container(1), range(1, 1));
        let reserved = reserve().unwrap();
        let held = hold(dir.path(), reserved.id).unwrap();
        drop(reserved);
        assert!(reserve().is_err(), "the proxy runs");
        drop(held);
        let reserved = reserve().unwrap();
        drop(reserved);
        assert!(reserve().is_ok(), "no proxy was started");
    }

    #[test]
    fn an_id_that_a_process_or_an_account_has_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = || ReservedUser::reserve(dir.path(), &container(1), range(2, 2)).unwrap().id;
        let first = reserve();
        assert!(!has_process(first));
        let mut other = Command::new("sleep").arg("100").uid(first).spawn().unwrap();
        assert!(has_process(first));
        assert_ne!(reserve(), first);
        other.kill().unwrap();
        other.wait().unwrap();
        assert_eq!(reserve(), first);
        let accounts = ["a:x:7:8:A:/:/bin/sh\n".to_owned(), "b:x:9:\n".to_owned()];
        assert_eq!(
            [6, 7, 8, 9, 10].map(|id| names_id(&accounts, id)),
            [false, true, true, true, false]
        );
    }
}
