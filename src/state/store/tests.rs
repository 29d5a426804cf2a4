//! The state directory: locks, modes, and what is no record.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

fn id(name: &str) -> ContainerId {
    name.to_owned().try_into().unwrap()
}

#[test]
fn a_lock_is_held_by_one_at_a_time_also_across_removal() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::at(dir.path().join("state"));
    let inside = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let locked = store.lock_or_create(&id("c1")).unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    assert!(locked.path().is_dir());
                    inside.fetch_sub(1, Ordering::SeqCst);
                    locked.remove().unwrap();
                }
            });
        }
    });
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn the_directories_have_the_modes_the_sandbox_stands_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::at(dir.path().join("state"));
    let locked = store.lock_or_create(&id("c1")).unwrap();
    locked.hand_to_proxy(61200).unwrap();
    let mode =
        |path: &Path| fs::metadata(path).map(|m| (m.mode() & 0o7777, m.uid(), m.gid())).unwrap();
    assert_eq!(mode(&dir.path().join("state")), (0o700, 0, 0));
    assert_eq!(mode(&dir.path().join("state/containers")), (0o1733, 0, 0));
    assert_eq!(mode(locked.path()), (0o700, 61200, 61200));
}

#[test]
fn where_others_may_enter_the_state_directory_they_may_not_write_below_it() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("state");
    DirBuilder::new().mode(0o755).create(&root).unwrap();
    fs::set_permissions(&root, Permissions::from_mode(0o755)).unwrap();
    Store::at(&root).lock_or_create(&id("c1")).unwrap();
    let meta = fs::metadata(root.join("containers")).unwrap();
    assert_eq!(meta.mode() & 0o7777, 0o700);
}

#[test]
fn a_record_that_is_no_file_is_an_error_and_nobody_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::at(dir.path().join("state"));
    let locked = store.lock_or_create(&id("c1")).unwrap();
    let record = locked.path().join("record.json");
    nix::unistd::mkfifo(&record, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let error = store.read(&id("c1")).unwrap_err().to_string();
    assert!(error.ends_with("/record.json: it is not a regular file"), "{error}");
    fs::remove_file(&record).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", &record).unwrap();
    let error = store.read(&id("c1")).unwrap_err().to_string();
    assert!(error.contains("cannot read ") && error.contains("symbolic links"), "{error}");
}

#[test]
fn a_state_directory_that_cannot_be_written_is_named() {
    let error = Store::at("/proc/mcrun").lock_or_create(&id("c1")).unwrap_err().to_string();
    assert!(error.starts_with("state directory: cannot make /proc/mcrun: "), "{error}");
}
