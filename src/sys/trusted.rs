//! Files and directories that nobody except root can have written.

use std::fs;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Permission bits of group and others to write.
const GROUP_OR_OTHERS_WRITE: u32 = 0o022;

/// Reads a file of at most `most` bytes that root, or the user of this process, has written.
/// Symbolic links are followed: what they lead to is checked.
///
/// # Errors
/// Those of open(2) and read(2); in words, when somebody else can write the file, or it is no
/// regular file, or longer.
pub(crate) fn read_file(path: &Path, most: u64) -> io::Result<String> {
    // A named pipe would wait for its writer.
    let file: File = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    check_writers(&meta)?;
    let mut text = String::new();
    file.take(most + 1).read_to_string(&mut text)?;
    if text.len() as u64 > most {
        return Err(io::Error::other(format!("it is longer than {most} bytes")));
    }
    Ok(text)
}

/// Checks that nobody except root, or the user of this process, can make files in a directory.
///
/// # Errors
/// Those of stat(2); in words, when somebody else can.
pub(crate) fn check_directory(path: &Path) -> io::Result<()> {
    check_writers(&fs::metadata(path)?)
}

fn check_writers(meta: &Metadata) -> io::Result<()> {
    let owner = meta.uid();
    if owner != 0 && owner != nix::unistd::geteuid().as_raw() {
        let why = format!("it belongs to user {owner}, and has to be root's");
        return Err(io::Error::other(why));
    }
    let mode = meta.mode() & 0o7777;
    if mode & GROUP_OR_OTHERS_WRITE != 0 {
        let why = format!("others may write it (mode {mode:o}); chmod go-w");
        return Err(io::Error::other(why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn what_others_can_write_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let read = |name: &str| read_file(&path(name), 8).map_err(|error| error.to_string());
        fs::write(path("good"), "12345678").unwrap();
        symlink("good", path("link")).unwrap();
        fs::write(path("long"), "123456789").unwrap();
        fs::write(path("open"), "1").unwrap();
        fs::set_permissions(path("open"), fs::Permissions::from_mode(0o664)).unwrap();
        symlink("open", path("led astray")).unwrap();
        mkfifo(&path("pipe"), Mode::from_bits_truncate(0o600)).unwrap();
        assert_eq!(read("good").as_deref(), Ok("12345678"));
        assert_eq!(read("link").as_deref(), Ok("12345678"));
        assert_eq!(read("long").unwrap_err(), "it is longer than 8 bytes");
        let wanted = "others may write it (mode 664); chmod go-w";
        assert_eq!(read("open").unwrap_err(), wanted);
        assert_eq!(read("led astray").unwrap_err(), wanted);
        assert_eq!(read("pipe").unwrap_err(), "it is no regular file");
        assert_eq!(check_directory(dir.path()).map_err(|error| error.to_string()), Ok(()));
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        assert!(check_directory(dir.path()).unwrap_err().to_string().contains("mode 1777"));
    }
}
