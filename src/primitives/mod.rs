//! Small values and algorithms that know nothing of mcrun: no system call, no clock, no file.

mod interface_name;
pub mod internet_checksum;
mod link_modes;
mod mac_address;
mod port_ranges;
mod printable;
pub mod token_bucket;

pub use interface_name::InterfaceName;
pub use link_modes::{IpvlanFlag, IpvlanMode, MacvlanMode};
pub use mac_address::MacAddr;
pub use port_ranges::PortRanges;
pub use printable::printable;
