//! What happens to the containers of the host: events, followed as they happen and kept.
//!
//! Each proxy tells its subscribers of memberships, queriers and alarms. [`follow`] subscribes to all
//! of them, and adds what happens around them: attachments that come and go, proxies that die and are
//! replaced, what hooks refuse, and alarms that only all containers together show. `mcrun events` shows
//! the events. A keeper [records](record) them in a [`History`].

mod container;
mod event;
mod follow;
mod history;
mod host_groups;
mod kept;
mod record;

pub use crate::events::event::{AttachmentChange, HostEvent, Occurrence};
pub use crate::events::follow::{Question, follow, nobody_asks};
pub use crate::events::history::History;
pub use crate::events::kept::read_kept;
pub use crate::events::record::record;
