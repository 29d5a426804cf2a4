//! Network plumbing.

pub mod sockopt;
