//! mcrun makes a Linux container a first-class multicast host.
//!
//! An attachment goes through these modules:
//!
//! 1. [`hook`], [`docker_network`] and [`cli`] are adapters: they say which container is to be attached, and to what.
//! 2. [`attachment`] is the syntax of what is asked for, within the administrator's limits.
//! 3. [`service`] attaches, detaches and reloads.
//! 4. [`link`] reads host facts, makes a plan, and carries it out.
//! 5. [`proxy`] is the proxy process of the container. Its protocols are [`igmp`] and
//!    [`mld`], which know neither sockets nor a clock.
//! 6. [`state`] keeps the record of what was attached.
//!
//! [`standalone`] runs containers without an engine. [`engine`] is the way to docker, podman and
//! nerdctl, [`runtime_wrapper`] the OCI runtime that they call, and [`setup`] their configuration.
//! [`lookup`] finds running containers, `doctor` finds out what is wrong, `inventory` what was
//! changed. [`probe`] and [`demo`] measure and show what arrives.
//!
//! ARCHITECTURE.md has the whole map, with who may use whom.

pub mod attachment;
pub mod bpf;
pub mod cli;
pub mod cni;
pub mod demo;
pub mod dhcp;
pub mod docker_network;
pub(crate) mod doctor;
pub mod engine;
pub mod events;
pub mod hook;
pub mod igmp;
pub(crate) mod inventory;
pub mod json_edit;
pub mod keeper;
pub mod link;
pub mod lookup;
pub mod mld;
pub mod multicast;
pub mod net;
pub mod netavark;
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
pub mod stream_count;
pub mod survey;
pub mod sys;
