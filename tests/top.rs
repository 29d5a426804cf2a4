//! `mcrun top`, in a real terminal.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use crate::counting::{PORT, rtp};
use crate::lab::{Container, Lab, PATIENCE, Pane, SOURCES, notifications, output, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Its stream ends.
const ENDED: Ipv4Addr = Ipv4Addr::new(239, 79, 1, 1);
/// Its stream runs.
const RUNNING: Ipv4Addr = Ipv4Addr::new(239, 79, 1, 2);

/// The line of the screen with this text.
fn line_with<'s>(screen: &'s str, text: &str) -> Option<&'s str> {
    screen.lines().find(|line| line.contains(text))
}

/// Whether the line of a group has all these words.
fn has(screen: &str, group: Ipv4Addr, words: &[&str]) -> bool {
    let line = line_with(screen, &group.to_string()).unwrap_or_default();
    words.iter().all(|word| line.split_whitespace().any(|shown| shown == *word))
}

/// The packets a second of a group, which are this word of its line.
fn rate(screen: &str, group: Ipv4Addr, word: usize) -> Option<u64> {
    line_with(screen, &group.to_string())?.split_whitespace().nth(word)?.parse().ok()
}

fn is_200(rate: u64) -> bool {
    (150..=250).contains(&rate)
}

/// Whether a group stands above another one.
fn is_above(screen: &str, upper: Ipv4Addr, lower: Ipv4Addr) -> bool {
    let at = |group: Ipv4Addr| screen.lines().position(|line| line.contains(&group.to_string()));
    at(upper).zip(at(lower)).is_some_and(|(upper, lower)| upper < lower)
}

/// A shell has its terminal back, as it was.
fn assert_restored(pane: &Pane<'_>) {
    pane.line(
        "clear; stty -a | tr ' ' '\\n' | grep -E '^-?(icanon|echo|isig|opost)$'; echo checked",
    );
    let screen = pane.wait_until("modes", |screen| screen.lines().any(|line| line == "checked"));
    let modes: HashSet<&str> = screen.lines().filter(|line| !line.starts_with('$')).collect();
    for mode in ["icanon", "echo", "isig", "opost"] {
        assert!(modes.contains(mode), "{screen}");
    }
    let flags = ["alternate_on", "cursor_flag", "mouse_any_flag"].map(|name| pane.variable(name));
    assert_eq!(flags, ["0", "1", "0"]);
}

/// Packets of two thousand numbers, without seven and with two swapped.
fn send_with_loss(lab: &Lab) {
    let out: HashSet<u16> = [65_000, 65_535, 0, 7, 8, 9, 500].into();
    let mut numbers: Vec<u16> = (0..2_000u16).map(|n| n.wrapping_add(64_900)).collect();
    numbers.retain(|number| !out.contains(number));
    numbers.swap(300, 301);
    numbers.swap(1_000, 1_001);
    let sender = lab.socket("src", SOURCES[0], 0);
    for (at, number) in numbers.iter().enumerate() {
        sender.send(&rtp(*number, 0xfeed), (ENDED, PORT));
        if at % 20 == 0 {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

/// A container that has joined both groups, and its socket.
fn joined(lab: &Lab) -> (Container, crate::lab::Udp) {
    let container = lab.start("c", "10.99.0.11");
    let inside = container.socket_on("mc0", PORT);
    for group in [ENDED, RUNNING] {
        inside.join(group);
        lab.wait_joined(&container, group);
        lab.wait_forwarded(group);
    }
    (container, inside)
}

#[test]
fn streams_are_shown_sorted_filtered_and_in_detail() {
    let lab = Lab::new(3);
    let (_container, _inside) = joined(&lab);
    send_with_loss(&lab);
    lab.query();
    let _sender = lab.send(RUNNING, SOURCES[1], 200);
    let pane = lab.pane(80, 24);
    pane.line("mcrun top --interval 0.2; echo \"status $?\"");
    // A stream that has ended is dead, and stands above the one that runs.
    let screen = pane.wait_until("both streams", |screen| {
        has(screen, ENDED, &["DEAD", "7"]) && has(screen, RUNNING, &["joined", "0s", "0"])
    });
    assert!(is_above(&screen, ENDED, RUNNING), "{screen}");
    assert!(screen.starts_with("mcrun top  1 container  2 groups  1 DEAD  "), "{screen}");
    assert!(screen.lines().last().is_some_and(|line| line.starts_with("q quit")), "{screen}");
    let countdown =
        line_with(&screen, &RUNNING.to_string()).and_then(|line| line.rsplit(' ').next());
    let seconds = countdown.and_then(|word| word.strip_suffix('s')?.parse::<u64>().ok());
    // The switch asks every 20 s, and may be silent for little more than twice that.
    assert!(seconds.is_some_and(|seconds| (15..=50).contains(&seconds)), "{screen}");
    pane.wait_until("200 packets a second", |screen| rate(screen, RUNNING, 4).is_some_and(is_200));

    // In detail, the stream that is selected: seven are lost and two are out of order.
    pane.keys(&["Enter"]);
    // A screen is drawn from its top to its last line.
    let screen = pane.wait_for("Esc back");
    assert!(screen.contains("lost 7, reordered 2, duplicated 0,"), "{screen}");
    let source = line_with(&screen, &format!("  {}  ", SOURCES[0])).expect("its source");
    let words: Vec<_> = source.split_whitespace().collect();
    assert_eq!(words[4..], ["1993", "7", "2", "0", "33", "0000feed"], "{screen}");
    assert!(screen.contains("querier    10.99.0.1 (IGMPv3), last query "), "{screen}");
    assert!(screen.contains("status     DEAD: joined, and no packet for "), "{screen}");
    assert!(screen.contains("interface  mc0 on lan0"), "{screen}");

    // Back, sorted by another column.
    pane.keys(&["Escape"]);
    pane.wait_for("by status, worst first");
    pane.keys(&["s", "s", "s"]);
    pane.wait_until("the stream that runs first", |screen| {
        screen.contains("by packets/s, most first") && is_above(screen, RUNNING, ENDED)
    });
    pane.keys(&["r"]);
    pane.wait_until("the stream that runs last", |screen| {
        screen.contains("by packets/s, fewest first") && is_above(screen, ENDED, RUNNING)
    });

    // Filtered.
    pane.keys(&["/", "7", "9", ".", "1", ".", "2", "Enter"]);
    pane.wait_until("one of two rows", |screen| {
        screen.contains("filter: 79.1.2 (1 of 2)")
            && line_with(screen, &ENDED.to_string()).is_none()
            && has(screen, RUNNING, &[">", "joined"])
    });
    pane.keys(&["Escape"]);
    pane.wait_for(&ENDED.to_string());

    // In other sizes.
    pane.resize(160, 50);
    let screen = pane.wait_until("all columns", |screen| {
        screen.contains("REORD")
            && has(screen, ENDED, &["mc0@lan0", "7", "2", "33", "10.99.0.1", "v3"])
            && screen.lines().last().is_some_and(|line| line.starts_with("q quit"))
    });
    assert_eq!(screen.lines().count(), 50);
    pane.resize(50, 6);
    pane.wait_for("50x6 is too small: mcrun top needs 60x8");
    pane.resize(80, 24);
    pane.wait_for("QUERIER");
    pane.keys(&["?"]);
    pane.wait_for("any key: back");
    pane.keys(&["x", "q"]);
    pane.wait_for("status 0");
    assert_restored(&pane);
}

#[test]
fn what_a_relay_carries_is_shown_too() {
    let lab = Lab::new(2);
    lab.add_bridge();
    let container = lab.start_with("c", &["parent=lan0,driver=relay"], &[]);
    lab.plug(&container, 10);
    let inside = container.socket_on("eth0", PORT);
    inside.join(RUNNING);
    lab.wait_joined(&container, RUNNING);
    lab.wait_forwarded(RUNNING);
    let sender = lab.send(RUNNING, SOURCES[0], 200);
    let pane = lab.pane(80, 24);
    pane.line("mcrun top --interval 0.5");
    // A proxy that relays does not count what is lost.
    let lost = if notifications() { "0" } else { "-" };
    // Behind the sign of the selected row.
    pane.wait_until("200 packets a second", |screen| {
        rate(screen, RUNNING, 5).is_some_and(is_200)
            && has(screen, RUNNING, &["joined", "0s", lost])
    });
    drop(sender);
    pane.wait_until("its end", |screen| has(screen, RUNNING, &["DEAD", "0"]));
    pane.keys(&["Enter"]);
    let screen = pane.wait_for("Esc back");
    assert!(screen.contains("relay      relayed "), "{screen}");
}

#[test]
fn the_terminal_is_restored_by_whatever_ends_it() {
    let lab = Lab::new(3);
    let (_container, _inside) = joined(&lab);
    let pane = lab.pane(80, 24);
    let top = || {
        let is_top = |(pid, line): (i32, String)| {
            (line.starts_with("mcrun top") && !line.contains("sh ")).then_some(Pid::from_raw(pid))
        };
        lab.host_processes().into_iter().find_map(is_top)
    };
    type End<'e> = (&'e str, &'e dyn Fn(Pid));
    let signal = |signal| move |pid| kill(pid, signal).expect("it runs");
    let ends: [End<'_>; 4] = [
        ("Ctrl-C", &|_| pane.keys(&["C-c"])),
        ("SIGINT", &signal(Signal::SIGINT)),
        ("SIGTERM", &signal(Signal::SIGTERM)),
        ("SIGHUP", &signal(Signal::SIGHUP)),
    ];
    for (name, end) in ends {
        pane.line("clear; mcrun top; echo \"ended $?\"");
        pane.wait_for("QUERIER");
        assert_eq!(pane.variable("alternate_on"), "1", "{name}");
        end(wait_until("it runs", PATIENCE, top));
        pane.wait_for("ended 0");
        assert_restored(&pane);
    }
}

#[test]
fn it_goes_to_the_background_and_comes_back() {
    let lab = Lab::new(3);
    let (_container, _inside) = joined(&lab);
    let pane = lab.pane(80, 24);
    pane.line("clear; mcrun top");
    pane.wait_for("q quit");
    pane.keys(&["C-z"]);
    pane.wait_for("Stopped");
    assert_restored(&pane);
    pane.line("fg");
    pane.wait_for("q quit");
    pane.keys(&["s"]);
    pane.wait_for("by name, a to z");
    pane.keys(&["q"]);
    pane.wait_until("the shell", |screen| !screen.contains("by name"));
    assert_restored(&pane);
}

#[test]
fn without_colours_a_word_tells_what_is_dead() {
    let lab = Lab::new(3);
    let (_container, _inside) = joined(&lab);
    let pane = lab.pane(80, 24);
    for (setting, is_red) in [("", true), ("NO_COLOR=1 ", false)] {
        pane.line(&format!("clear; {setting}mcrun top"));
        pane.wait_until("two dead streams", |screen| {
            screen.contains("  2 DEAD  ")
                && [ENDED, RUNNING].iter().all(|group| has(screen, *group, &["DEAD"]))
        });
        let painted = pane.painted();
        assert_eq!(painted.contains("\x1b[38;5;1m"), is_red, "{painted:?}");
        assert_eq!(painted.contains("[38;"), is_red, "{painted:?}");
        pane.keys(&["q"]);
        pane.wait_until("the shell", |screen| !screen.contains("DEAD"));
    }
}

#[test]
fn what_cannot_be_shown_is_told_in_one_line() {
    let lab = Lab::new(3);
    let told = output(&mut lab.mcrun(["top"]));
    assert_eq!(told.status.code(), Some(1), "{told:?}");
    let line = String::from_utf8_lossy(&told.stderr);
    assert_eq!(line, "mcrun: top needs a terminal; mcrun groups shows the same once\n");
    assert!(told.stdout.is_empty(), "{told:?}");
    for interval in ["0", "1s", "-1", "4000"] {
        let told = output(&mut lab.mcrun(["top", &format!("--interval={interval}")]));
        assert_eq!(told.status.code(), Some(2), "{told:?}");
        assert_eq!(String::from_utf8_lossy(&told.stderr).lines().count(), 1, "{told:?}");
    }
    let pane = lab.pane(80, 24);
    for (number, (command, told)) in [
        ("mcrun top nobody", "mcrun: no such container: nobody"),
        (
            "TERM=dumb mcrun top",
            "mcrun: top needs a terminal that can move its cursor, not TERM=\"dumb\"",
        ),
        ("stty cols 0 rows 0; mcrun top", "set one, such as stty cols 80 rows 24;"),
    ]
    .into_iter()
    .enumerate()
    {
        pane.line(&format!("clear; {command}; echo \"run {number} $?\""));
        let screen = pane.wait_for(&format!("run {number} 1"));
        assert!(screen.contains(told), "{screen}");
    }
}
