//! What an operator sees and is told.

mod advice;
mod alarms;
pub(crate) mod doctor;
mod doctor_streams;
mod events;
mod host;
mod parents;
mod probing;
mod queriers;
