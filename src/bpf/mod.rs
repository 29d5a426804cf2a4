//! BPF programs, as the compiler wrote them, in the kernel.
//!
//! `bpf/` has the sources and the objects, which are committed. `object` reads an object while mcrun
//! is compiled, so that a proxy that starts neither opens a file nor parses one. The kernel needs no
//! type information (BTF).
//!
//! What the crate aya does beyond this, a proxy does not need: seven more crates, and the parsing of an
//! object at each start.

pub mod count;
pub(crate) mod element_map;
mod object;
mod program;
pub mod relay;

pub use crate::bpf::program::{Map, MappedNumbers, Program};
