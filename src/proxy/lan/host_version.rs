//! The version of IGMP or MLD that the host's kernel speaks on an interface.
//!
//! The version belongs to the interface, not to a group (RFC 9776 §7.2.1, RFC 9777 §8.2.1). A query of an older
//! version sets it for the older-version-querier-present time, which the kernel computes from the
//! values that it has learned from queries. The same is computed here. That can end later than it does
//! in the kernel: by milliseconds, because the kernel hears a query first, or by minutes, where the
//! kernel has learned something before the proxy began. So while an older querier is thought to be
//! present, each join asks the kernel's file, which takes some microseconds. Of MLD the kernel shows
//! nothing.

use std::fs::File;
use std::io;
use std::io::{BufRead, BufReader, Read};
use std::marker::PhantomData;
use std::net::Ipv4Addr;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use crate::igmp::Timing;
use crate::igmp::message::{Query, Version};
use crate::net::sysctl::Sysctls;
use crate::proxy::lan::family::LanFamily;

/// Bytes of one read. The lines of the groups, which follow that of an interface, are not wanted, and the
/// kernel writes no more of them than fit.
const READ: usize = 512;
/// How long after a query the kernel's file is read. By then the kernel has processed the query.
const CHECK_DELAY: Duration = Duration::from_millis(20);

/// The version of one interface.
pub(crate) struct HostVersion<A = Ipv4Addr> {
    index: u32,
    /// The kernel's file of groups; `None`: it cannot be read, or does not show the version.
    file: Option<File>,
    /// `force_igmp_version` or `force_mld_version` of the interface.
    forced: Option<Version>,
    /// What queries of the newest version have told (`mr_qrv`, `mr_qi` and `mr_qri` in
    /// net/ipv4/igmp.c, `mc_qrv`, `mc_qi` and `mc_qri` in net/ipv6/mcast.c).
    robustness: u8,
    query_interval: Duration,
    response_interval: Duration,
    v1_querier_until: Option<Instant>,
    v2_querier_until: Option<Instant>,
    /// Until then the kernel may not have repeated in version 2 what it has reported in version 3.
    turning_until: Option<Instant>,
    check_at: Option<Instant>,
    family: PhantomData<A>,
}

impl<A: LanFamily> HostVersion<A> {
    /// The version of an interface of the caller's namespace.
    pub(crate) fn open(name: &str, index: u32, host: &Sysctls, now: Instant) -> Self {
        let timing = Timing::default();
        let mut version = HostVersion {
            index,
            file: A::SHOWS_VERSION.then(|| File::open(A::GROUPS_FILE).ok()).flatten(),
            forced: forced_version::<A>(name, host),
            robustness: timing.robustness(),
            query_interval: timing.query_interval(),
            response_interval: timing.query_response_interval(),
            v1_querier_until: None,
            v2_querier_until: None,
            turning_until: None,
            check_at: None,
            family: PhantomData,
        };
        version.check(now);
        version
    }

    /// The version of an interface of this index from now on, which has taken the place of the one
    /// before. A version that is forced there is known as long as the kernel's file shows it.
    pub(crate) fn follow(&mut self, now: Instant, index: u32) {
        let timing = Timing::default();
        self.index = index;
        self.forced = None;
        self.robustness = timing.robustness();
        self.query_interval = timing.query_interval();
        self.response_interval = timing.query_response_interval();
        (self.v1_querier_until, self.v2_querier_until) = (None, None);
        (self.turning_until, self.check_at) = (None, None);
        self.check(now);
    }

    /// The version that the kernel speaks at this moment, by its file where an older querier is thought
    /// to be present.
    pub(crate) fn look_up(&self, now: Instant) -> Version {
        let thought = self.get(now);
        if thought == Version::V3 {
            return thought;
        }
        self.shown().unwrap_or(thought)
    }

    /// The version by what was heard (`IGMP_V1_SEEN` and `IGMP_V2_SEEN`).
    pub(crate) fn get(&self, now: Instant) -> Version {
        let present = |until: Option<Instant>| until.is_some_and(|until| now < until);
        match self.forced {
            Some(version) => version,
            None if present(self.v1_querier_until) => Version::V1,
            None if present(self.v2_querier_until) => Version::V2,
            None => Version::V3,
        }
    }

    /// Whether the kernel may have reported groups in version 3 only, although it speaks version 2
    /// now. Of such groups it sends no leave.
    pub(crate) fn is_turning(&self, now: Instant) -> bool {
        self.turning_until.is_some_and(|until| now < until)
    }

    /// Receives a query of the LAN, as the kernel does (`igmp_heard_query`, `__mld_query_work`).
    pub(crate) fn receive_query(&mut self, now: Instant, query: &Query<A>) {
        let before = self.get(now);
        match query.version {
            Version::V1 => self.v1_querier_until = Some(now + self.older_querier_present()),
            Version::V2 => self.v2_querier_until = Some(now + self.older_querier_present()),
            Version::V3 if before < Version::V3 => {}
            Version::V3 => {
                let second = Duration::from_secs(1);
                self.robustness = query.robustness();
                self.query_interval = query.query_interval();
                if A::LEARNS_RESPONSE_INTERVAL {
                    self.response_interval = query.max_resp;
                } else if self.response_interval >= self.query_interval {
                    self.response_interval = self.query_interval.saturating_sub(second);
                }
            }
        }
        if before == Version::V3 && self.get(now) == Version::V2 {
            self.turning_until = Some(now + query.max_resp + Duration::from_secs(1));
        }
        if A::SHOWS_VERSION && self.get(now) < Version::V3 {
            self.check_at.get_or_insert(now + CHECK_DELAY);
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.check_at
    }

    /// Compares with the kernel's file, if it is time to.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.check_at.take_if(|at| *at <= now).is_some() {
            self.check(now);
        }
    }

    fn check(&mut self, now: Instant) {
        let Some(kernels) = self.shown() else { return };
        if kernels == self.get(now) {
            return;
        }
        // It is not what was forced at the start.
        self.forced = None;
        let until = Some(now + self.older_querier_present());
        self.v1_querier_until = until.filter(|_| kernels == Version::V1);
        self.v2_querier_until = until.filter(|_| kernels == Version::V2);
    }

    /// What the kernel's file shows. `None`: there is none, or the interface is gone.
    fn shown(&self) -> Option<Version> {
        let file = BufReader::with_capacity(READ, FromStart(self.file.as_ref()?, 0));
        version_in::<A>(file, self.index)
    }

    /// RFC 9776 §8.12, RFC 9777 §9.12; `igmp_heard_query`, `mld_set_v1_mode`.
    fn older_querier_present(&self) -> Duration {
        self.query_interval * self.robustness.into() + self.response_interval
    }
}

/// What the sysctls of the host force. Those of `all` come first.
fn forced_version<A: LanFamily>(name: &str, host: &Sysctls) -> Option<Version> {
    let (directory, file) = A::FORCED_VERSION;
    let read = |interface| host.number(&format!("{directory}/{interface}/{file}"));
    ["all", name].into_iter().filter_map(read).find_map(A::forced)
}

/// A file that is read from its beginning, whatever was read of it before.
struct FromStart<'f>(&'f File, u64);

impl Read for FromStart<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.0.read_at(buffer, self.1)?;
        self.1 += got as u64;
        Ok(got)
    }
}

/// The version of an interface as `/proc/net/igmp` shows it. The groups of the interface, which may
/// be many, follow its line and are not read.
fn version_in<A: LanFamily>(text: impl BufRead, index: u32) -> Option<Version> {
    let own = |line: &String| {
        let first = line.split_ascii_whitespace().next();
        line.starts_with(|c: char| c.is_ascii_digit()) && first == Some(&index.to_string())
    };
    let line = text.lines().map_while(Result::ok).find(own)?;
    A::version_shown(&line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host<A: LanFamily>() -> HostVersion<A> {
        HostVersion {
            index: 12,
            file: None,
            forced: None,
            robustness: 2,
            query_interval: Duration::from_secs(125),
            response_interval: Duration::from_secs(10),
            v1_querier_until: None,
            v2_querier_until: None,
            turning_until: None,
            check_at: None,
            family: PhantomData,
        }
    }

    fn query<A: LanFamily>(version: Version) -> Query<A> {
        let second = Duration::from_secs(1);
        Query { version, qrv: 3, qqi: 4 * second, ..Query::general(second) }
    }

    #[test]
    fn an_older_querier_is_remembered_for_as_long_as_the_kernel_remembers_it() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut host = host::<Ipv4Addr>();
        assert_eq!(host.get(start), Version::V3);
        host.receive_query(start, &query(Version::V2));
        assert_eq!([host.get(start), host.get(at(259))], [Version::V2; 2]);
        assert_eq!(host.get(at(260)), Version::V3);
        // What a query of version 3 tells counts from the next older one on: 3 times 4 s, and 3 s.
        host.receive_query(at(300), &query(Version::V3));
        host.receive_query(at(300), &query(Version::V2));
        assert_eq!([host.get(at(300)), host.get(at(314))], [Version::V2; 2]);
        // While an older querier is present, the kernel learns nothing.
        host.receive_query(at(301), &Query { qrv: 7, ..query(Version::V3) });
        host.receive_query(at(302), &query(Version::V1));
        assert_eq!([host.get(at(302)), host.get(at(316))], [Version::V1; 2]);
        assert_eq!(host.get(at(317)), Version::V3);
    }

    #[test]
    fn the_kernels_file_is_read_after_a_query_while_an_older_querier_is_present() {
        let start = Instant::now();
        let mut host = host::<Ipv4Addr>();
        host.receive_query(start, &query(Version::V3));
        assert_eq!(host.poll_timeout(), None);
        host.receive_query(start, &query(Version::V2));
        assert_eq!(host.poll_timeout(), Some(start + CHECK_DELAY));
        host.handle_timeout(start + CHECK_DELAY);
        assert_eq!(host.poll_timeout(), None);
        assert!(host.is_turning(start + Duration::from_secs(1)));
        assert!(!host.is_turning(start + Duration::from_secs(2)));
    }

    #[test]
    fn the_kernels_file_has_the_last_word_while_an_older_querier_is_thought_to_be_present() {
        let start = Instant::now();
        let file = tempfile::tempfile().unwrap();
        let mut host = HostVersion { file: Some(file.try_clone().unwrap()), ..host::<Ipv4Addr>() };
        host.receive_query(start, &query(Version::V2));
        // The file shows no such interface.
        assert_eq!(host.look_up(start), Version::V2);
        // Its line is behind what one read gives.
        let others =
            "1\tlo        :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n".repeat(20);
        for (shown, version) in [("V2", Version::V2), ("V3", Version::V3), ("V1", Version::V1)] {
            file.set_len(0).unwrap();
            file.write_all_at(
                format!("{others}12\tlan0      :     2      {shown}\n").as_bytes(),
                0,
            )
            .unwrap();
            assert_eq!((host.get(start), host.look_up(start)), (Version::V2, version));
        }
    }

    #[test]
    fn the_version_of_an_interface_is_read() {
        let text = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n\
                    1\tlo        :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n\
                    12\tlan0      :     2      V2\n\t\t\t\t010000E0     1 0:00000000\t\t0\n";
        assert_eq!(version_in::<Ipv4Addr>(text.as_bytes(), 1), Some(Version::V3));
        assert_eq!(version_in::<Ipv4Addr>(text.as_bytes(), 12), Some(Version::V2));
        assert_eq!(version_in::<Ipv4Addr>(text.as_bytes(), 2), None);
    }
}
