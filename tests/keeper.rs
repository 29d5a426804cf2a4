//! The keeper: a proxy that is killed, hangs or loops costs no packet and no membership.
//!
//! `KEEPER_KILLS` sets how often a proxy is killed in each case; 100 takes about a minute each.

use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;

use crate::lab::{
    Background, Lab, PATIENCE, Udp, alive, assert_whole_while, kill, run, wait_until,
};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 8, 1, 1);
const DENIED: Ipv4Addr = Ipv4Addr::new(239, 8, 2, 1);
const PORT: u16 = 6000;

pub fn kills() -> u32 {
    std::env::var("KEEPER_KILLS").map_or(3, |text| text.parse().expect("a number of kills"))
}

pub fn keeper(lab: &Lab) -> Background {
    Background::start(&mut lab.mcrun(["keep", "--watchdog", "300ms", "--stable-after", "50ms"]))
}

/// A numbered stream, and a denied one beside it, reach each socket as they should until `changes`
/// returns: of the first each packet once, of the second none. The switch sees no leave and no IGMP
/// of a container.
fn assert_nothing_is_lost_during(lab: &Lab, sockets: &[&Udp], changes: impl FnOnce()) {
    let capture = lab.capture();
    let denied = |sender: &Udp| sender.send(b"denied", (DENIED, PORT));
    assert_whole_while(lab, sockets, (GROUP, PORT), denied, changes);
    lab.assert_nothing_was_left(&capture.finish());
}

/// Kills the proxies of containers that receive a stream, and lets the keeper replace them.
fn proxies_are_killed(version: u8, driver: &str, containers: u8) {
    let lab = Lab::new(version);
    if driver == "relay" {
        lab.add_bridge();
    }
    let _keeper = keeper(&lab);
    let containers: Vec<_> = (0..containers)
        .map(|number| match driver {
            "relay" => {
                let rules = format!("parent=lan0,driver=relay,deny={DENIED}");
                let container = lab.start_with(&format!("c{number}"), &[&rules], &[]);
                lab.plug(&container, 10 + number);
                container
            }
            _ => {
                let rules = format!("parent=lan0,ip=10.99.0.{}/24,deny={DENIED}", 11 + number);
                lab.start_with(&format!("c{number}"), &[&rules], &[])
            }
        })
        .collect();
    let interface = if driver == "relay" { "eth0" } else { "mc0" };
    let sockets: Vec<_> = containers
        .iter()
        .map(|container| {
            let socket = container.socket_on(interface, PORT);
            socket.join(GROUP);
            socket.join(DENIED);
            lab.wait_joined(container, GROUP);
            socket
        })
        .collect();
    // A program of the host has joined the denied group: the stream is on the parent.
    let neighbour = lab.socket("host", Ipv4Addr::UNSPECIFIED, PORT);
    neighbour.join(DENIED);
    lab.wait_forwarded(GROUP);
    lab.wait_forwarded(DENIED);
    for container in &containers {
        lab.wait_held(container);
    }
    assert_nothing_is_lost_during(&lab, &sockets.iter().collect::<Vec<_>>(), || {
        for _ in 0..kills() {
            for container in &containers {
                let proxy = lab.wait_held(container);
                kill(proxy);
                wait_until("a successor is held", PATIENCE, || {
                    (lab.wait_held(container) != proxy).then_some(())
                });
            }
        }
    });
    let (payload, _) = neighbour.receive(PATIENCE).expect("the denied stream is on the parent");
    assert_eq!(payload, b"denied");
    for container in &containers {
        lab.wait_joined(container, GROUP);
    }
}

#[test]
fn a_killed_proxy_costs_nothing_in_igmpv2() {
    proxies_are_killed(2, "macvlan", 1);
}

#[test]
fn a_killed_proxy_costs_nothing_in_igmpv3() {
    proxies_are_killed(3, "macvlan", 1);
}

#[test]
fn killed_proxies_of_two_containers_cost_nothing_in_igmpv2() {
    proxies_are_killed(2, "macvlan", 2);
}

#[test]
fn killed_proxies_of_two_containers_cost_nothing_in_igmpv3() {
    proxies_are_killed(3, "macvlan", 2);
}

#[test]
fn a_killed_proxy_with_a_relay_costs_nothing_in_igmpv2() {
    proxies_are_killed(2, "relay", 1);
}

#[test]
fn a_killed_proxy_with_a_relay_costs_nothing_in_igmpv3() {
    proxies_are_killed(3, "relay", 1);
}

#[test]
fn killed_proxies_of_two_relays_cost_nothing_in_igmpv2() {
    proxies_are_killed(2, "relay", 2);
}

#[test]
fn killed_proxies_of_two_relays_cost_nothing_in_igmpv3() {
    proxies_are_killed(3, "relay", 2);
}

#[test]
fn a_killed_keeper_costs_nothing_and_the_next_one_holds() {
    let lab = Lab::new(2);
    let mut keepers = vec![keeper(&lab)];
    let container = lab.start_with("c", &["parent=lan0,ip=10.99.0.11/24"], &[]);
    let socket = container.socket_on("mc0", PORT);
    socket.join(GROUP);
    lab.wait_joined(&container, GROUP);
    lab.wait_forwarded(GROUP);
    let mut proxy = lab.wait_held(&container);
    assert_nothing_is_lost_during(&lab, &[&socket], || {
        for _ in 0..kills() {
            let mut killed = keepers.pop().expect("a keeper");
            killed.signal(libc::SIGKILL);
            killed.wait(PATIENCE);
            wait_until("the proxy knows that nobody holds", PATIENCE, || {
                (lab.ps(&container)?["proxy"]["held"] == false).then_some(())
            });
            keepers.push(keeper(&lab));
            assert_eq!(lab.wait_held(&container), proxy);
            // What the next keeper holds is enough.
            kill(proxy);
            wait_until("a successor is held", PATIENCE, || {
                (lab.wait_held(&container) != proxy).then_some(())
            });
            proxy = lab.wait_held(&container);
        }
    });
}

#[test]
fn a_hung_proxy_and_a_killed_keeper_cost_nothing() {
    let lab = Lab::new(2);
    let mut first = keeper(&lab);
    let container = lab.start_with("c", &["parent=lan0,ip=10.99.0.11/24"], &[]);
    let socket = container.socket_on("mc0", PORT);
    socket.join(GROUP);
    lab.wait_joined(&container, GROUP);
    lab.wait_forwarded(GROUP);
    let proxy = lab.wait_held(&container);
    let mut _second = None;
    assert_nothing_is_lost_during(&lab, &[&socket], || {
        // SAFETY: a system call; the process is the lab's.
        unsafe { libc::kill(proxy, libc::SIGSTOP) };
        wait_until("the hung proxy is replaced", PATIENCE, || {
            (!alive(proxy) && lab.wait_held(&container) != proxy).then_some(())
        });
        let successor = lab.wait_held(&container);
        first.signal(libc::SIGKILL);
        first.wait(PATIENCE);
        wait_until("the proxy knows that nobody holds", PATIENCE, || {
            (lab.ps(&container)?["proxy"]["held"] == false).then_some(())
        });
        _second = Some(keeper(&lab));
        assert_eq!(lab.wait_held(&container), successor);
        kill(successor);
        wait_until("a successor is held", PATIENCE, || {
            (lab.wait_held(&container) != successor).then_some(())
        });
    });
}

/// The keeper hears of both only when it goes on: that the old proxy was replaced, and that the new one,
/// of which it holds nothing, is dead.
#[test]
fn a_successor_of_a_reload_that_dies_before_it_is_held_costs_nothing() {
    for version in [2, 3] {
        let lab = Lab::new(version);
        let keeper = keeper(&lab);
        let container = lab.start_with("c", &["parent=lan0,ip=10.99.0.11/24"], &[]);
        let socket = container.socket_on("mc0", PORT);
        socket.join(GROUP);
        lab.wait_joined(&container, GROUP);
        lab.wait_forwarded(GROUP);
        assert_nothing_is_lost_during(&lab, &[&socket], || {
            for round in 0..kills() {
                let proxy = lab.wait_held(&container);
                keeper.signal(libc::SIGSTOP);
                lab.configure(&format!("[groups]\nmax-groups = {}\n", 100 + round));
                run(&mut lab.mcrun(["reload"]));
                let successor = lab.proxy_pid(&container);
                assert_ne!(successor, proxy);
                kill(successor);
                keeper.signal(libc::SIGCONT);
                wait_until("a successor is held", PATIENCE, || {
                    let held = lab.wait_held(&container);
                    (![proxy, successor].contains(&held)).then_some(())
                });
            }
        });
    }
}

#[test]
fn a_container_that_ends_while_its_proxy_is_dead_leaves_nothing() {
    let lab = Lab::new(3);
    // A proxy is in a crash loop at once, so that there is a time without one.
    let keeper = Background::start(&mut lab.mcrun(["keep", "--stable-after", "1h"]));
    let container = lab.start("c", "10.99.0.11");
    let socket = container.socket_on("mc0", PORT);
    socket.join(GROUP);
    lab.wait_joined(&container, GROUP);
    for _ in 0..6 {
        kill(lab.wait_held(&container));
    }
    drop(socket);
    lab.delete(&container);
    wait_until("the host leaves", PATIENCE, || (!lab.host_joins().contains(&GROUP)).then_some(()));
    drop(keeper);
    lab.assert_clean(PATIENCE);
}

#[test]
fn the_keeper_follows_a_change_of_the_range_of_users() {
    let lab = Lab::new(3);
    let _keeper = keeper(&lab);
    let container = lab.start("c", "10.99.0.11");
    let user = |pid: i32| std::fs::metadata(format!("/proc/{pid}")).expect("it runs").uid();
    for number in 0..2 {
        let proxy = lab.wait_held(&container);
        let first = 1_800_000_000 + std::process::id() % 100_000 * 100 + number * 10;
        lab.configure(&format!("[proxy]\nuids = \"{first}-{}\"\n", first + 9));
        kill(proxy);
        let successor = wait_until("a successor is held", PATIENCE, || {
            Some(lab.wait_held(&container)).filter(|successor| *successor != proxy)
        });
        assert!((first..first + 10).contains(&user(successor)), "{}", user(successor));
    }
}
