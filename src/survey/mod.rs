//! What the host is, as far as people ask: its interfaces that can be parents, and what is odd of an
//! attachment there.

mod advice;
mod foreign_source;
mod links;
mod parents;

use crate::attachment::Attachment;

pub use advice::advice;
pub use foreign_source::foreign_source;
pub use links::HostLinks;
pub use parents::Limit;

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
