//! Groups, source filters and the rules about them: what IGMP, the attachment syntax and the relay have in
//! common. Nothing here does a system call or looks at a clock.

pub mod policy;
mod rate_limits;
mod scope;
mod source_filter;

pub use policy::{AddressRange, Blocked, GroupPolicy, GroupRule, Reception, RuleError};
pub use rate_limits::RateLimits;
pub use scope::{is_link_local, is_ssm};
pub use source_filter::{FilterMode, SourceFilter};
