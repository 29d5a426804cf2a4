//! Who asks a container on its engine's network is answered from there, also where the container has an
//! address in the subnet of who asks: as of a published port.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Output;
use std::time::Duration;

use crate::lab::{
    Bundle, Container, HOST, Lab, PATIENCE, Runtime, SOURCES, output, run, wait_until,
};

/// The published port, on the container host.
const PUBLISHED: u16 = 18080;
/// What the container answers with.
const ANSWER: &[u8] = b"published";
/// How long a client waits that is not to be answered.
const IMPATIENCE: Duration = Duration::from_millis(300);

/// A container on a bridge of the host's, which forwards a port to it as an engine does.
struct Publishing {
    container: Container,
    address: Ipv4Addr,
}

impl Publishing {
    /// One that is not attached.
    fn plain(lab: &Lab) -> Publishing {
        lab.add_bridge();
        let container = Bundle::new(lab, "c").start(lab, Runtime::Runc, "c");
        let address = lab.plug(&container, 10);
        publish(lab, address);
        Publishing { container, address }
    }

    /// The server, as long as it is kept.
    fn serve(&self) -> TcpListener {
        let address = (self.address, 80);
        let bound = self.container.namespace().run(|| TcpListener::bind(address));
        let listener = bound.expect("entered").expect("a server");
        let serving = listener.try_clone().expect("a listener");
        std::thread::spawn(move || {
            // Ends when the listener is shut down.
            while let Ok((mut client, _)) = serving.accept() {
                let _ = client.write_all(ANSWER);
            }
        });
        listener
    }
}

/// Ends the thread of a server.
fn end(listener: &TcpListener) {
    rustix::net::shutdown(listener, rustix::net::Shutdown::Both).expect("shut down");
}

/// Forwards the published port of the container host to an address.
fn publish(lab: &Lab, to: Ipv4Addr) {
    run(lab.enter("host", "sysctl").args(["-qw", "net.ipv4.ip_forward=1"]));
    let rule =
        format!("-t nat -A PREROUTING -p tcp --dport {PUBLISHED} -j DNAT --to-destination {to}:80");
    run(lab.enter("host", "iptables").args(rule.split(' ')));
}

/// Whether somebody of the LAN, in the subnet of the container's LAN address, is answered.
fn is_answered_within(lab: &Lab, patience: Duration) -> bool {
    let ask = || {
        let to = SocketAddr::from((HOST, PUBLISHED));
        let mut stream = TcpStream::connect_timeout(&to, patience)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    };
    lab.run_in("src", ask).is_ok_and(|answer| answer == ANSWER)
}

#[track_caller]
fn assert_answered(lab: &Lab) {
    wait_until("the published port answers", PATIENCE, || {
        is_answered_within(lab, Duration::from_secs(2)).then_some(())
    });
}

/// The rules of the container that are not the kernel's own.
fn rules(container: &Container) -> Vec<String> {
    let all = run(container.enter("ip").arg("rule"));
    let kernels = ["lookup local", "lookup main", "lookup default"];
    let is_own = |line: &&str| !kernels.iter().any(|end| line.trim_end().ends_with(end));
    all.lines().filter(is_own).map(str::to_owned).collect()
}

/// By which interface a packet to the sender of the LAN leaves.
fn leaves_by(container: &Container, from: &str) -> String {
    let to = SOURCES[0].to_string();
    let mut command = container.enter("ip");
    command.args(["-j", "route", "get", &to]).args(from.split_whitespace());
    crate::lab::json(&mut command)[0]["dev"].as_str().expect("a device").to_owned()
}

fn attach(lab: &Lab, container: &Container, spec: &str) {
    let mut command = lab.mcrun(["attach", &container.pid.to_string(), "--mcast", spec]);
    assert_eq!(run(&mut command), "mc0\n");
}

#[test]
fn a_published_port_answers_clients_in_the_subnet_of_the_attachment() {
    let lab = Lab::new(2);
    let publishing = Publishing::plain(&lab);
    let (container, server) = (&publishing.container, publishing.serve());
    assert_answered(&lab);
    assert!(rules(container).is_empty());
    for (spec, filter) in [
        ("parent=lan0,ip=10.99.0.11/24", "0"),
        ("parent=lan0,ip=10.99.0.11/24,gw=10.99.0.1", "0"),
        // A default route that counts before the engine's.
        ("parent=lan0,ip=10.99.0.11/24,gw=10.99.0.1,metric=1", "0"),
        ("parent=lan0,ip=10.99.0.11/24", "1"),
    ] {
        let filtering = format!("net.ipv4.conf.eth0.rp_filter={filter}");
        run(container.enter("sysctl").args(["-qw", &filtering]));
        attach(&lab, container, spec);
        assert_answered(&lab);
        // What chooses no address leaves as it did, from the address on the LAN.
        assert_eq!(leaves_by(container, ""), "mc0", "{spec}");
        assert_eq!(leaves_by(container, "from 10.99.0.11"), "mc0", "{spec}");
        run(&mut lab.mcrun(["detach", &format!("pid-{}", container.pid)]));
        assert!(rules(container).is_empty(), "{:?}", rules(container));
        assert_answered(&lab);
    }
    end(&server);
}

#[test]
fn one_of_two_attachments_that_goes_leaves_the_answers() {
    let lab = Lab::new(2);
    let publishing = Publishing::plain(&lab);
    let (container, server) = (&publishing.container, publishing.serve());
    attach(&lab, container, "parent=lan0,ip=10.99.0.11/24");
    let host = run(&mut lab.mcrun(["host"]));
    let listed = host.lines().filter(|line| line.contains(": from 172.30.0.10 lookup ")).count();
    assert_eq!(listed, rules(container).len(), "{host}");
    let pid = container.pid.to_string();
    let more = ["attach", &pid, "--mcast", "parent=lan0,ip=10.99.0.12/24"];
    assert_eq!(run(&mut lab.mcrun(more)), "mc1\n");
    let id = format!("pid-{pid}");
    run(&mut lab.mcrun(["detach", &id, "mc0"]));
    assert_answered(&lab);
    // One that is refused takes nothing away either.
    let refused =
        output(&mut lab.mcrun(["attach", &pid, "--mcast", "parent=lan0,ip=10.99.0.2/24"]));
    assert!(!refused.status.success());
    assert_answered(&lab);
    run(&mut lab.mcrun(["detach", &id]));
    assert!(rules(container).is_empty(), "{:?}", rules(container));
    end(&server);
}

#[test]
fn a_network_that_comes_later_is_followed_by_a_reload() {
    let lab = Lab::new(2);
    lab.add_bridge();
    let container = lab.start("c", "10.99.0.11");
    assert!(rules(&container).is_empty());
    let address = lab.plug(&container, 10);
    publish(&lab, address);
    let publishing = Publishing { container, address };
    let server = publishing.serve();
    assert!(!is_answered_within(&lab, IMPATIENCE), "nobody has followed it yet");
    let told = || lab.ps(&publishing.container).expect("listed")["notices"].to_string();
    assert!(told().contains("answers-elsewhere"), "{}", told());
    run(&mut lab.mcrun(["reload"]));
    assert_answered(&lab);
    assert!(!told().contains("answers-elsewhere"), "{}", told());
    end(&server);
}

/// As docker since 28 makes them.
#[test]
fn a_network_that_comes_before_the_start_is_followed() {
    let lab = Lab::new(2);
    lab.add_bridge();
    let container =
        crate::late_interfaces::create(&lab, "c", "parent=lan0,ip=10.99.0.11/24,gw=10.99.0.1");
    let address = lab.plug(&container, 10);
    publish(&lab, address);
    let started: Output = crate::late_interfaces::start(&lab, &container);
    assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
    let publishing = Publishing { container, address };
    let server = publishing.serve();
    assert_answered(&lab);
    end(&server);
}
