//! The host fence: keeps from the host's sockets what only containers have joined.
//!
//! /proc/net/igmp tells how many sockets have joined a group. The keeper has a descriptor of each
//! socket with which a proxy joins, and the kernel tells whether a socket has joined a group. If
//! there are no more users than such sockets, no program of the host has joined, and the group is
//! fenced. What a proxy says of itself fences nothing.
//!
//! The kernel tells nobody that one more socket has joined, so the file is read from time to time
//! (`pace`).

mod board;
mod groups;
mod pace;

use std::time::Instant;

use crate::keeper::fence::groups::Groups;
use crate::keeper::fence::pace::{INTERVAL, Pace};
use crate::keeper::log;
use crate::proxy::{HostFence, MembershipFiles};
use crate::sys::bound_sockets::BoundSockets;

pub(in crate::keeper) use crate::keeper::fence::board::{Board, BoardEntry};

/// Keeps the fence for as long as the keeper runs. Where it cannot be, the host's sockets hear what
/// containers have joined, as without a keeper.
pub(super) async fn run(board: Board) {
    let opened = MembershipFiles::open()
        .and_then(|files| Ok((files, BoundSockets::open()?, HostFence::open()?)));
    let (files, sockets, mut fence) = match opened {
        Ok(opened) => opened,
        Err(error) => return log("fence", &error.to_string()),
    };
    let mut groups = Groups::default();
    let mut failure = None;
    loop {
        let known = board.unrelayed();
        let before = groups.fenced.clone();
        // Before the look: whoever binds a socket while it lasts is noticed afterwards.
        let bound = sockets.counts().unwrap_or_default();
        let start = Instant::now();
        // What cannot be read is nobody's.
        let users = if known.is_empty() { None } else { files.users().ok() };
        let disputed = groups.update(Instant::now(), &users.unwrap_or_default(), &known);
        board.dispute(disputed, &known);
        if groups.fenced != before || failure.is_some() {
            let result = fence.set(&groups.fenced).map_err(|error| error.to_string());
            if let Err(error) = &result
                && failure.as_ref() != Some(error)
            {
                log("fence", &format!("the host's sockets hear what containers join: {error}"));
            }
            failure = result.err();
        }
        let pace = Pace::new(Instant::now(), start.elapsed(), bound);
        let has_failed = failure.is_some();
        if known.is_empty() && !has_failed {
            board.changed().await;
            continue;
        }
        if groups.is_doubtful() {
            tokio::time::sleep_until(pace.next_if_doubtful().into()).await;
            continue;
        }
        tokio::select! {
            () = board.changed() => {}
            () = tokio::time::sleep(INTERVAL), if has_failed => {}
            () = glance(&sockets, &pace) => {}
        }
        tokio::time::sleep_until(pace.next_if_changed().into()).await;
    }
}

/// Glances at the host's sockets until there is a reason to look.
async fn glance(sockets: &BoundSockets, pace: &Pace) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        if pace.is_due(Instant::now(), &sockets.counts().unwrap_or_default()) {
            return;
        }
    }
}
