//! What of an attachment can begin before its container exists: the LAN is asked for the addresses, and
//! the proxy is started. Nothing of it is on the host to stay: dropping it ends both.

use crate::attachment::{AdminConfig, AdminError, Attachment};
use crate::net::netns::NetNs;
use crate::service::AttachError;
use crate::service::conflicts::EarlyQuestion;
use crate::service::making::check_privileges;
use crate::service::proxies::Launch;
use crate::state::{PlannedInterface, Store, config_dir};

/// An attachment that has begun.
pub struct Preparation {
    pub(super) admin: AdminConfig,
    pub(super) interfaces: Vec<PlannedInterface>,
    pub(super) launch: Option<Launch>,
    pub(super) question: Option<EarlyQuestion>,
}

impl Preparation {
    /// What is within the administrator's limits. Nobody is asked yet, and the proxy is started only where
    /// nobody is to be asked.
    pub(super) fn of(attachments: &[Attachment]) -> Result<Self, AttachError> {
        let admin = AdminConfig::read(&config_dir())?;
        let interfaces = within_limits(attachments, 0, &admin)?;
        let launch = Launch::of(&interfaces)?;
        Ok(Preparation { admin, interfaces, launch, question: None })
    }
}

/// Begins an attachment of a container that is about to be created.
///
/// # Errors
/// [`AttachError`]: what the administrator does not allow, missing privileges, a proxy that does not start.
pub fn prepare(attachments: &[Attachment], store: &Store) -> Result<Preparation, AttachError> {
    check_privileges(&NetNs::current()?)?;
    let mut preparation = Preparation::of(attachments)?;
    preparation.question = EarlyQuestion::send(&preparation.interfaces, store)?;
    preparation.launch = preparation.launch.map(Launch::begun).transpose()?.map(Launch::Begun);
    Ok(preparation)
}

/// The interfaces that are added to a container with `present` of them, each with what is in force
/// of it within the administrator's limits.
pub(super) fn within_limits(
    attachments: &[Attachment],
    present: usize,
    admin: &AdminConfig,
) -> Result<Vec<PlannedInterface>, AdminError> {
    let limits = admin.check_all(attachments, present)?;
    let each = attachments.iter().zip(limits).enumerate();
    Ok(each
        .map(|(position, (attachment, limits))| PlannedInterface {
            name: attachment.interface_name(position).to_string(),
            limits,
            attachment: attachment.clone(),
        })
        .collect())
}
