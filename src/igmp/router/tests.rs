//! The router on a virtual clock. `line_N_M_*` are about that line of the conformance
//! checklist: 1 timers and encodings, 2 validation, 3 downstream state, 4 upstream state,
//! 5 mistakes seen elsewhere.

mod invariants;
mod lab;
mod limits;
mod linux;
mod membership;
mod policy;
mod queries;
mod settling;
mod validation;
