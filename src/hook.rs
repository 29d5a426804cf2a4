//! The OCI hooks.
