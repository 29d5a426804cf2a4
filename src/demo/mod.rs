//! The live demonstration.
