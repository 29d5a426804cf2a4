//! What only containers have joined does not reach the sockets of the host, where a keeper runs.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::lab::{
    Background, Container, Lab, PATIENCE, SOURCES, Udp, assert_whole, kill, run, stream, wait_until,
};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 5, 1, 1);
const PORT: u16 = 5000;
/// Address of the host on the LAN.
const HOST: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
const COUNT: u32 = 400;
/// Marker of those that have joined.
const END: &str = "end";
/// Marker for a socket of the host, sent behind all else.
const HOST_END: &str = "end of the host";
/// From the join of a program of the host on, until all packets reach the program.
const LIMIT: Duration = Duration::from_secs(1);

fn keeper(lab: &Lab) -> Background {
    Background::start(&mut lab.mcrun(["keep", "--watchdog", "300ms", "--stable-after", "50ms"]))
}

/// A socket as docker's proxy has one for a published port: on all addresses, joined to nothing.
fn bystander(lab: &Lab) -> Udp {
    let socket = lab.socket("host", Ipv4Addr::UNSPECIFIED, PORT);
    SockRef::from(&socket.socket).set_multicast_all_v4(true).expect("IP_MULTICAST_ALL");
    socket
}

fn joined(lab: &Lab, container: &Container) -> Udp {
    let socket = container.socket_on("mc0", PORT);
    socket.join(GROUP);
    lab.wait_joined(container, GROUP);
    lab.wait_forwarded(GROUP);
    socket
}

/// The rules of the host's namespace.
fn rules(lab: &Lab) -> String {
    run(lab.enter("host", "nft").args(["list", "ruleset"]))
}

fn is_fenced(lab: &Lab) -> bool {
    rules(lab).contains(&GROUP.to_string())
}

fn wait_fenced(lab: &Lab, fenced: bool) {
    wait_until(&format!("fenced: {fenced}"), PATIENCE, || (is_fenced(lab) == fenced).then_some(()));
}

/// A stream to the group, and a marker behind it that everybody gets.
fn send(lab: &Lab) {
    let sender = lab.socket("src", SOURCES[0], 0);
    stream(&sender, "in", COUNT, (GROUP, PORT));
    sender.send(END.as_bytes(), (GROUP, PORT));
    sender.send(HOST_END.as_bytes(), (HOST, PORT));
}

fn assert_all(socket: &Udp) {
    assert_whole(&socket.receive_until(END), "in", COUNT, SOURCES[0]);
}

fn assert_nothing(socket: &Udp) {
    let received = socket.receive_until(HOST_END);
    assert_eq!(received.len(), 0, "packets of {COUNT} at a socket that has joined nothing");
}

#[test]
fn what_two_containers_have_joined_reaches_no_socket_of_the_host() {
    let lab = Lab::new(3);
    let _keeper = keeper(&lab);
    let bystander = bystander(&lab);
    let containers = [lab.start("c0", "10.99.0.11"), lab.start("c1", "10.99.0.12")];
    let sockets: Vec<_> = containers.iter().map(|c| joined(&lab, c)).collect();
    containers.iter().for_each(|container| _ = lab.wait_held(container));
    wait_fenced(&lab, true);
    send(&lab);
    sockets.iter().for_each(assert_all);
    assert_nothing(&bystander);

    // The proxies are replaced, and nothing reaches the host afterwards either.
    let proxy = lab.wait_held(&containers[0]);
    kill(proxy);
    wait_until("a successor is held", PATIENCE, || {
        (lab.wait_held(&containers[0]) != proxy).then_some(())
    });
    wait_fenced(&lab, true);
    send(&lab);
    sockets.iter().for_each(assert_all);
    assert_nothing(&bystander);

    // Each query is answered: the rules are about data alone.
    lab.query();
    lab.wait_forwarded(GROUP);
    drop(sockets);
    wait_fenced(&lab, false);
    assert!(!rules(&lab).contains("mcrun"), "an empty table stays: {}", rules(&lab));
}

#[test]
fn a_program_of_the_host_that_joins_after_a_container_gets_all_within_a_second() {
    let lab = Lab::new(3);
    let _keeper = keeper(&lab);
    let container = lab.start("c", "10.99.0.11");
    let socket = joined(&lab, &container);
    lab.wait_held(&container);
    wait_fenced(&lab, true);
    let program = lab.socket("host", Ipv4Addr::UNSPECIFIED, PORT);
    let since = Instant::now();
    program.join(GROUP);
    // By packets, since nft(8) takes its time.
    let sender = lab.socket("src", SOURCES[0], 0);
    wait_until("the program hears the group", PATIENCE, || {
        sender.send(b"early", (GROUP, PORT));
        program.receive(Duration::from_millis(10))
    });
    let time = since.elapsed();
    assert!(time < LIMIT, "{time:?}");
    sender.send(b"begin", (GROUP, PORT));
    let _ = (program.receive_until("begin"), socket.receive_until("begin"));
    send(&lab);
    assert_all(&program);
    assert_nothing(&program);
    assert_all(&socket);

    // Once the program has ended, the fence is there again.
    drop(program);
    wait_fenced(&lab, true);
    let bystander = bystander(&lab);
    send(&lab);
    assert_nothing(&bystander);
    assert_all(&socket);
}

#[test]
fn a_program_of_the_host_that_has_joined_before_loses_nothing() {
    let lab = Lab::new(3);
    let _keeper = keeper(&lab);
    let program = lab.socket("host", Ipv4Addr::UNSPECIFIED, PORT);
    program.join(GROUP);
    lab.wait_forwarded(GROUP);
    let sender = lab.socket("src", SOURCES[0], 0);
    let container = lab.start("c", "10.99.0.11");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let receiving = scope.spawn(|| program.receive_until(END));
        let sending = scope.spawn(|| {
            let mut count = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                sender.send(format!("in {count}").as_bytes(), (GROUP, PORT));
                count += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
            sender.send(END.as_bytes(), (GROUP, PORT));
            count
        });
        let socket = joined(&lab, &container);
        lab.wait_held(&container);
        // As long as a fence would take to come.
        let marked = Ipv4Addr::new(239, 5, 1, 2);
        socket.join(marked);
        wait_until("the other group is fenced", PATIENCE, || {
            rules(&lab).contains(&marked.to_string()).then_some(())
        });
        assert!(!is_fenced(&lab), "{}", rules(&lab));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let count = sending.join().expect("it has sent");
        assert_whole(&receiving.join().expect("received"), "in", count, SOURCES[0]);
    });
}

/// The rules would follow the relay's join, and the relay would lose what comes before.
#[test]
fn where_a_relay_hears_nothing_is_fenced() {
    let lab = Lab::new(3);
    lab.add_bridge();
    let _keeper = keeper(&lab);
    let container = lab.start("c", "10.99.0.11");
    let socket = joined(&lab, &container);
    lab.wait_held(&container);
    wait_fenced(&lab, true);
    let relayed = lab.start_with("r", &["parent=lan0,driver=relay"], &[]);
    wait_fenced(&lab, false);
    lab.plug(&relayed, 10);
    let inside = relayed.socket_on("eth0", PORT);
    inside.join(GROUP);
    lab.wait_joined(&relayed, GROUP);
    lab.wait_held(&relayed);
    let sender = lab.socket("src", SOURCES[0], 0);
    stream(&sender, "in", COUNT, (GROUP, PORT));
    sender.send(END.as_bytes(), (GROUP, PORT));
    assert_all(&socket);
    assert_all(&inside);
    lab.delete(&relayed);
    wait_fenced(&lab, true);
}

#[test]
fn a_keeper_that_dies_and_one_that_may_not_fence_leave_no_rules() {
    let lab = Lab::new(3);
    let mut killed = keeper(&lab);
    let container = lab.start("c", "10.99.0.11");
    let socket = joined(&lab, &container);
    lab.wait_held(&container);
    wait_fenced(&lab, true);
    killed.signal(libc::SIGKILL);
    killed.wait(PATIENCE);
    wait_fenced(&lab, false);
    let bystander = bystander(&lab);
    let keeper = keeper(&lab);
    wait_fenced(&lab, true);
    drop(keeper);

    lab.configure("[keeper]\nfence = false\n");
    let _keeper = self::keeper(&lab);
    lab.wait_held(&container);
    send(&lab);
    assert_all(&socket);
    assert_all(&bystander);
    assert_nothing(&bystander);
    assert!(!is_fenced(&lab));
}
