//! The setup of the interception, and what happens where the kernel lacks what it needs.

use std::io;
use std::time::Instant;

use crate::attachment::IgmpMode;
use crate::net::nfnetlink::NfSocket;
use crate::notice::Notice;
use crate::proxy::config::{InterfaceTask, ProxyTask};
use crate::proxy::container::interception::NflogSocket;
use crate::proxy::container::rules;
use crate::proxy::container::rules::{Egress, Hooks, Intercept, RuledInterface};
use crate::proxy::container::xdp_guard::XdpGuards;
use crate::proxy::event_loop::Interception;
use crate::proxy::setup::error::{Context, StartError};

/// Name of the nf_tables tables.
const TABLE: &str = "mcrun";

/// Opens the sockets of the interception. Without an NFLOG socket, the container's kernel speaks IGMP
/// itself; a notice says so where the kernel lacks what the interception needs. `None`: there are
/// no rules to install, or the kernel does not take any.
pub(super) fn open_interception(
    task: &ProxyTask,
    notices: &mut Vec<Notice>,
) -> Result<Option<Interception>, StartError> {
    let intercepts = task.interfaces.iter().any(|i| i.igmp == IgmpMode::Proxy);
    if !intercepts && task.interfaces.iter().all(|i| i.egress.is_none()) {
        return Ok(None);
    }
    let mut refused = |error: io::Error| -> Result<(), StartError> {
        notices.push(match intercepts {
            true => native_igmp_notice(error, is_relaying(&task.interfaces))?,
            false => Notice::FramesNotIntercepted { error: error.to_string() },
        });
        Ok(())
    };
    let rules = match NfSocket::open() {
        Ok(rules) => rules,
        Err(error) => return refused(error).map(|()| None),
    };
    let nflog = match intercepts.then(NflogSocket::open).transpose() {
        Ok(nflog) => nflog,
        Err(error) => {
            refused(error)?;
            None
        }
    };
    let made = task.interfaces.iter().filter(|interface| is_made(interface)).count();
    let guards = XdpGuards::open(made)
        .context(|| "cannot open a socket that keeps AF_XDP sockets away".into())?;
    Ok(Some(Interception { nflog, rules, guards }))
}

/// Installs the rules; with a notice, fewer where the kernel does not accept all of them. Where IGMP
/// is not intercepted, `nflog` is `None` afterwards.
pub(super) fn install_rules(
    interception: &mut Interception,
    interfaces: &[&InterfaceTask],
    mark: u32,
    now: Instant,
    notices: &mut Vec<Notice>,
) -> Result<(), StartError> {
    let Interception { rules: socket, nflog, guards } = interception;
    let ruled = ruled_interfaces(interfaces, nflog.is_some())?;
    let intercept = nflog.as_ref().map(|nflog| Intercept { mark, group: nflog.group() });
    let frames = match install(socket, &ruled, intercept, Hooks::All) {
        Ok(()) => {
            let ruled = |task: &&&InterfaceTask| ruled.iter().any(|r| r.index == task.index);
            for task in interfaces.iter().filter(ruled).filter(|task| is_made(task)) {
                guards.occupy(&task.name, task.index, now);
            }
            return Ok(());
        }
        Err(error) => error,
    };
    if intercept.is_some() {
        match install(socket, &ruled, intercept, Hooks::WithoutFrames) {
            Ok(()) => {}
            Err(error) => {
                notices.push(native_igmp_notice(error, is_relaying(interfaces.iter().copied()))?);
                *nflog = None;
                return Ok(());
            }
        }
    }
    notices.push(Notice::FramesNotIntercepted { error: frames.to_string() });
    Ok(())
}

/// The interfaces that have rules.
fn ruled_interfaces<'t>(
    interfaces: &[&'t InterfaceTask],
    intercepts: bool,
) -> Result<Vec<RuledInterface<'t>>, StartError> {
    let mut ruled = Vec::new();
    for task in interfaces {
        let intercepted = intercepts && task.igmp == IgmpMode::Proxy;
        if !intercepted && task.egress.is_none() {
            continue;
        }
        let egress = match (&task.egress, task.mac) {
            (Some(egress), Some(mac)) => Some(Egress::new(mac, egress)),
            (Some(_), None) => {
                let what = format!("{} has no known MAC address", task.name);
                return Err(StartError::new(what, "its own is the only one that it may send from"));
            }
            (None, _) => None,
        };
        ruled.push(RuledInterface {
            name: &task.name,
            index: task.index,
            intercepted,
            mld: task.mld,
            hears_queries: task.is_on_upstream(),
            data_filter: task.policy.data_filter(),
            data_filter_v6: task.policy.data_filter(),
            relayed: task.relay.as_ref().map(|_| task.policy.relayed_link_scope_groups()),
            relayed_v6: task.policy.relayed_link_scope_groups(),
            relayed_by_kernel: task.relay.as_ref().is_some_and(|relay| relay.in_kernel),
            egress,
        });
    }
    Ok(ruled)
}

/// Installs the rules in tables of a free name.
fn install(
    socket: &NfSocket,
    interfaces: &[RuledInterface<'_>],
    intercept: Option<Intercept>,
    hooks: Hooks,
) -> io::Result<()> {
    // The second name is for a container that has a table of the first name, such as that of the
    // proxy that is being replaced. If that table has an owner, the error is EPERM.
    match rules::install(socket, TABLE, interfaces, intercept, hooks) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::EEXIST | libc::EPERM)) => {
            let name = format!("{TABLE}-{}", std::process::id());
            rules::install(socket, &name, interfaces, intercept, hooks)
        }
        result => result,
    }
}

/// Whether mcrun has made an interface. Others may have several queues, and users of their own.
fn is_made(interface: &InterfaceTask) -> bool {
    interface.relay.as_ref().is_none_or(|relay| !relay.translate)
}

fn is_relaying<'i>(interfaces: impl IntoIterator<Item = &'i InterfaceTask>) -> bool {
    interfaces.into_iter().any(|interface| interface.relay.is_some())
}

/// The notice that IGMP is not intercepted.
///
/// # Errors
/// When the container cannot be served without interception, or when a later attempt may succeed.
fn native_igmp_notice(error: io::Error, is_relaying: bool) -> Result<Notice, StartError> {
    // A lack of memory or descriptors passes, but a container that starts without interception
    // stays without.
    if matches!(error.raw_os_error(), Some(libc::ENOMEM | libc::EMFILE | libc::ENFILE)) {
        return Err(error).context(|| "cannot install the interception rules".into());
    }
    // Native IGMP of a relayed interface would go to a network that carries no multicast.
    if is_relaying {
        return Err(error).context(|| {
            "this kernel does not accept the nf_tables rules that a relay needs; they need \
             nf_tables with owned tables (Linux 5.12) and nfnetlink_log"
                .into()
        });
    }
    Ok(Notice::IgmpNotIntercepted { error: error.to_string() })
}
