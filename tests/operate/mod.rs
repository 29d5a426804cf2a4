//! What an operator sees and is told.

mod advice;
mod probing;
mod queriers;
