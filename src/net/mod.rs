//! Network plumbing.
