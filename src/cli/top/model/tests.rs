use std::net::Ipv4Addr;

use super::*;
use crate::cli::top::row::{Querier, SILENCE_MS, Source};
use crate::proxy::{MembershipStatus, RelayCounts};
use crate::stream_count::{RtpCount, StreamCount};

/// A stream of 1000 RTP packets a second.
pub(in crate::cli::top) fn row(name: &str, group: u8) -> Row {
    let rtp = RtpCount {
        ssrc: 0xfeed,
        payload_type: 33,
        lost: 7,
        reordered: 2,
        duplicated: 0,
        ssrc_changes: 0,
        restarts: 0,
    };
    let group = Ipv4Addr::new(239, 1, 2, group);
    let count = StreamCount {
        group,
        source: Ipv4Addr::new(192, 0, 2, 9),
        packets: 12_034,
        bytes: 15_836_744,
        packet_rate: 1000,
        byte_rate: 1_316_000,
        last_packet_ms: 1,
        rtp: Some(rtp),
    };
    Row {
        key: Key {
            container: format!("id of {name}"),
            interface: "mc0".into(),
            group: group.into(),
        },
        name: name.into(),
        interface: "mc0".into(),
        parent: "eth1".into(),
        sources: "any".into(),
        version: 3,
        membership: MembershipStatus::Joined,
        reason: None,
        age_s: 600,
        arrival: Some(Arrival {
            packets: count.packets,
            packet_rate: Some(count.packet_rate),
            byte_rate: Some(count.byte_rate),
            last_packet_ms: Some(count.last_packet_ms),
            rtp: Some(rtp),
        }),
        streams: vec![Source { count, is_wanted: true }],
        relay: None,
        querier: Querier::Heard {
            address: Ipv4Addr::new(192, 0, 2, 1).into(),
            version: 3,
            last_query_s: 12,
            gone_in_s: 243,
        },
        warnings: [].into(),
    }
}

/// The same with other numbers of what arrives.
pub(in crate::cli::top) fn arriving(mut row: Row, change: impl FnOnce(&mut Arrival)) -> Row {
    if let Some(arrival) = &mut row.arrival {
        change(arrival);
    }
    row
}

/// A row whose stream has come to an end.
pub(in crate::cli::top) fn dead(name: &str, group: u8) -> Row {
    arriving(row(name, group), |arrival| {
        (arrival.packet_rate, arrival.byte_rate) = (Some(0), Some(0));
        arrival.last_packet_ms = Some(7_000);
    })
}

/// One whose packets a relay carries, so many up to now.
fn relayed(packets: u64) -> Row {
    let counts = RelayCounts { relayed: packets, ..RelayCounts::default() };
    Row { arrival: None, relay: Some(counts), streams: Vec::new(), ..row("relay", 1) }
}

pub(in crate::cli::top) fn model(rows: Vec<Row>) -> Model {
    let mut model = Model::new();
    model.update(Look { containers: rows.len(), rows, notes: Vec::new() }, Duration::ZERO);
    model
}

fn again(model: &mut Model, rows: Vec<Row>, seconds: u64) {
    let look = Look { containers: rows.len(), rows, notes: Vec::new() };
    model.update(look, Duration::from_secs(seconds));
}

fn names(model: &mut Model) -> Vec<String> {
    model.window(100).0.map(|row| row.name.clone()).collect()
}

fn type_text(model: &mut Model, text: &str) {
    model.act(Action::Filter);
    text.chars().for_each(|letter| model.act(Action::Type(letter)));
}

#[test]
fn a_stream_that_is_joined_and_does_not_come_is_dead() {
    let health = |change: fn(&mut Row)| {
        let mut row = row("c", 1);
        change(&mut row);
        row.health()
    };
    let last = |row: &mut Row, ms| row.arrival.as_mut().unwrap().last_packet_ms = ms;
    assert_eq!(health(|_| {}), Health::Joined);
    assert_eq!(last_health(SILENCE_MS - 1, last), Health::Joined);
    assert_eq!(last_health(SILENCE_MS, last), Health::Dead);
    assert_eq!(health(|row| row.arrival.as_mut().unwrap().last_packet_ms = None), Health::Dead);
    // One that was joined just now has not had the time to come.
    let fresh = |row: &mut Row| {
        row.age_s = 4;
        row.arrival.as_mut().unwrap().last_packet_ms = None;
    };
    assert_eq!(health(fresh), Health::Joined);
    // Nothing is known of what is not counted.
    assert_eq!(health(|row| row.arrival = None), Health::Joined);
    let denied = |row: &mut Row| {
        row.membership = MembershipStatus::Denied;
        row.arrival.as_mut().unwrap().last_packet_ms = None;
    };
    assert_eq!(health(denied), Health::Denied);
}

fn last_health(ms: u64, set: fn(&mut Row, Option<u64>)) -> Health {
    let mut row = row("c", 1);
    set(&mut row, Some(ms));
    row.health()
}

#[test]
fn rows_are_sorted_by_each_column_and_back() {
    let mut quiet = arriving(row("quiet", 3), |arrival| {
        (arrival.packet_rate, arrival.byte_rate) = (Some(10), Some(9_000_000));
        arrival.rtp = None;
    });
    quiet.querier = Querier::Gone;
    let lossy = arriving(row("lossy", 2), |arrival| {
        arrival.rtp = arrival.rtp.map(|rtp| RtpCount { lost: 99, ..rtp });
        arrival.last_packet_ms = Some(900);
    });
    let mut model = model(vec![row("fine", 4), quiet, lossy, dead("ended", 1)]);
    let mut seen = Vec::new();
    for _ in Sort::ALL {
        seen.push((model.sort, names(&mut model).join(" ")));
        model.act(Action::Sort);
    }
    let expected = [
        (Sort::Status, "ended fine lossy quiet"),
        (Sort::Name, "ended fine lossy quiet"),
        (Sort::Group, "ended lossy quiet fine"),
        (Sort::Packets, "fine lossy quiet ended"),
        (Sort::Rate, "quiet fine lossy ended"),
        (Sort::Last, "ended lossy fine quiet"),
        (Sort::Lost, "lossy ended fine quiet"),
        (Sort::Querier, "quiet ended fine lossy"),
    ];
    assert_eq!(seen, expected.map(|(sort, names)| (sort, names.to_owned())));
    assert_eq!(model.sort, Sort::Status);
    model.act(Action::Reverse);
    assert_eq!(names(&mut model), ["fine", "lossy", "quiet", "ended"]);
}

#[test]
fn a_filter_takes_effect_while_it_is_typed_and_can_be_dropped() {
    let mut model = model(vec![row("camera-1", 1), row("camera-2", 2), dead("player", 3)]);
    type_text(&mut model, "CAM 2.2");
    assert_eq!(names(&mut model), ["camera-2"]);
    model.act(Action::Open);
    assert_eq!((model.filter.as_str(), &model.overlay), ("CAM 2.2", &Overlay::None));
    type_text(&mut model, "x");
    assert_eq!(model.shown(), 0);
    assert!(model.row().is_none());
    model.act(Action::Back);
    assert_eq!((model.filter.as_str(), model.shown()), ("CAM 2.2", 1));
    model.act(Action::Back);
    assert_eq!(model.shown(), 3);
    type_text(&mut model, "dead");
    assert_eq!(names(&mut model), ["player"]);
    type_text(&mut model, &"long".repeat(100));
    assert_eq!(model.filter.chars().count(), MAX_FILTER);
    model.act(Action::Erase);
    assert_eq!(model.filter.chars().count(), MAX_FILTER - 1);
}

#[test]
fn the_selected_row_stays_selected_where_it_moves_to() {
    let mut model = model(vec![row("a", 1), row("b", 2), row("c", 3)]);
    model.act(Action::Down);
    assert_eq!(model.row().unwrap().name, "b");
    again(&mut model, vec![row("a", 1), dead("b", 2), row("c", 3)], 1);
    assert_eq!(names(&mut model), ["b", "a", "c"]);
    assert_eq!(model.row().unwrap().name, "b");
    assert_eq!(model.window(10).1, 0);
    // The one that takes its place is selected when it has gone.
    again(&mut model, vec![row("a", 1), row("c", 3)], 2);
    assert_eq!(model.row().unwrap().name, "a");
    model.act(Action::Last);
    assert_eq!(model.row().unwrap().name, "c");
    again(&mut model, Vec::new(), 3);
    assert!(model.row().is_none());
    model.act(Action::Open);
    assert_eq!(model.page, Page::Table);
}

#[test]
fn a_stream_that_is_looked_at_and_goes_is_not_replaced_by_another() {
    let mut model = model(vec![row("a", 1), row("b", 2)]);
    model.act(Action::Open);
    again(&mut model, vec![row("b", 2)], 1);
    assert!(model.row().is_none());
    assert_eq!(model.selected().unwrap().container, "id of a");
    again(&mut model, vec![row("a", 1), row("b", 2)], 2);
    assert_eq!(model.row().unwrap().name, "a");
    again(&mut model, vec![row("b", 2)], 3);
    model.act(Action::Back);
    assert_eq!(model.row().unwrap().name, "b");
}

#[test]
fn the_selected_row_is_on_the_screen() {
    let mut model = model((0..100).map(|n| row(&format!("c{n:02}"), n)).collect());
    let screen = |model: &mut Model, room| {
        let (rows, selected) = model.window(room);
        let rows: Vec<_> = rows.map(|row| row.name.clone()).collect();
        assert!(rows.len() <= room);
        rows[selected].clone()
    };
    assert_eq!(screen(&mut model, 10), "c00");
    for (action, expected) in [
        (Action::PageDown, "c10"),
        (Action::Down, "c11"),
        (Action::Last, "c99"),
        (Action::PageUp, "c89"),
        (Action::Up, "c88"),
        (Action::First, "c00"),
        (Action::Up, "c00"),
    ] {
        model.act(action);
        for room in [10, 1, 50, 1000, 10] {
            assert_eq!(screen(&mut model, room), expected, "{room}");
        }
    }
}

#[test]
fn any_keys_in_any_order_leave_something_to_show() {
    let actions = [
        Action::Help,
        Action::Open,
        Action::Back,
        Action::Down,
        Action::PageDown,
        Action::Last,
        Action::Up,
        Action::Sort,
        Action::Reverse,
        Action::Filter,
        Action::Type('c'),
        Action::Erase,
    ];
    let mut model = model(vec![row("c", 1), dead("d", 2)]);
    let mut chance = 1_u32;
    for step in 0..20_000 {
        chance = chance.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        model.act(actions[(chance >> 16) as usize % actions.len()]);
        let (shown, selected) = model.window(usize::from((chance >> 24) as u8 % 5));
        let shown = shown.count();
        assert!(selected < shown || shown == 0, "{step}: {selected} of {shown}");
        if step % 100 == 0 {
            let rows = if chance & 1 == 0 { Vec::new() } else { vec![row("c", 1), dead("d", 2)] };
            again(&mut model, rows, step);
        }
    }
}

#[test]
fn what_a_relay_carries_follows_from_how_its_number_grows() {
    let mut model = model(vec![relayed(100)]);
    let arrival = |model: &Model| model.rows()[0].arrival.unwrap();
    assert_eq!((arrival(&model).packet_rate, arrival(&model).packets), (None, 100));
    again(&mut model, vec![relayed(600)], 2);
    assert_eq!(arrival(&model).packet_rate, Some(250));
    again(&mut model, vec![relayed(600)], 6);
    assert_eq!(
        (arrival(&model).packet_rate, arrival(&model).last_packet_ms),
        (Some(0), Some(4000))
    );
    assert_eq!(model.dead(), 0);
    again(&mut model, vec![relayed(600)], 7);
    assert_eq!(model.dead(), 1);
    // Another proxy begins to count anew.
    again(&mut model, vec![relayed(5)], 8);
    assert_eq!((arrival(&model).packet_rate, model.dead()), (Some(0), 0));
    again(&mut model, vec![relayed(0)], 9);
    assert_eq!(arrival(&model).last_packet_ms, None);
}
