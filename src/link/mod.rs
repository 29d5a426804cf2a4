//! The interfaces of an attachment: host facts (read), plan (pure) and apply. Only [`apply`], with
//! `removal`, changes a link.

pub mod apply;
pub mod children;
mod error;
pub mod existing;
pub mod facts;
pub mod host_link;
pub mod mark;
pub mod plan;
mod removal;
pub mod taken;
pub mod written_settings;

pub use crate::link::error::PlanError;
