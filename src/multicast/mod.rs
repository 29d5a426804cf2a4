//! Groups, source filters and the rules about them, for IPv4 and IPv6: what the protocols, the
//! attachment syntax and the relay have in common. Nothing here does a system call or looks at a
//! clock.

mod address;
pub mod policy;
mod rate_limits;
mod scope;
mod source_filter;

pub use address::Address;
pub use policy::{
    AddressRange, DataFilter, DroppedSources, GroupPolicy, GroupRule, PROFILES, Profile, RuleError,
    rules,
};
pub use rate_limits::RateLimits;
pub use scope::scope_name;
pub use source_filter::{FilterMode, SourceFilter};
