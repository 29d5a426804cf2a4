//! What a container asks for: the attachment syntax and what the administrator allows of it.

mod admin;
mod syntax;
mod types;

pub use admin::{AdminConfig, AdminError, Ruling, RuntimeConfig};
pub(crate) use syntax::nearest;
pub use syntax::{MAX_ATTACHMENTS, SpecError, check_together, parse_list, parse_spec};
pub use types::{Attachment, Driver, IgmpMode, IpAssignment, Route};
