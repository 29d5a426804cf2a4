//! The proxy process by itself: a process in a namespace of its own stands for the container.

mod control;
mod fake_container;
mod interception;
mod lifetime;
mod membership;
mod process;
mod unreported;
