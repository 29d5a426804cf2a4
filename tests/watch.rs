//! `mcrun watch`: one stream of a container as it arrives.

use std::fs;
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::counting::{rtp, seven_out_and_two_swapped};
use crate::lab::{Background, Container, Lab, PATIENCE, SOURCES, output, run, wait_until};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 78, 1, 1);
const PORT: u16 = 5004;

/// The measurements so far.
fn measurements(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).expect("the output");
    // The last line may not be whole yet.
    text.split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

/// Packets of two thousand numbers, without seven and with two swapped, are what a watch shows.
fn shows_seven_lost_and_two_reordered(lab: &Lab, container: &Container, interface: &str) {
    let inside = container.socket_on(interface, PORT);
    inside.join(GROUP);
    lab.wait_joined(container, GROUP);
    lab.wait_forwarded(GROUP);
    let users = || run(container.enter("cat").arg("/proc/net/igmp")).lines().count();
    let before = users();
    let file = lab.directory().join("watch.json");
    let group = format!("{GROUP}:{PORT}");
    let mut command = lab.mcrun(["watch", &container.name, &group, "--interval", "50ms", "--json"]);
    let mut watch = Background::start(command.stdout(File::create(&file).expect("a file")));
    wait_until("it measures", PATIENCE, || measurements(&file).first().cloned());
    assert_eq!(users(), before, "a watch joins nothing");

    let numbers = seven_out_and_two_swapped();
    let sender = lab.socket("src", SOURCES[0], 0);
    // Nor does it show what the container sends itself, or what comes to another port.
    let own = container.socket_on(interface, 0);
    for (at, number) in numbers.iter().enumerate() {
        sender.send(&rtp(*number, 0xfeed), (GROUP, PORT));
        if at % 100 == 0 {
            own.send(&rtp(*number, 0xdead), (GROUP, PORT));
            sender.send(b"elsewhere", (GROUP, PORT + 1));
        }
        if at % 20 == 0 {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    let sent = numbers.len() as u64;
    let last = wait_until("all has come", PATIENCE, || {
        let all = measurements(&file);
        all.iter().find(|line| line["total"]["packets"].as_u64() >= Some(sent)).cloned()
    });
    let total = &last["total"];
    assert_eq!(total["packets"], sent, "{last:#}");
    assert_eq!(total["bytes"], sent * rtp(0, 0).len() as u64, "{last:#}");
    let counts = ["lost", "reordered", "duplicated", "kernel_dropped"].map(|n| total[n].as_u64());
    assert_eq!(counts, [7, 2, 0, 0].map(Some), "{last:#}");
    let all = measurements(&file);
    let sum = |name: &str| all.iter().filter_map(|line| line[name].as_u64()).sum::<u64>();
    assert_eq!(sum("packets"), sent);
    assert!(all.iter().any(|line| line["media_loss_rate"].as_f64() > Some(0.0)));
    let is_known = |name: &str| all.iter().any(|line| line[name].as_f64() > Some(0.0));
    for name in ["jitter_ms", "delay_factor_ms", "longest_gap_ms", "packet_rate", "byte_rate"] {
        assert!(is_known(name), "{name}: {last:#}");
    }
    assert_eq!((&last["interface"], &last["port"]), (&interface.into(), &PORT.into()));
    watch.signal(libc::SIGINT);
    assert!(watch.wait(PATIENCE).success());
}

#[test]
fn seven_packets_taken_out_and_two_swapped_are_seven_lost_and_two_reordered() {
    let lab = Lab::new(3);
    let container = lab.start("c", "10.99.0.11");
    shows_seven_lost_and_two_reordered(&lab, &container, "mc0");
}

#[test]
fn the_same_arrives_by_a_relay() {
    let lab = Lab::new(2);
    lab.add_bridge();
    let container = lab.start_with("c", &["parent=lan0,driver=relay"], &[]);
    lab.plug(&container, 10);
    shows_seven_lost_and_two_reordered(&lab, &container, "eth0");
}

#[test]
fn people_are_told_in_lines_and_which_groups_there_are() {
    let lab = Lab::new(3);
    let container = lab.start("c", "10.99.0.11");
    let error = |arguments: &[&str]| {
        let mut all = vec!["watch", &container.name];
        all.extend(arguments);
        let done = output(&mut lab.mcrun(all));
        assert_eq!(done.status.code(), Some(125), "{done:?}");
        String::from_utf8(done.stderr).expect("text")
    };
    let name = &container.name;
    assert_eq!(error(&[]), format!("mcrun: {name} has joined no group\n"));
    let inside = container.socket_on("mc0", PORT);
    inside.join(GROUP);
    lab.wait_joined(&container, GROUP);
    let told = output(&mut lab.mcrun(["watch", name, "--interval", "20ms", "--count", "3"]));
    assert!(told.status.success(), "{told:?}");
    let lines = String::from_utf8(told.stdout).expect("text");
    assert_eq!(lines.lines().count(), 4, "{lines}");
    assert!(lines.trim_start().starts_with("TIME "), "{lines}");
    assert!(lines.lines().skip(1).all(|line| line.ends_with(" -:-")), "{lines}");
    let told = String::from_utf8(told.stderr).expect("text");
    assert_eq!(told, format!("mcrun watch: {name}: {GROUP} at mc0 from any: joined\n"));
    let other = Ipv4Addr::new(239, 78, 1, 2);
    assert_eq!(
        error(&[&other.to_string()]),
        format!("mcrun: {name} has not joined {other}; it has joined {GROUP} at mc0\n")
    );
    inside.join(other);
    lab.wait_joined(&container, other);
    let several = format!("mcrun: {name} has joined {GROUP} at mc0, {other} at mc0: name one\n");
    assert_eq!(error(&[]), several);
    // It ends with the container.
    let mut watch = Background::start(&mut lab.mcrun(["watch", name, "239.78.1.1"]));
    lab.delete(&container);
    watch.wait(PATIENCE);
}

#[test]
fn on_a_terminal_one_line_is_written_again() {
    let lab = Lab::new(3);
    let container = lab.start("c", "10.99.0.11");
    let inside = container.socket_on("mc0", PORT);
    inside.join(GROUP);
    lab.wait_joined(&container, GROUP);
    // Wide enough, and narrower than the line.
    for columns in [80, 50] {
        let pane = lab.pane(columns, 24);
        let name = &container.name;
        let command = format!("mcrun watch {name} --interval 20ms --count 20");
        pane.line(&format!("clear; {command} 2>&1; echo \"ended $?\""));
        let screen = pane.wait_for("ended 0");
        let lines: Vec<_> = screen.lines().map(str::trim_start).collect();
        let heading = lines.iter().position(|line| line.starts_with("TIME ")).expect("a heading");
        assert!(lines[heading].contains("RATE"), "{screen}");
        assert_eq!(lines[heading].contains("MDI"), columns == 80, "{screen}");
        assert!(lines[heading + 1].starts_with("0 s "), "{screen}");
        assert_eq!(lines[heading + 2], "ended 0", "{screen}");
    }
}
