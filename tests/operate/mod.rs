//! What an operator sees and is told.

mod advice;
mod events;
mod parents;
mod probing;
mod queriers;
