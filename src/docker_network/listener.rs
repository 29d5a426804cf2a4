//! The socket at which docker finds the driver.

use std::fs;
use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use socket2::{Domain, Socket, Type};

use crate::sys::{passed_fds, unix_socket};

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody answers there.
    #[error("{}: another program listens there; one mcrun serve docker is enough for a docker", .0.display())]
    InUse(PathBuf),
    /// Something else has the path.
    #[error("{}: it is no socket; name another path with --socket", .0.display())]
    NoSocket(PathBuf),
    /// It cannot be made.
    #[error("cannot listen at {}: {source}", path.display())]
    Bind {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The service manager has passed something else.
    #[error("the service manager has passed a socket that is no listening Unix stream socket")]
    Passed,
}

/// A socket that listens. Its file goes with it, if it was made here.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) socket: UnixListener,
    path: Option<PathBuf>,
}

impl Listener {
    /// The socket that the service manager has passed to this process; else one at this path, in place of
    /// that of a driver that has ended.
    ///
    /// # Errors
    /// [`ListenError`].
    pub(super) fn open(path: &Path) -> Result<Self, ListenError> {
        match passed_fds::take().into_iter().next() {
            Some((_, passed)) => {
                let socket = Socket::from(passed);
                let is_unix = socket.domain().is_ok_and(|domain| domain == Domain::UNIX)
                    && socket.r#type().is_ok_and(|kind| kind == Type::STREAM)
                    && socket.is_listener().unwrap_or(false);
                match is_unix {
                    true => Ok(Listener { socket: UnixListener::from(socket), path: None }),
                    false => Err(ListenError::Passed),
                }
            }
            None => Self::bind(path),
        }
    }

    fn bind(path: &Path) -> Result<Self, ListenError> {
        let at = |source| ListenError::Bind { path: path.to_owned(), source };
        if let Some(directory) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(at)?;
        }
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(at(error)),
            Ok(meta) if !meta.file_type().is_socket() => {
                return Err(ListenError::NoSocket(path.to_owned()));
            }
            // A full queue is somebody's too.
            Ok(_) => match unix_socket::connect(path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    fs::remove_file(path).map_err(at)?;
                }
                _ => return Err(ListenError::InUse(path.to_owned())),
            },
        }
        let socket = UnixListener::bind(path).map_err(at)?;
        fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(at)?;
        Ok(Listener { socket, path: Some(path.to_owned()) })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_takes_the_place_of_a_dead_one_and_of_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plugins/mcrun.sock");
        let listener = Listener::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let error = Listener::bind(&path).unwrap_err();
        assert!(matches!(error, ListenError::InUse(_)), "{error}");
        // As a killed process leaves it.
        let Listener { socket, path: file } = &mut { listener };
        file.take();
        drop(socket.try_clone());
        let dead = dir.path().join("dead.sock");
        drop(UnixListener::bind(&dead).unwrap());
        assert!(dead.exists());
        drop(Listener::bind(&dead).unwrap());
        assert!(!dead.exists());
        let file = dir.path().join("file");
        fs::write(&file, "theirs").unwrap();
        assert!(matches!(Listener::bind(&file).unwrap_err(), ListenError::NoSocket(_)));
        assert_eq!(fs::read_to_string(&file).unwrap(), "theirs");
    }
}
