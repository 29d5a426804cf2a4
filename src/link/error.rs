//! Why an attachment cannot be planned.

/// Why an attachment cannot be made on this host: one line that names the key and the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PlanError(String);

pub(super) fn refuse<T>(message: String) -> Result<T, PlanError> {
    Err(PlanError(message))
}
