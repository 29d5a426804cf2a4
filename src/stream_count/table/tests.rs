use super::oracle::SILENCE;
use super::*;
use crate::stream_count::datagram::{Datagram, Rtp};

/// A packet with one RTP datagram.
fn packet(source: u8, port: u16, sequence: u16) -> Datagram {
    Datagram {
        group: Ipv4Addr::new(239, 1, 2, 3),
        source: Ipv4Addr::new(10, 0, 0, source),
        port,
        packets: 1,
        bytes: 100,
        rtp: Some(Rtp { ssrc: 7, sequence, last_sequence: sequence, payload_type: 96 }),
    }
}

/// The one stream of a table that has counted these sequence numbers.
fn run(numbers: impl IntoIterator<Item = u16>) -> Stream {
    let mut table = Table::new();
    numbers.into_iter().for_each(|number| table.count(1, &packet(1, 5004, number), 1));
    *table.streams().next().unwrap()
}

fn counts(stream: &Stream) -> (u64, u64, u64, u64) {
    (stream.packets, stream.lost, stream.reordered, stream.duplicated)
}

#[test]
fn packets_in_order_are_all_there_also_where_the_numbers_wrap() {
    let wrapping = (0..200_000u32).map(|n| (n + 65_000) as u16);
    assert_eq!(counts(&run(wrapping)), (200_000, 0, 0, 0));
}

#[test]
fn missing_numbers_are_lost_and_late_ones_are_not() {
    assert_eq!(counts(&run((0..100).chain(110..200))), (190, 10, 0, 0));
    assert_eq!(counts(&run((65_530..=65_535).chain(5..10))), (11, 5, 0, 0));
    assert_eq!(counts(&run([1, 2, 4, 5, 3, 6])), (6, 0, 1, 0));
    assert_eq!(counts(&run([1, 2, 2, 3, 1, 3])), (6, 0, 0, 3));
}

#[test]
fn a_packet_from_before_the_first_one_hides_no_loss() {
    assert_eq!(counts(&run([10, 12, 8, 9])), (4, 1, 2, 0));
    assert_eq!(counts(&run([10, 12, 7])), (3, 3, 1, 0));
}

#[test]
fn a_sender_that_begins_anew_loses_nothing() {
    let stream = run((100..200).chain(40_000..40_100));
    assert_eq!((counts(&stream), stream.restarts), ((200, 0, 0, 0), 1));
    // One number of chance is counted as too old to tell.
    let stream = run((100..200).chain([40_000]).chain(200..300));
    assert_eq!((counts(&stream), stream.restarts), ((201, 0, 0, 1), 0));
}

#[test]
fn datagrams_that_were_left_together_are_a_run_of_numbers() {
    let mut table = Table::new();
    let train = |first: u16, count: u16| {
        let rtp =
            Rtp { ssrc: 7, sequence: first, last_sequence: first + count - 1, payload_type: 96 };
        Datagram { packets: count.into(), rtp: Some(rtp), ..packet(1, 5004, first) }
    };
    for (first, count) in [(0, 10), (10, 44), (56, 200), (50, 1)] {
        table.count(1, &train(first, count), 1);
    }
    // 54 and 55 are missing; 50 is older than can be told.
    let stream = *table.streams().next().unwrap();
    assert_eq!(counts(&stream), (255, 2, 0, 1));
    table.count(1, &train(255, 1), 1);
    assert_eq!(counts(table.streams().next().unwrap()), (256, 2, 0, 2));
}

#[test]
fn another_synchronisation_source_is_counted_and_begins_anew() {
    let mut table = Table::new();
    for (ssrc, sequence) in [(7, 1), (7, 2), (9, 50_000), (9, 50_001), (7, 3)] {
        let rtp = Rtp { ssrc, sequence, last_sequence: sequence, payload_type: 96 };
        table.count(1, &Datagram { rtp: Some(rtp), ..packet(1, 5004, 0) }, 1);
    }
    let stream = *table.streams().next().unwrap();
    assert_eq!((counts(&stream), stream.ssrc_changes), ((5, 0, 0, 0), 2));
}

#[test]
fn a_table_that_is_full_gives_up_the_streams_that_are_silent_longest() {
    let mut table = Table::new();
    let kept = packet(1, 1, 0);
    for now in 0..10_000u64 {
        table.count(1, &kept, 2 * now);
        table.count(2, &packet(2, now as u16, 0), 2 * now + 1);
    }
    assert_eq!(
        table.streams().filter(|s| s.interface == 1).map(|s| s.packets).sum::<u64>(),
        10_000
    );
    let others = table.streams().filter(|s| s.interface == 2).count();
    assert_eq!(others as u64 + table.evicted, 10_000);
    assert!(others > 200, "{others} of {} places are used", SETS * WAYS);
}

#[test]
fn a_stream_that_flows_keeps_its_place_beside_a_sender_of_many() {
    let mut table = Table::new();
    let kept = packet(1, 1, 0);
    for now in 0..u64::from(u16::MAX) {
        table.count(1, &kept, now * 1_000_000);
        // The others send as much as it does, and between two packets of the kept one all at once.
        (0..16).for_each(|_| table.count(1, &packet(2, now as u16, 0), now * 1_000_000));
    }
    let own = |s: &&Stream| s.source() == kept.source;
    assert_eq!(table.streams().find(own).unwrap().packets, u64::from(u16::MAX));
    assert!(table.refused > 0, "nothing was refused");
    // Silent streams make room.
    let later = 2 * SILENCE + u64::from(u16::MAX) * 1_000_000;
    table.count(1, &packet(3, 1, 0), later);
    assert_eq!(table.streams().filter(|s| s.last == later).count(), 1);
}

#[test]
fn streams_of_a_table_are_read() {
    let mut table = Table::new();
    for port in 1..50 {
        table.count(1, &packet(1, port, 0), 5);
    }
    // SAFETY: the table lives, and nobody writes it.
    let streams = unsafe { read(&raw const *table) };
    assert_eq!(streams.len(), 49);
    assert!(streams.iter().eq(table.streams()));
}
