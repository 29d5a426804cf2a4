//! Group records distributed over the reports that an MTU allows, for both protocols (RFC 9776
//! §4.2.16, RFC 9777 §5.2).

use crate::igmp::message::{GroupRecord, RecordType};

/// The sizes of a report's parts on the wire, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    /// What is in front of the records.
    pub(crate) report: usize,
    /// A record without sources.
    pub(crate) record: usize,
    /// One source.
    pub(crate) source: usize,
}

/// A record, and the part of its sources that goes into one report.
pub(crate) type Piece<'a, A> = (&'a GroupRecord<A>, &'a [A]);

/// Distributes records over reports of at most `room` bytes, which hold at least one record with one
/// source.
///
/// A long record is split. A record of type IS_EX or TO_EX is truncated instead, since each of them
/// replaces the one before.
pub(crate) fn pack<A>(
    records: &[GroupRecord<A>],
    room: usize,
    sizes: Sizes,
) -> Vec<Vec<Piece<'_, A>>> {
    let most = (room.saturating_sub(sizes.report + sizes.record) / sizes.source).max(1);
    let mut reports = vec![Vec::new()];
    let mut used = sizes.report;
    for (record, sources) in records.iter().flat_map(|record| pieces(record, most)) {
        let size = sizes.record + sources.len() * sizes.source;
        if used + size > room {
            reports.push(Vec::new());
            used = sizes.report;
        }
        used += size;
        if let Some(last) = reports.last_mut() {
            last.push((record, sources));
        }
    }
    reports
}

/// One record as records of at most `most` sources.
fn pieces<A>(record: &GroupRecord<A>, most: usize) -> Vec<Piece<'_, A>> {
    let sources = &record.sources[..];
    let is_truncated = matches!(record.kind, RecordType::IsEx | RecordType::ToEx);
    if is_truncated || sources.len() <= most {
        return vec![(record, &sources[..sources.len().min(most)])];
    }
    sources.chunks(most).map(|part| (record, part)).collect()
}
