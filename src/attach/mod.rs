//! What a container asks for: the attachment syntax and what the administrator allows of it.

mod admin;
mod group_policy;
mod parse;
mod types;

pub use admin::{AdminConfig, AdminError, Ruling, RuntimeConfig};
pub use group_policy::{AddressRange, Blocked, GroupPolicy, GroupRule, Reception, RuleError};
pub(crate) use parse::nearest;
pub use parse::{MAX_ATTACHMENTS, SpecError, check_together, parse_list, parse_spec};
pub use types::{
    Attachment, Driver, IfName, IgmpMode, IpAssignment, IpvlanFlag, IpvlanMode, MacAddr,
    MacvlanMode, RateLimits, Route,
};
