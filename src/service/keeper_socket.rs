//! The socket of the keeper, `keeper.sock` in the state directory, as the attachment service uses
//! it: when it has replaced a proxy, the keeper lets go of what the old one has left.

use std::io;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::state::state_dir;
use crate::sys::process::ProcessRef;
use crate::sys::unix_socket;

/// The keeper answers from memory. One that hangs lets go later, by itself.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Time for which one waits until a keeper has written what it was told.
const KEPT_TIMEOUT: Duration = Duration::from_secs(2);

/// The request, one line of JSON. The answer is an empty object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub(crate) enum KeeperRequest {
    /// The proxy has ended, and another one has taken over from it.
    Release {
        /// The container.
        container: String,
        /// The proxy that has ended.
        proxy: ProcessRef,
    },
    /// The answer comes when everything is kept that proxies have told before the request.
    Kept,
}

/// Where the keeper listens.
pub(crate) fn path() -> PathBuf {
    state_dir().join("keeper.sock")
}

/// Whether a keeper runs.
pub(crate) fn is_served() -> bool {
    connect().is_ok()
}

/// Connects to the keeper.
///
/// # Errors
/// Those of connect(2): without a keeper `ENOENT` or `ECONNREFUSED`, and `EAGAIN` if it is stuck.
pub(crate) fn connect() -> io::Result<UnixStream> {
    unix_socket::connect(path())
}

/// Makes the keeper let go of what a proxy has left that was replaced and has ended. Without a
/// keeper there is nothing to let go of. `dir` is the directory of the container.
pub(super) fn release(dir: &Path, proxy: ProcessRef) {
    let Some(container) = dir.file_name().and_then(|name| name.to_str()) else { return };
    let request = KeeperRequest::Release { container: container.to_owned(), proxy };
    // If this fails, the keeper notices by itself that the proxy was replaced.
    let _ = ask(&request, ANSWER_TIMEOUT);
}

/// Waits until the keeper has kept everything that proxies have told so far, at most [`KEPT_TIMEOUT`].
///
/// # Errors
/// Without a keeper those of [`connect`]; `EAGAIN` from one that does not answer in time; `UnexpectedEof`
/// from one of an earlier version.
pub(crate) fn wait_kept() -> io::Result<()> {
    ask(&KeeperRequest::Kept, KEPT_TIMEOUT)
}

fn ask(request: &KeeperRequest, limit: Duration) -> io::Result<()> {
    let mut stream = connect()?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    stream.read_exact(&mut [0])
}
