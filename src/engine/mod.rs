//! OCI runtimes driven directly.
