//! What happens to the containers of the host: events, followed as they happen and kept.
//!
//! Each proxy tells its subscribers of memberships, queriers and alarms. [`follow`] subscribes to all
//! of them, and adds what happens around them: attachments that come and go, proxies that die and are
//! replaced, and alarms that only all containers together show. `mcrun events` shows the events. A keeper [records](record) them in a [`History`].

mod container;
mod event;
mod follow;
mod history;
mod host_groups;
mod record;

pub use crate::events::event::{AttachmentChange, HostEvent, Occurrence};
pub use crate::events::follow::follow;
pub use crate::events::history::History;
pub use crate::events::record::record;
