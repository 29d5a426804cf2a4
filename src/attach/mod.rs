//! What a container asks for: the attachment syntax and what the administrator allows of it.

mod group_policy;
mod parse;
mod types;

pub use group_policy::{GroupPolicy, GroupRule, Verdict};
pub use parse::{SpecError, parse_list, parse_spec};
pub use types::{Attachment, Driver, IfName, IgmpMode, IpAssignment, MacAddr, MacvlanMode, Route};
