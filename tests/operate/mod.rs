//! What an operator sees and is told.

mod advice;
mod doctor;
mod events;
mod parents;
mod probing;
mod queriers;
