//! What an operator sees and is told.

mod advice;
mod parents;
mod probing;
mod queriers;
