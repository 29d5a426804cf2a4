//! The count of what arrives, handed from a proxy to the one that replaces it: the sockets, the
//! program and the table stay the same, so that it goes on without a gap.

use std::io;
use std::io::{Read, Write};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::proxy::container::stream_counter::{InheritedCounter, StreamCounter};
use crate::proxy::control::protocol::{ControlRequest, CountPayload, parse_answer};
use crate::proxy::process::container_dir::ContainerDir;
use crate::stream_count::LAYOUT;
use crate::sys::fd_passing::{MAX_FDS, receive_with_fds};

/// Bytes of an answer that are read. Seven links have names of 15 bytes.
const MAX_ANSWER: u64 = 4096;
/// The other proxy answers from memory. One that hangs is not waited for longer.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);

/// What counts for a proxy, for its successor or its keeper.
pub(super) fn hand_over(counter: &StreamCounter) -> (CountPayload, Vec<BorrowedFd<'_>>) {
    let (links, descriptors) = counter.hand_over();
    let links = links.into_iter().map(str::to_owned).collect();
    (CountPayload { descriptors: descriptors.len(), layout: LAYOUT, links }, descriptors)
}

/// What counts for the proxy that is replaced; `None` if that is nothing, or of another layout, or if
/// the proxy does not give it.
pub(crate) fn predecessors_counter(container_dir: &ContainerDir) -> Option<InheritedCounter> {
    let ask = || -> io::Result<_> {
        let mut stream = container_dir.connect()?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        stream.write_all(ControlRequest::Count.to_line().as_bytes())?;
        let mut first = [0];
        let (length, descriptors) = receive_with_fds(&stream, &mut first, MAX_FDS)?;
        let mut answer = first[..length].to_vec();
        stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
        let payload: CountPayload = parse_answer(&answer).map_err(io::Error::other)?;
        Ok((payload, descriptors))
    };
    let (payload, descriptors) = ask().ok()?;
    let is_whole = payload.layout == LAYOUT && descriptors.len() == payload.descriptors;
    is_whole.then(|| InheritedCounter::new(payload.links, descriptors)).flatten()
}
