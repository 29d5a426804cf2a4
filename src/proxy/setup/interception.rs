//! The setup of the interception, and what happens where the kernel lacks what it needs.

use std::io;

use crate::attachment::IgmpMode;
use crate::net::nfnetlink::NfSocket;
use crate::notice::Notice;
use crate::proxy::config::{InterfaceTask, ProxyTask};
use crate::proxy::container::interception::NflogSocket;
use crate::proxy::container::rules;
use crate::proxy::container::rules::InterceptedInterface;
use crate::proxy::event_loop::Interception;
use crate::proxy::setup::error::{Context, StartError};

/// Name of the nf_tables tables.
const TABLE: &str = "mcrun";

/// Opens the sockets of the interception; `None`, with a notice, where the kernel lacks what the
/// rules need.
pub(super) fn open_interception(
    task: &ProxyTask,
    notices: &mut Vec<Notice>,
) -> Result<Option<Interception>, StartError> {
    let open = || Ok(Interception { nflog: NflogSocket::open()?, rules: NfSocket::open()? });
    match open() {
        Ok(interception) => Ok(Some(interception)),
        Err(error) => {
            notices.push(native_igmp_notice(error, is_relaying(&task.interfaces))?);
            Ok(None)
        }
    }
}

/// Installs the rules; `false`, with a notice, where the kernel does not accept them.
pub(super) fn install_rules(
    interception: &Interception,
    interfaces: &[&InterfaceTask],
    mark: u32,
    notices: &mut Vec<Notice>,
) -> Result<bool, StartError> {
    let Interception { rules: socket, nflog } = interception;
    let intercepted: Vec<InterceptedInterface<'_>> = interfaces
        .iter()
        .filter(|interface| interface.igmp == IgmpMode::Proxy)
        .map(|interface| InterceptedInterface {
            name: &interface.name,
            index: interface.index,
            data_filter: interface.policy.data_filter(),
            relayed: interface.relay.as_ref().map(|_| interface.policy.relayed_link_scope_groups()),
        })
        .collect();
    // The second name is for a container that has a table of the first name, such as that of the
    // proxy that is being replaced. If that table has an owner, the error is EPERM.
    let names = [TABLE.to_owned(), format!("{TABLE}-{}", std::process::id())];
    let install = || -> io::Result<&str> {
        let mut last = io::Error::from_raw_os_error(libc::EEXIST);
        for name in &names {
            let group = nflog.group();
            match rules::install_interception(socket, name, &intercepted, mark, group) {
                Ok(()) => return Ok(name),
                Err(e) if matches!(e.raw_os_error(), Some(libc::EEXIST | libc::EPERM)) => last = e,
                Err(e) => return Err(e),
            }
        }
        Err(last)
    };
    let table = match install() {
        Ok(table) => table,
        Err(error) => {
            notices.push(native_igmp_notice(error, is_relaying(interfaces.iter().copied()))?);
            return Ok(false);
        }
    };
    if let Err(e) = rules::install_egress_rules(socket, table, &intercepted) {
        notices.push(Notice::FramesNotIntercepted { error: e.to_string() });
    }
    Ok(true)
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
