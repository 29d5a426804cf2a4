//! What is wrong on this host, with a parent or with a stream, and what to do about it.
//!
//! [`gather`] finds facts out by system calls and changes nothing. The checks are pure: facts in,
//! findings out. Each fact is there, or the reason why it cannot be known; then the finding is
//! `unknown`.

mod facts;
mod finding;
pub(crate) mod gather;
mod host;
mod parent;
mod stream;
mod test_stream;

pub(crate) use crate::doctor::facts::{
    ContainerFacts, Fact, Membership, OwnAddress, Queriers, StateFacts,
};
#[cfg(test)]
pub(crate) use crate::doctor::finding::Subject;
pub(crate) use crate::doctor::finding::{Finding, Level};
pub(crate) use crate::doctor::host::check as check_host;
pub(crate) use crate::doctor::parent::check as check_parent;
pub(crate) use crate::doctor::stream::check as check_stream;
pub(crate) use crate::doctor::test_stream::check as check_test_stream;
