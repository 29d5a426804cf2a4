use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;

use super::*;
use crate::cli::top::keys::Action;
use crate::cli::top::model::Look as Found;
use crate::cli::top::model::tests::{arriving, dead, model, row};
use crate::cli::top::row::{Querier, Row};
use crate::proxy::{MembershipStatus, RelayCounts};

const PLAIN: Look =
    Look { colour: false, interval: Duration::from_secs(1), now: Duration::from_secs(1) };

fn drawn(model: &mut Model, width: u16, height: u16, look: Look) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, model, look)).unwrap();
    terminal.backend().buffer().clone()
}

/// The characters of a screen.
fn screen(model: &mut Model, width: u16, height: u16) -> String {
    let buffer = drawn(model, width, height, PLAIN);
    let symbols: Vec<_> = buffer.content().iter().map(|cell| cell.symbol()).collect();
    let lines =
        symbols.chunks(usize::from(width.max(1))).map(|line| line.concat().trim_end().to_owned());
    lines.collect::<Vec<_>>().join("\n")
}

/// A row of each kind.
fn facility() -> Model {
    let never = arriving(dead("multiviewer", 12), |arrival| {
        arrival.last_packet_ms = None;
        arrival.rtp = None;
    });
    let denied = Row {
        membership: MembershipStatus::Denied,
        reason: Some("deny=239.1.2.3".into()),
        querier: Querier::Unheard { seconds: 12, gone_in_s: 243 },
        ..never.clone()
    };
    let denied = Row { name: "guest".into(), ..denied };
    let relayed = Row {
        name: "relayed".into(),
        arrival: None,
        streams: Vec::new(),
        relay: Some(RelayCounts { relayed: 12, dropped: 3, limited: 0, denied: 1 }),
        querier: Querier::Gone,
        ..row("relayed", 4)
    };
    let uncounted = Row { arrival: None, querier: Querier::Unknown, ..row("native", 255) };
    let mut fast = row("facility_player_recorder_1", 7);
    fast.sources = "192.0.2.9,192.0.2.10".into();
    fast.interface = "mc1".into();
    fast.parent = "enp129s0f1".into();
    fast.key.group = "239.255.255.255".parse().unwrap();
    let fast = arriving(fast, |arrival| {
        arrival.packet_rate = Some(1_234_567);
        arrival.byte_rate = Some(1_249_000_000);
        arrival.rtp =
            arrival.rtp.map(|rtp| crate::stream_count::RtpCount { lost: 123_456_789, ..rtp });
    });
    model(vec![row("camera", 3), dead("player", 4), never, denied, relayed, uncounted, fast])
}

#[test]
fn a_table_of_80_columns() {
    insta::assert_snapshot!(screen(&mut facility(), 80, 24));
}

#[test]
fn a_table_of_160_columns() {
    insta::assert_snapshot!(screen(&mut facility(), 160, 50));
}

#[test]
fn the_pages_of_80_columns() {
    let mut model = facility();
    let mut pages = Vec::new();
    model.act(Action::Down);
    model.act(Action::Open);
    pages.push(screen(&mut model, 80, 24));
    model.act(Action::Help);
    pages.push(screen(&mut model, 80, 24));
    model.act(Action::Help);
    model.act(Action::Back);
    model.act(Action::Filter);
    "mc1".chars().for_each(|letter| model.act(Action::Type(letter)));
    pages.push(screen(&mut model, 80, 8));
    insta::assert_snapshot!(pages.join("\n----\n"));
}

#[test]
fn a_stream_with_many_sources_and_warnings() {
    let mut many = row("camera", 3);
    let first = many.streams[0];
    many.streams = (0..100)
        .map(|n| {
            let mut source = first;
            source.count.source = std::net::Ipv4Addr::new(192, 0, 2, n);
            source.is_wanted = n != 1;
            source
        })
        .collect();
    many.sources = "any but 192.0.2.1".into();
    many.warnings = ["no IGMP querier on eth1 for 255 s: ".repeat(4)].into();
    many.relay = Some(RelayCounts::default());
    let mut model = model(vec![many]);
    model.act(Action::Open);
    let begin = screen(&mut model, 80, 24);
    model.act(Action::Last);
    let end = screen(&mut model, 160, 24);
    insta::assert_snapshot!(format!("{begin}\n----\n{end}"));
}

#[test]
fn a_screen_fits_whatever_its_size() {
    for page in [Action::Back, Action::Open, Action::Help, Action::Filter] {
        for width in (0..200).step_by(7) {
            for height in [0, 1, 2, 7, 8, 9, 24] {
                let mut model = facility();
                model.fail("a note".repeat(100));
                model.act(page);
                screen(&mut model, width, height);
            }
        }
    }
    let small = screen(&mut facility(), 59, 24);
    assert!(small.starts_with("59x24 is too small: mcrun top needs 60x8\n"), "{small}");
    let smallest = screen(&mut facility(), 60, 8);
    for wanted in ["DEAD", "player", "239.1.2.4", "q quit"] {
        assert!(smallest.contains(wanted), "{smallest}");
    }
    assert!(smallest.lines().all(|line| line.len() <= 60));
}

#[test]
fn nothing_and_what_is_late_or_unknown_is_told() {
    let mut model = model(Vec::new());
    assert!(screen(&mut model, 80, 24).contains("\nno container has joined a group\n"));
    let notes = vec!["cam: the proxy is dead".to_owned(), "8f1: bad record".to_owned()];
    model.update(Found { rows: Vec::new(), containers: 2, notes }, Duration::ZERO);
    assert!(screen(&mut model, 80, 24).contains("\n! cam: the proxy is dead (and 1 more)\n"));
    let late = Look { now: Duration::from_secs(9), ..PLAIN };
    let text = format!("{:?}", drawn(&mut model, 80, 24, late));
    assert!(text.contains("no answer for 9s"), "{text}");
}

#[test]
fn colours_say_nothing_that_words_do_not() {
    let mut model = facility();
    let colours = |buffer: &Buffer, colour| {
        let red = buffer.content().iter().filter(|cell| cell.fg == colour);
        red.map(|cell| cell.symbol()).collect::<String>()
    };
    let coloured = drawn(&mut model, 80, 24, Look { colour: true, ..PLAIN });
    let red = colours(&coloured, Color::Red);
    assert!(red.contains("2 DEAD") && red.matches("DEAD").count() == 3, "{red}");
    assert!(red.contains("player") && !red.contains("camera"), "{red}");
    let plain = drawn(&mut model, 80, 24, PLAIN);
    assert!(plain.content().iter().all(|cell| (cell.fg, cell.bg) == (Color::Reset, Color::Reset)));
    let symbols =
        |buffer: &Buffer| -> String { buffer.content().iter().map(|cell| cell.symbol()).collect() };
    assert_eq!(symbols(&plain), symbols(&coloured));
    assert!(symbols(&plain).is_ascii(), "a terminal may know nothing else");
}

#[test]
fn numbers_and_names_have_room() {
    let numbers: Vec<_> = [0, 999_999, 1_000_000, 1_999_999_999, u64::MAX].map(short).into();
    assert_eq!(numbers, ["0", "999999", "1.0M", "1.9G", "many"]);
    let bits: Vec<_> = [0, 124, 125, 1_250_000, 125_000_000_000].map(short_bits).into();
    assert_eq!(bits, ["0", "992", "1.0k", "10.0M", "1.0T"]);
    for n in (0..64).map(|bit| 1_u64 << bit) {
        assert!(short(n).len() <= 6 && short_bits(n).len() <= 6, "{n}");
    }
    assert_eq!(fit("facility_player_1", 17), "facility_player_1");
    assert_eq!(fit("facility_player_1", 10), "faci~yer_1");
    assert_eq!(fit("\u{4e2d}\u{4e2d}\u{4e2d}", 5), "\u{4e2d}~\u{4e2d}");
    for width in 0..20 {
        assert!(Span::raw(fit("\u{4e2d}a\u{4e2d}b\u{4e2d}c", width)).width() <= width.max(1));
    }
}
