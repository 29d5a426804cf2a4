//! The keeper, `mcrun keep`: it holds what must outlive a proxy, starts a successor of a proxy that
//! dies or hangs, and makes links anew that went with their parents. One for each host, as root;
//! optional.
//!
//! The keeper asks every proxy to `hold`: it gets a descriptor of each socket with memberships on
//! the LAN, of the owner of the rules in the container, and of the relays' sockets. As long as one
//! descriptor of a socket is open, the kernel's memberships and rules last. No join and no packet
//! waits for the keeper.
//!
//! Since it knows which memberships of the host are proxies', it also keeps the data of containers'
//! groups from the host's own sockets (`fence`).

mod container;
mod containers;
mod fd_store;
mod fence;
mod holding;
mod links;
mod listener;
mod notify;
mod repair;

use std::fs::File;
use std::fs::TryLockError;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::attachment::{AdminConfig, UidRange};
use crate::events;
use crate::keeper::containers::Containers;
use crate::keeper::links::HostLinks;
use crate::keeper::listener::Listener;
use crate::service::keeper_socket;
use crate::service::keeper_socket::KeeperRequest;
use crate::state::{Store, config_dir, log_dir};

/// Time after which events are kept again when that has failed.
const RECORD_RETRY: Duration = Duration::from_secs(10);

/// Questions that wait, whether all is kept.
const QUESTIONS: usize = 16;

/// How the keeper works.
#[derive(Debug, Clone)]
pub struct Options {
    /// Time between two questions to a proxy. One that leaves two of them unanswered is killed and
    /// replaced.
    pub watchdog: Duration,
    /// A proxy that dies earlier than this after its start is in a crash loop: its successor waits,
    /// longer each time.
    pub stable_after: Duration,
    /// User ids of proxies.
    pub users: ProxyUids,
    /// Whether the host's sockets are kept from what only containers have joined.
    pub fence: bool,
}

/// The user ids of proxies, as mcrun.toml has them now.
#[derive(Debug, Clone)]
pub struct ProxyUids(Arc<Mutex<UidRange>>);

impl ProxyUids {
    /// Those of a file that was read.
    pub fn of(admin: &AdminConfig) -> Self {
        ProxyUids(Arc::new(Mutex::new(admin.proxy_uids())))
    }

    /// Reads mcrun.toml again. If it cannot be understood, the range that was read before.
    fn current(&self) -> UidRange {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(admin) = AdminConfig::read(&config_dir()) {
            *known = admin.proxy_uids();
        }
        *known
    }
}

/// Keeps until a signal ends the process.
///
/// # Errors
/// Another keeper runs; the state directory cannot be made or watched.
pub fn keep(store: &Store, options: Options) -> anyhow::Result<()> {
    // Makes the directories that are watched.
    drop(store.lock_all()?);
    let _lock = lock()?;
    raise_descriptor_limit();
    let questions = record_events(store);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(8)
        .build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let board = options.fence.then(fence::Board::default);
        let mut containers = Containers::watch(store, options, board.clone(), fd_store::take())?;
        if let Some(board) = board {
            tokio::spawn(fence::run(board));
        }
        let links = HostLinks::open()?;
        let listener = Listener::bind(&keeper_socket::path())?;
        containers.find_all();
        containers.forget_unknown();
        notify::send("READY=1");
        let mut alive = notify::watchdog().map(tokio::time::interval);
        loop {
            tokio::select! {
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
                changed = containers.changed() => changed?,
                changed = links.changed() => containers.links_changed(&changed?),
                request = listener.next() => match request {
                    // One that is not asked is not answered, and who asks goes on.
                    (KeeperRequest::Kept, done) => _ = questions.try_send(done),
                    (KeeperRequest::Release { container, proxy }, done) => {
                        containers.release(container, proxy, done);
                    }
                },
                () = tick(&mut alive) => notify::send("WATCHDOG=1"),
            }
        }
    })
}

/// Keeps events, in a thread of its own: no proxy waits for a slow disk. The keeper's own work goes on
/// if this fails. Returns who answers when all is kept that proxies have told.
fn record_events(store: &Store) -> mpsc::Sender<events::Question> {
    let store = store.clone();
    let (sender, mut questions) = mpsc::channel(QUESTIONS);
    let record = move || loop {
        let tell = |text: &str| log("events", text);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let ended = runtime.map_err(Into::into).and_then(|runtime| {
            runtime.block_on(events::record(store.clone(), log_dir(), tell, &mut questions))
        });
        if let Err(error) = ended {
            log("events", &error.to_string());
        }
        std::thread::sleep(RECORD_RETRY);
    };
    if let Err(error) = std::thread::Builder::new().name("events".into()).spawn(record) {
        log("events", &error.to_string());
    }
    sender
}

async fn tick(interval: &mut Option<tokio::time::Interval>) {
    match interval {
        Some(interval) => _ = interval.tick().await,
        None => std::future::pending().await,
    }
}

/// Holds off other keepers until the file is dropped.
fn lock() -> anyhow::Result<File> {
    let path = keeper_socket::path().with_extension("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            anyhow::bail!("another keeper has locked {}; one is enough for a host", path.display())
        }
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

/// Some 10 descriptors are held for a container, and hundreds for one with many groups.
fn raise_descriptor_limit() {
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // If it fails, fewer containers are held, and `mcrun ps` shows which.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}

/// Writes a line to standard error, where a service manager reads it.
fn log(container: &str, text: &str) {
    eprintln!("mcrun: keep: {container}: {text}");
}

/// Runs what blocks in another thread.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}
