//! mcrun makes a Linux container a first-class multicast host.
//!
//! Data flows one way, down this list:
//!
//! 1. [`oci`]: the state JSON a runtime hands to a hook, and the bundle's config.json.
//! 2. [`attach`]: the attachment syntax, checked against the administrator's policy.
//! 3. [`net`]: host facts (read), plan (pure), apply (the only code that changes links).
//! 4. [`state`]: the record of what was attached, keyed by container id.
//! 5. [`proxy`]: the per-container IGMP proxy process; its protocol is [`igmp`], which
//!    knows neither sockets nor a clock.
//!
//! [`hook`] ties 1 to 5 together for the runtimes; [`cli`] and [`engine`] are the `mcrun`
//! command, [`wrapper`] its way to docker, podman and nerdctl; [`lookup`] finds their running
//! containers. [`standin`] is what Docker, containerd and CRI-O call in place of runc, and [`setup`]
//! tells them so, both by [`json_edit`]. [`probe`] and [`demo`] measure and show what arrives.

pub mod attachment;
pub mod cli;
pub mod demo;
pub mod engine;
pub mod hook;
pub mod igmp;
pub mod json_edit;
pub mod link;
pub mod lookup;
pub mod multicast;
pub mod net;
pub mod notice;
pub mod oci;
pub mod primitives;
pub mod probe;
pub mod proxy;
pub mod runtime_wrapper;
pub mod service;
pub mod setup;
pub mod standalone;
pub mod state;
pub mod sys;
