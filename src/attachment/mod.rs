//! What a container asks for: the attachment syntax and what the administrator allows of it.

mod admin;
mod error;
mod host_link;
mod keys;
mod network;
mod option_pairs;
mod syntax;
mod types;
mod uid_range;
mod values;

pub use admin::{
    AdminConfig, AdminError, EffectiveLimits, Problem, RuntimeConfig, Setting, settings,
};
pub use error::SpecError;
pub(crate) use error::nearest;
pub use host_link::{HostLink, HostLinkKind};
pub(crate) use keys::unique_names;
pub use keys::{Drivers, KEYS, Key, option_help};
pub use network::{
    AddressRange, Addressing, Network, NetworkError, NetworkName, NetworkNameError, Networks,
    file_text,
};
pub(crate) use option_pairs::option_pairs;
pub use syntax::{check_together, parse_all, parse_each, parse_list, parse_spec};
pub use types::{
    Attachment, ConflictDetection, Driver, IgmpMode, IpAssignment, LinkLayer, MAX_ATTACHMENTS,
    NetworkUse, Route, Vlan,
};
pub use uid_range::UidRange;
