//! Facts of the host.

use std::io;
use std::time::{Duration, SystemTime};

use crate::doctor::facts::{Fact, HostFacts, RefusedAttachment, StateFacts};
use crate::doctor::gather::{engines, kernel};
use crate::events::{History, HostEvent};
use crate::net::sysctl::Sysctls;
use crate::oci::ContainerId;
use crate::service::{keeper_socket, lacking_capabilities};
use crate::state::{AttachmentRecord, Store, log_dir};

/// How far back refusals matter.
const RECENT: Duration = Duration::from_secs(3600);
/// Refusals that are kept in memory.
const MAX_REFUSALS: usize = 1000;

/// The host, with what mcrun's state says.
pub(crate) fn host(state: Fact<StateFacts>) -> HostFacts {
    let release = nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    let settings = Sysctls::default();
    let is_root = kernel::is_root();
    let state_is_hidden = state.is_err() && !is_root;
    HostFacts {
        features: kernel::features(&release),
        release,
        lacking: lacking_capabilities(),
        is_root,
        max_memberships: settings.number("ipv4/igmp_max_memberships"),
        max_sources: settings.number("ipv4/igmp_max_msf"),
        engines: engines::engines(),
        keeper: keeper(state_is_hidden),
        state,
        refusals: refusals(),
        refused_attachments: match is_root {
            true => refused_attachments(),
            false => Err("run it as root".into()),
        },
    }
}

fn keeper(state_is_hidden: bool) -> Fact<bool> {
    match keeper_socket::connect() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied || state_is_hidden => {
            Err("run it as root".into())
        }
        Err(_) => Ok(false),
    }
}

fn refusals() -> Fact<Vec<String>> {
    let since = SystemTime::now() - RECENT;
    let mut refusals = Vec::new();
    let read = History::read(&log_dir(), |event: HostEvent| {
        if matches!(event.code(), "denied" | "limited" | "failed") && event.time() >= since {
            if refusals.len() == MAX_REFUSALS {
                refusals.remove(0);
            }
            let time = humantime::format_rfc3339_seconds(event.time());
            refusals.push(format!("{time} {} {} {}", event.name, event.code(), event.what));
        }
        Ok(())
    });
    read.map(|()| refusals).map_err(|error| error.to_string())
}

fn refused_attachments() -> Fact<Vec<RefusedAttachment>> {
    let refusals = Store::from_env().refusals().map_err(|error| error.to_string())?;
    let recent = refusals.into_iter().filter(|refusal| refusal.age() < RECENT);
    let facts = recent.map(|refusal| RefusedAttachment {
        age_s: refusal.age().as_secs(),
        container: refusal.container,
        reason: refusal.reason,
    });
    Ok(facts.collect())
}

/// Whether a record is of a container that has ended, or of a program that was killed before it was
/// done: nobody holds the lock of its directory. One that is being changed now is not.
pub(crate) fn is_stale(store: &Store, id: &ContainerId, record: Option<&AttachmentRecord>) -> bool {
    let is_left = match record {
        Some(AttachmentRecord::Attached(attached)) => !attached.container.is_alive(),
        Some(AttachmentRecord::Planned(_)) | None => true,
    };
    is_left && matches!(store.try_lock(id), Ok(Some(_)))
}
