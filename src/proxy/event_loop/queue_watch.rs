//! Frames that the kernel loses between the parent and the container, because a queue is full.
//!
//! The queue of macvlan for broadcast and multicast (`macvlan_broadcast_enqueue` in
//! drivers/net/macvlan.c), that of ipvlan (`ipvlan_multicast_enqueue`) and the processor's backlog
//! (`enqueue_to_backlog` in net/core/dev.c) count what they lose in `rx_dropped`, of the parent or of
//! the container's link. The kernel counts there too what no protocol takes, such as LLDP and spanning
//! tree (`__netif_receive_skb_core`); `rx_nohandler` has those of a bond's idle port alone. Such frames
//! are few, and no stream has lost a packet by them. Time is an argument, and nothing here makes a
//! system call.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::notice::Notice;
use crate::proxy::event_loop::stream_watch::LOOK;

/// Frames a second above which a queue overflows, whatever streams tell. A trunk of a hundred VLANs
/// with spanning trees has 50 frames a second that no protocol takes.
const MANY_PER_S: u64 = 100;
/// Frames between two looks above which a queue overflows, if streams have lost packets meanwhile.
const MANY_WITH_LOSS: u64 = 10;
/// Looks in a row without a loss after which an alarm ends.
const QUIET: u32 = 2;

/// What a look has found of one interface of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Queues<'a> {
    /// Interface in the container.
    pub(super) interface: &'a str,
    /// Its parent on the host.
    pub(super) parent: &'a str,
    /// Frames that the parent and the interface have dropped, ever.
    pub(super) dropped: u64,
    /// RTP packets that streams of the interface have lost, ever.
    pub(super) rtp_lost: u64,
    /// Time since the last packet of a stream that the container wants; `None`: none has arrived.
    pub(super) silent: Option<Duration>,
}

/// What was found of the interfaces.
#[derive(Debug, Default)]
pub(super) struct QueueWatch {
    watched: BTreeMap<String, Watched>,
}

#[derive(Debug)]
struct Watched {
    parent: String,
    looked: Instant,
    dropped: u64,
    rtp_lost: u64,
    /// Frames a second that were lost at the last look with a loss, while the alarm stands.
    lost_per_s: Option<u64>,
    /// Looks in a row without a loss.
    quiet: u32,
}

impl QueueWatch {
    /// Takes a look at all interfaces that are counted. One that is not there is forgotten.
    pub(super) fn look<'a>(&mut self, now: Instant, seen: impl Iterator<Item = Queues<'a>>) {
        let mut before = std::mem::take(&mut self.watched);
        for queues in seen {
            let watched = match before.remove(queues.interface) {
                Some(watched) => watched.after(now, &queues),
                None => Watched::new(now, &queues),
            };
            self.watched.insert(queues.interface.to_owned(), watched);
        }
    }

    /// When the next look is due, while an alarm stands.
    pub(super) fn next_look(&self) -> Option<Instant> {
        let losing = self.watched.values().filter(|watched| watched.lost_per_s.is_some());
        losing.map(|watched| watched.looked + LOOK).min()
    }

    /// What is wrong.
    pub(super) fn notices(&self) -> impl Iterator<Item = Notice> {
        self.watched.iter().filter_map(|(interface, watched)| {
            Some(Notice::QueueLoss {
                interface: interface.clone(),
                parent: watched.parent.clone(),
                lost_per_s: watched.lost_per_s?,
            })
        })
    }
}

impl Watched {
    fn new(now: Instant, queues: &Queues<'_>) -> Self {
        let Queues { parent, dropped, rtp_lost, .. } = *queues;
        let parent = parent.to_owned();
        Watched { parent, looked: now, dropped, rtp_lost, lost_per_s: None, quiet: 0 }
    }

    /// The state after another look. The counters of a parent that was made anew begin at 0.
    fn after(self, now: Instant, queues: &Queues<'_>) -> Self {
        let time = now.saturating_duration_since(self.looked);
        let dropped = queues.dropped.saturating_sub(self.dropped);
        let per_s = dropped / time.as_secs().max(1);
        let rtp_lost = queues.rtp_lost.saturating_sub(self.rtp_lost);
        let has_arrived = queues.silent.is_some_and(|silent| silent <= time.max(LOOK));
        let by_streams = rtp_lost > 0 && dropped >= rtp_lost.max(MANY_WITH_LOSS);
        let loses = has_arrived && (per_s >= MANY_PER_S || by_streams);
        let quiet = if loses { 0 } else { self.quiet.saturating_add(1) };
        let before = self.lost_per_s.filter(|_| quiet < QUIET);
        let lost_per_s = if loses { Some(per_s.max(1)) } else { before };
        Watched { lost_per_s, quiet, ..Watched::new(now, queues) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A watch that is looked at every [`LOOK`].
    struct Looks {
        watch: QueueWatch,
        now: Instant,
        dropped: u64,
        rtp_lost: u64,
    }

    impl Looks {
        fn new() -> Self {
            let mut looks = Looks {
                watch: QueueWatch::default(),
                now: Instant::now(),
                dropped: 7,
                rtp_lost: 9,
            };
            assert_eq!(looks.look(0, 0, None), None, "nothing is known of the time before");
            looks
        }

        /// The frames a second of the alarm, if it stands after so much more was dropped and lost.
        fn look(&mut self, dropped: u64, rtp_lost: u64, silent: Option<u64>) -> Option<u64> {
            self.now += LOOK;
            self.dropped += dropped;
            self.rtp_lost += rtp_lost;
            let (dropped, rtp_lost) = (self.dropped, self.rtp_lost);
            let silent = silent.map(Duration::from_secs);
            let (interface, parent) = ("mc0", "eth1");
            let seen = Queues { interface, parent, dropped, rtp_lost, silent };
            self.watch.look(self.now, [seen].into_iter());
            let mut notices = self.watch.notices();
            let Some(Notice::QueueLoss { lost_per_s, .. }) = notices.next() else { return None };
            Some(lost_per_s)
        }
    }

    #[test]
    fn many_lost_frames_are_an_alarm_until_two_looks_are_quiet() {
        let mut looks = Looks::new();
        assert_eq!(looks.look(499, 0, Some(1)), None);
        assert_eq!(looks.look(500, 0, Some(1)), Some(100));
        assert_eq!(looks.watch.next_look(), Some(looks.now + LOOK));
        assert_eq!(looks.look(2, 0, Some(1)), Some(100));
        assert_eq!(looks.look(5000, 0, Some(1)), Some(1000));
        assert_eq!(looks.look(0, 0, None), Some(1000));
        assert_eq!(looks.look(0, 0, None), None);
        assert_eq!(looks.watch.next_look(), None);
    }

    #[test]
    fn a_few_are_one_where_streams_have_lost_packets() {
        let mut looks = Looks::new();
        assert_eq!(looks.look(9, 3, Some(1)), None, "as many as LLDP and others make");
        assert_eq!(looks.look(20, 30, Some(1)), None, "most was lost elsewhere");
        assert_eq!(looks.look(20, 0, Some(1)), None, "no stream has lost any");
        assert_eq!(looks.look(20, 20, Some(1)), Some(4));
    }

    #[test]
    fn what_a_container_gets_nothing_of_does_not_concern_it() {
        let mut looks = Looks::new();
        assert_eq!(looks.look(9000, 0, None), None);
        assert_eq!(looks.look(9000, 0, Some(6)), None);
    }

    #[test]
    fn counters_that_begin_anew_and_an_interface_that_goes() {
        let mut looks = Looks::new();
        assert!(looks.look(9000, 0, Some(0)).is_some());
        looks.dropped = 3;
        assert_eq!(looks.look(0, 0, Some(0)), Some(1800), "the first quiet look");
        looks.watch.look(looks.now, std::iter::empty());
        assert_eq!(looks.watch.notices().count(), 0);
    }
}
