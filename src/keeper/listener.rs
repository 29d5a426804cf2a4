//! The keeper's socket: the attachment service says which proxy it has replaced.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Duration, timeout};

use crate::service::keeper_socket::KeeperRequest;

/// Longest request in bytes.
const MAX_REQUEST: u64 = 1024;
/// Time of one client.
const CLIENT_TIME: Duration = Duration::from_secs(2);
/// Requests that wait.
const QUEUE: usize = 16;

/// A request, and who waits until it is done.
pub(super) type Asked = (KeeperRequest, oneshot::Sender<()>);

pub(super) struct Listener {
    path: PathBuf,
    requests: tokio::sync::Mutex<mpsc::Receiver<Asked>>,
    accepting: JoinHandle<()>,
}

impl Listener {
    /// Listens at this path, in place of a keeper that has ended.
    pub(super) fn bind(path: &Path) -> io::Result<Self> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        let (sender, requests) = mpsc::channel(QUEUE);
        let accepting = tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((client, _)) => {
                        tokio::spawn(timeout(CLIENT_TIME, serve(client, sender.clone())));
                    }
                    // A shortage passes.
                    Err(_) => tokio::time::sleep(CLIENT_TIME).await,
                }
            }
        });
        Ok(Listener { path: path.to_owned(), requests: requests.into(), accepting })
    }

    /// The next request.
    pub(super) async fn next(&self) -> Asked {
        match self.requests.lock().await.recv().await {
            Some(asked) => asked,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.accepting.abort();
        let _ = fs::remove_file(&self.path);
    }
}

async fn serve(mut client: UnixStream, requests: mpsc::Sender<Asked>) -> io::Result<()> {
    let mut line = Vec::new();
    BufReader::new(&mut client).take(MAX_REQUEST).read_until(b'\n', &mut line).await?;
    let request: KeeperRequest = serde_json::from_slice(&line)?;
    let (done, is_done) = oneshot::channel();
    if requests.send((request, done)).await.is_ok() {
        // A task that has ended holds nothing any more.
        let _ = is_done.await;
    }
    client.write_all(b"{}\n").await
}
