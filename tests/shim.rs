//! `mcrun shim`: the host's own leg on a parent, by which it and the containers reach each other.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

use crate::chaos::random::Random;
use crate::chaos::stepper::{Moment, run_until};
use crate::lab::{
    self, Container, HOST, Lab, PARENT, PATIENCE, SOURCES, Udp, assert_whole, output, run, stream,
    wait_until,
};

const SHIM: &str = "mcshim-lan0";
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 7, 1, 1);
const PORT: u16 = 5004;
const CONTAINER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 11);
const COUNT: u32 = 200;

/// `mcrun shim ls`.
fn shims(lab: &Lab) -> Value {
    lab::json(&mut lab.mcrun(["shim", "ls", "--json"]))
}

/// The routes through the shim, as the kernel has them.
fn routes(lab: &Lab) -> Vec<String> {
    let routes = lab::json(lab.enter("host", "ip").args(["-j", "route", "show", "dev", SHIM]));
    let routes = routes.as_array().into_iter().flatten();
    routes.map(|route| route["dst"].as_str().expect("a destination").to_owned()).collect()
}

/// What `mcrun ARGUMENTS` says when it is refused with this status: one line.
fn refusal(lab: &Lab, status: i32, arguments: &[&str]) -> String {
    let output = output(&mut lab.mcrun(arguments));
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    errors
}

fn assert_ping(lab: &Lab, container: &Container, host: Ipv4Addr) {
    let busybox = lab::busybox();
    let count = ["ping", "-c", "3", "-W", "5"];
    run(lab.enter("host", &busybox).args(count).arg(CONTAINER.to_string()));
    run(container.enter("/bin/busybox").args(count).arg(host.to_string()));
}

/// A connection from a namespace to a listener in another one.
fn assert_tcp(
    listening: impl FnOnce() -> TcpListener,
    connect: impl FnOnce(SocketAddr) -> TcpStream,
) {
    let listener = listening();
    let mut there = connect(listener.local_addr().expect("an address"));
    let (mut here, _) = listener.accept().expect("a connection");
    there.write_all(b"hello").expect("written");
    drop(there);
    let mut text = String::new();
    here.read_to_string(&mut text).expect("read");
    assert_eq!(text, "hello");
}

/// Multicast of a socket to another one, each packet once.
fn assert_arrives(from: &Udp, to: &[&Udp], source: Ipv4Addr) {
    std::thread::scope(|scope| {
        let receiving: Vec<_> =
            to.iter().map(|socket| scope.spawn(|| socket.receive_until("end"))).collect();
        stream(from, "s", COUNT, (GROUP, PORT));
        from.send(b"end", (GROUP, PORT));
        for received in receiving {
            assert_whole(&received.join().expect("received"), "s", COUNT, source);
        }
    });
}

fn on_shim(lab: &Lab, port: u16) -> Udp {
    Udp::open(&lab.net("host"), Ipv4Addr::UNSPECIFIED, port, SHIM)
}

#[test]
fn host_and_container_reach_each_other_and_nothing_comes_twice() {
    for own in [None, Some(Ipv4Addr::new(10, 99, 0, 9))] {
        let lab = Lab::new(2);
        let mut add = vec!["shim".to_owned(), "add".to_owned(), PARENT.to_owned()];
        add.extend(own.iter().flat_map(|address| ["--ip".to_owned(), address.to_string()]));
        let first = lab.start("first", "10.99.0.10");
        assert_eq!(run(&mut lab.mcrun(&add)), format!("{SHIM}\n"));
        // The same again changes nothing.
        assert_eq!(run(&mut lab.mcrun(&add)), format!("{SHIM}\n"));
        assert_eq!(routes(&lab), ["10.99.0.10"]);
        let container = lab.start("second", &CONTAINER.to_string());
        assert_eq!(routes(&lab), ["10.99.0.10", "10.99.0.11"]);
        let host = own.unwrap_or(HOST);
        assert_ping(&lab, &container, host);
        // The host's address on the parent is there in both cases.
        assert_ping(&lab, &container, HOST);
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let listen = || TcpListener::bind(any).expect("bound");
        assert_tcp(
            || container.namespace().run(listen).expect("entered"),
            |at| {
                let to = SocketAddr::from((CONTAINER, at.port()));
                lab.run_in("host", || TcpStream::connect(to)).expect("connected")
            },
        );
        assert_tcp(
            || lab.run_in("host", listen),
            |at| {
                let to = SocketAddr::from((host, at.port()));
                container
                    .namespace()
                    .run(|| TcpStream::connect(to))
                    .expect("entered")
                    .expect("connected")
            },
        );

        let capture = lab.capture();
        let inside = container.socket_on("mc0", PORT);
        inside.join(GROUP);
        lab.wait_joined(&container, GROUP);
        let outside = on_shim(&lab, PORT);
        outside.join(GROUP);
        // Of a program that takes what any other one has joined, and is on the parent itself.
        let on_parent = Udp::open(&lab.net("host"), Ipv4Addr::UNSPECIFIED, PORT, PARENT);
        on_parent.socket.set_nonblocking(false).expect("blocking");
        socket2::SockRef::from(&on_parent.socket).set_multicast_all_v4(true).expect("set");
        on_parent.join(GROUP);
        lab.wait_forwarded(GROUP);
        // From the LAN: to the container, and to the host by its parent alone.
        let far = lab.socket("src", SOURCES[0], 0);
        assert_arrives(&far, &[&inside, &on_parent], SOURCES[0]);
        // From the container to the host, and back.
        let sending = container.socket_on("mc0", 0);
        assert_arrives(&sending, &[&inside, &outside, &on_parent], CONTAINER);
        assert_arrives(&on_shim(&lab, 0), &[&inside, &outside, &on_parent], host);
        drop((outside, on_parent, inside));
        lab.wait_left(&container, GROUP);
        lab.assert_one_igmp_host(&capture.finish());
        // Nobody of the LAN has learnt that the host's address is the shim's.
        let neighbours =
            lab::json(lab.enter("src", "ip").args(["-j", "neigh", "show", &HOST.to_string()]));
        for neighbour in neighbours.as_array().into_iter().flatten() {
            let mac = neighbour["lladdr"].as_str();
            assert!(mac.is_none_or(|mac| mac == lab.host_mac()), "{neighbour}");
        }

        lab.delete(&first);
        assert_eq!(routes(&lab), ["10.99.0.11"]);
        run(&mut lab.mcrun(["detach", &container.id]));
        assert_eq!(routes(&lab), [""; 0]);
        lab.delete(&container);
        assert_eq!(run(&mut lab.mcrun(["shim", "rm", PARENT])), format!("{PARENT}\n"));
        assert_eq!(shims(&lab), json!([]));
        assert_eq!(run(&mut lab.mcrun(["gc"])), "");
        lab.assert_clean(PATIENCE);
    }
}

#[test]
fn what_is_shown_and_a_link_or_rules_that_somebody_has_removed_come_back() {
    let lab = Lab::new(3);
    run(&mut lab.mcrun(["shim", "add", PARENT, "--ip", "10.99.0.9", "--ip", "2001:db8::9"]));
    let both = "parent=lan0,ip=10.99.0.11/24,ip=2001:db8::11/64";
    let container = lab.start_with("c", &[both], &[]);
    let shown = shims(&lab);
    assert_eq!(
        shown,
        json!([{
            "parent": PARENT,
            "interface": SHIM,
            "addresses": ["10.99.0.9", "2001:db8::9"],
            "routes": ["10.99.0.11", "2001:db8::11"],
            "state": "up",
        }])
    );
    let busybox = lab::busybox();
    run(lab.enter("host", &busybox).args(["ping", "-6", "-c", "2", "-W", "5", "2001:db8::11"]));
    run(container.enter("/bin/busybox").args(["ping", "-6", "-c", "2", "-W", "5", "2001:db8::9"]));
    let table = run(&mut lab.mcrun(["shim", "ls"]));
    assert!(table.contains("lan0    mcshim-lan0  10.99.0.9 2001:db8::9  2       up"), "{table}");
    // It is no parent.
    let parents = lab::json(&mut lab.mcrun(["parents", "--json"]));
    let parents = parents.as_array().expect("an array");
    assert!(parents.iter().all(|parent| parent["parent"] != SHIM), "{parents:?}");
    let host = lab::json(&mut lab.mcrun(["host", "--json"]));
    let of_it: Vec<_> = host
        .as_array()
        .expect("an array")
        .iter()
        .filter(|change| change["owner"] == "mcrun shim")
        .map(|change| (change["what"].clone(), change["remove"].clone()))
        .collect();
    let remove = json!("mcrun shim rm lan0");
    let link = json!("mcshim-lan0 (macvlan) on lan0");
    let rules = json!("table inet mcshim-lan0, on the host");
    assert_eq!(of_it, [(link, remove.clone()), (rules, remove)]);

    lab.ip("host", &format!("link del {SHIM}"));
    assert_eq!(shims(&lab)[0]["state"], "missing");
    run(lab.enter("host", "nft").args(["delete", "table", "inet", SHIM]));
    run(&mut lab.mcrun(["reload"]));
    assert_eq!(shims(&lab), shown);
    lab.ip("host", &format!("route del 10.99.0.11 dev {SHIM}"));
    assert_eq!(run(&mut lab.mcrun(["gc"])), "");
    assert_eq!(shims(&lab), shown);
    run(lab.enter("host", "nft").args(["list", "table", "inet", SHIM]));
    lab.delete(&container);
    run(&mut lab.mcrun(["shim", "rm", PARENT]));
    lab.assert_clean(PATIENCE);
}

#[test]
fn what_cannot_be_is_refused_in_one_line_and_leaves_nothing() {
    let lab = Lab::new(2);
    let container = lab.start("c", "10.99.0.11");
    let refused = |status: i32, parent: &str, more: &[&str]| {
        refusal(&lab, status, &[&["shim", "add", parent], more].concat())
    };
    let add = |parent: &str, more: &[&str]| refused(125, parent, more);
    let both = ["--ip", "10.99.0.8", "--ip", "10.99.0.9"];
    for (status, parent, more, words) in [
        (
            125,
            "lan1",
            &[][..],
            "parent=lan1: the host has no interface of this name; did you mean lan0?",
        ),
        (125, "lo", &[], "parent=lo: this is the loopback interface"),
        (2, PARENT, &["--ip", "10.99.0.9/24"], "give the address alone, 10.99.0.9"),
        (2, PARENT, &["--ip", "lan0"], "not an address, as in 192.0.2.7"),
        (2, PARENT, &both, "give one address of each family"),
        (125, PARENT, &["--ip", "10.99.0.11"], "this is the address of container"),
        (125, PARENT, &["--ip", "10.99.0.2"], "10.99.0.2 is the host's own address, on lan0"),
        (125, PARENT, &["--ip", "10.99.0.3"], "--ip 10.99.0.3: in use on lan0, by "),
    ] {
        let errors = refused(status, parent, more);
        assert!(errors.contains(words), "{parent} {more:?}: {errors}");
    }
    lab.delete(&container);
    lab.ip("host", &format!("link add alone link {PARENT} type macvlan mode passthru"));
    let errors = add(PARENT, &[]);
    assert!(errors.contains("a passthru child takes the parent for itself"), "{errors}");
    lab.ip("host", "link del alone");
    lab.ip("host", &format!("link add {SHIM} type bridge"));
    let errors = add(PARENT, &[]);
    assert!(errors.contains("the host has another link mcshim-lan0"), "{errors}");
    assert_eq!(run(&mut lab.mcrun(["gc"])), "");
    lab.ip("host", &format!("link del {SHIM}"));
    lab.ip("host", &format!("addr flush dev {PARENT}"));
    let errors = add(PARENT, &[]);
    assert!(errors.contains("lan0 has no IPv4 address"), "{errors}");
    let errors = refusal(&lab, 1, &["shim", "rm", PARENT]);
    assert!(errors.contains("lan0 has no shim"), "{errors}");
    run(&mut lab.mcrun(["shim", "add", PARENT, "--ip", "10.99.0.9"]));
    let errors = add(PARENT, &["--ip", "10.99.0.8"]);
    assert!(errors.contains("lan0 has a shim with 10.99.0.9; mcrun shim rm lan0"), "{errors}");
    // Nobody gets the host's address.
    let taken = lab.try_start("taken", &["parent=lan0,ip=10.99.0.9/24"], &[]);
    let errors = String::from_utf8_lossy(&taken.stderr).into_owned();
    assert!(errors.contains("10.99.0.9 is the host's own address"), "{errors}");
    run(&mut lab.mcrun(["shim", "rm", PARENT]));
    lab.assert_clean(PATIENCE);
}

#[test]
fn a_shim_is_one_state_directorys() {
    let lab = Lab::new(2);
    let another = |arguments: &[&str]| {
        let mut command = lab.mcrun(arguments);
        command.env("MCRUN_STATE_DIR", lab.directory().join("another"));
        command
    };
    run(&mut lab.mcrun(["shim", "add", PARENT]));
    let container = lab.start("c", "10.99.0.11");
    let shown = shims(&lab);
    assert_eq!(run(&mut another(&["gc"])), "");
    assert_eq!(shims(&lab), shown);
    run(lab.enter("host", "nft").args(["list", "table", "inet", SHIM]));
    let refused = output(&mut another(&["shim", "add", PARENT]));
    let errors = String::from_utf8_lossy(&refused.stderr).into_owned();
    let words = "the host has mcshim-lan0 already, which no record of this state directory names";
    assert!(!refused.status.success() && errors.contains(words), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    let state = lab.state_dir().display().to_string();
    assert!(errors.contains(&format!("(mcrun {state})")), "{errors}");
    assert_eq!(run(&mut another(&["gc"])), "");
    assert_eq!(shims(&lab), shown);
    let host = run(&mut another(&["host"]));
    assert!(host.contains(&format!("alias mcrun {state}")), "{host}");

    // One of an earlier version is that of whoever has a record of it.
    lab.ip("host", &format!("link set {SHIM} alias mcrun"));
    assert_eq!(run(&mut another(&["gc"])), "");
    assert_eq!(run(&mut lab.mcrun(["gc"])), "");
    assert_eq!(shims(&lab), shown);
    let links = lab::json(lab.enter("host", "ip").args(["-j", "link", "show", SHIM]));
    assert_eq!(links[0]["ifalias"], format!("mcrun {state}"));

    // The record is lost.
    std::fs::remove_dir_all(lab.state_dir().join("shims")).expect("removed");
    assert_eq!(run(&mut another(&["gc"])), "");
    assert_eq!(run(&mut lab.mcrun(["gc"])), format!("{SHIM}\n"));
    let tables = run(lab.enter("host", "nft").args(["list", "tables"]));
    assert!(!tables.contains(SHIM), "{tables}");
    lab.delete(&container);
    lab.assert_clean(PATIENCE);
}

#[test]
fn a_shim_whose_parent_comes_back_comes_back_with_it() {
    let lab = Lab::new(2);
    lab.ip("host", "link add up0 type veth peer name up1");
    lab.ip("host", "link set up0 up");
    // A name of 15 bytes has no room for the parent's.
    lab.ip("host", "link set up1 name up1-of-a-parent up");
    lab.ip("host", "addr add 192.0.2.1/24 dev up1-of-a-parent");
    let named = run(&mut lab.mcrun(["shim", "add", "up1-of-a-parent"]));
    let index = lab.link("up1-of-a-parent")["ifindex"].clone();
    assert_eq!(named, format!("mcshim-{index}\n"));
    lab.ip("host", "link del up0");
    assert_eq!(shims(&lab)[0]["state"], "missing");
    run(&mut lab.mcrun(["reload"]));
    assert_eq!(shims(&lab)[0]["state"], "missing");
    lab.ip("host", "link add up0 type veth peer name up1-of-a-parent");
    lab.ip("host", "link set up0 up");
    lab.ip("host", "link set up1-of-a-parent up");
    let container = lab.start("c", "10.99.0.11");
    assert_eq!(shims(&lab)[0]["state"], "up");
    lab.delete(&container);
    run(&mut lab.mcrun(["shim", "rm", "up1-of-a-parent"]));
    lab.ip("host", "link del up0");
    lab.assert_clean(PATIENCE);
}

#[test]
fn a_shim_whose_making_or_removal_is_killed_leaves_nothing_that_gc_does_not_find() {
    const KILLS: u32 = 60;
    let lab = Lab::new(2);
    let container = lab.start("c", "10.99.0.11");
    run(&mut lab.mcrun(["shim", "add", PARENT]));
    run(&mut lab.mcrun(["shim", "rm", PARENT]));
    let settled = lab.leftovers();
    let seed: u64 = std::process::id().into();
    println!("seed {seed}");
    let mut random = Random(seed | 1);
    let to_the_end = Moment { stop: u64::MAX, after: Duration::ZERO };
    let steps = |command: [&str; 3], moment| run_until(&mut lab.mcrun(command), None, moment);
    let lengths = [
        steps(["shim", "add", PARENT], to_the_end).stops,
        steps(["shim", "rm", PARENT], to_the_end).stops,
    ];
    let mut killed = 0;
    for round in 0..KILLS {
        let is_removal = round % 2 == 1;
        if is_removal {
            run(&mut lab.mcrun(["shim", "add", PARENT]));
        }
        let command = ["shim", if is_removal { "rm" } else { "add" }, PARENT];
        let stop = random.below(lengths[usize::from(is_removal)]);
        let outcome = steps(command, Moment { stop, after: Duration::ZERO });
        killed += u32::from(outcome.is_killed);
        run(&mut lab.mcrun(["gc"]));
        assert_eq!(run(&mut lab.mcrun(["gc"])), "", "round {round}, stop {stop}: again");
        let there = shims(&lab);
        // What a record names is whole: it was made before the kill, or its removal had not begun.
        if there != json!([]) {
            assert_eq!(there[0]["state"], "up", "round {round}, stop {stop}: {there}");
            assert_eq!(routes(&lab), ["10.99.0.11"], "round {round}, stop {stop}");
            run(&mut lab.mcrun(["shim", "rm", PARENT]));
        }
        wait_until("what gc leaves is what there was", PATIENCE, || {
            (lab.leftovers() == settled).then_some(())
        });
        let files = std::fs::read_dir(lab.state_dir().join("shims")).into_iter().flatten();
        assert_eq!(files.count(), 0, "round {round}, stop {stop}");
    }
    println!("{killed} of {KILLS} killed before their end");
    assert!(killed > KILLS / 2, "{killed}");
    lab.delete(&container);
    lab.assert_clean(PATIENCE);
}
