//! What the host is, as far as people ask: its interfaces that can be parents, what is odd of an
//! attachment there, and of what its containers have joined.

mod advice;
mod answers;
mod foreign_source;
mod links;
mod parents;
mod shared_mac;
mod slaac;

use crate::attachment::Attachment;

pub use advice::advice;
use advice::unanswered;
pub use answers::answers_elsewhere;
pub use foreign_source::foreign_source;
pub use links::HostLinks;
pub use parents::Limit;
pub use shared_mac::{JoinedGroup, shared_macs};
pub use slaac::Ipv6Tables;

/// Tells on standard error what is odd of attachments that are about to be made, a line each.
pub fn warn(attachments: &[Attachment]) {
    if attachments.is_empty() {
        return;
    }
    // What cannot be read is not odd.
    let Ok(links) = HostLinks::read() else { return };
    for (position, attachment) in attachments.iter().enumerate() {
        let name = attachment.interface_name(position);
        for notice in advice(name.as_str(), attachment, &links) {
            eprintln!("mcrun: {notice}");
        }
    }
}

/// Tells on standard error whom the published UDP ports of a container with these attachments may not
/// answer, a line for each interface.
pub fn warn_of_ports(attachments: &[Attachment]) {
    for (position, attachment) in attachments.iter().enumerate() {
        let name = attachment.interface_name(position);
        if let Some(line) = unanswered(name.as_str(), attachment) {
            eprintln!("mcrun: {line}");
        }
    }
}
