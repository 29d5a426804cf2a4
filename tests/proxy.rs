//! The proxy process by itself: a process in a namespace of its own stands for the container.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::lab;
use crate::lab::{Background, Igmp, Lab, PARENT, PATIENCE, RecordKind, alive, run, wait_until};
use mcrun::attachment::IgmpMode;
use mcrun::multicast::{FilterMode, SourceFilter};
use mcrun::multicast::{GroupPolicy, GroupRule};
use mcrun::net::netns::NetNs;
use mcrun::proxy::{
    GroupMembership, MembershipStatus, ProxyConfig, ProxyInterface, ProxyState, ProxyStatus,
    query_all, requery,
};
use mcrun::state::Store;
use mcrun::sys::process::ProcessRef;
use mcrun::sys::sockopt;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 5, 1, 1);
const SSM: Ipv4Addr = Ipv4Addr::new(232, 5, 1, 1);
const CHILD: &str = "mc0";

fn source(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 0, n)
}

/// A process with a network namespace and a macvlan child that is down, as the hook has it when
/// it starts the proxy.
struct FakeContainer<'l> {
    lab: &'l Lab,
    id: String,
    process: Background,
    ns: NetNs,
    index: u32,
}

impl<'l> FakeContainer<'l> {
    fn new(lab: &'l Lab, name: &str, address: u8) -> Self {
        let process =
            Background::start(lab.enter("host", "unshare").args(["--net", "sleep", "1000"]));
        let pid = process.pid();
        let host = fs::read_link("/proc/self/ns/net").expect("own namespace");
        let lab_host = run(lab.enter("host", "readlink").arg("/proc/self/ns/net"));
        wait_until("the container has its namespace", PATIENCE, || {
            let own = fs::read_link(format!("/proc/{pid}/ns/net")).ok()?;
            let slept = fs::read_to_string(format!("/proc/{pid}/comm")).ok()? == "sleep\n";
            (slept && own != host && own != *lab_host.trim()).then_some(())
        });
        lab.ip(
            "host",
            &format!("link add link {PARENT} name {CHILD} netns {pid} type macvlan mode bridge"),
        );
        let ns = NetNs::of_pid(pid).expect("namespace");
        let index = ns
            .run(|| nix::net::if_::if_nametoindex(CHILD).expect("the child link"))
            .expect("entered");
        let id = lab.name(name);
        let container = FakeContainer { lab, id, process, ns, index };
        container.ip("link set lo up");
        container.ip(&format!("addr add {}/24 dev {CHILD}", source(address)));
        container
    }

    fn pid(&self) -> i32 {
        self.process.pid()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid().to_string(), "-n", program]);
        command
    }

    fn ip(&self, arguments: &str) {
        run(self.command("ip").args(arguments.split_whitespace()));
    }

    fn up(&self) {
        self.ip(&format!("link set {CHILD} up"));
        self.ip(&format!("route add 224.0.0.0/4 dev {CHILD}"));
    }

    fn directory(&self) -> PathBuf {
        self.lab.state_dir().join("containers").join(&self.id)
    }

    fn config(&self) -> ProxyConfig {
        let upstream_index = self.lab.link(PARENT)["ifindex"].as_u64().expect("index") as u32;
        ProxyConfig {
            container: self.id.clone(),
            pid: self.pid(),
            pid_start: ProcessRef::of(self.pid()).expect("it runs").start,
            notifications: lab::notifications(),
            mark: mcrun::proxy::random_mark().expect("a mark"),
            follows: false,
            interfaces: vec![ProxyInterface {
                name: CHILD.into(),
                index: self.index,
                mac: None,
                announce: Vec::new(),
                parent: PARENT.into(),
                upstream: PARENT.into(),
                upstream_index,
                igmp: IgmpMode::Proxy,
                policy: GroupPolicy::default(),
                relay: None,
            }],
        }
    }

    /// Makes the state directory and starts a proxy, as the hook does; then the link goes up.
    fn serve(&self, config: &ProxyConfig) -> Proxy {
        let proxy = self.start(config).unwrap_or_else(|e| panic!("the proxy did not start: {e}"));
        self.up();
        proxy
    }

    fn start(&self, config: &ProxyConfig) -> Result<Proxy, String> {
        self.start_as(config, |command| command)
    }

    fn start_as(
        &self,
        config: &ProxyConfig,
        change: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Result<Proxy, String> {
        let store = Store::at(self.lab.state_dir());
        let id = self.id.clone().try_into().expect("an id");
        let locked = store.lock_or_create(&id).expect("state directory");
        fs::write(locked.path().join("record.json"), "{}").expect("record");
        locked.hand_to_proxy().expect("handed over");
        drop(locked);
        let mut command = self.lab.enter("host", env!("CARGO_BIN_EXE_mcrun-proxy"));
        let mut child = change(command.stdin(Stdio::piped()).stdout(Stdio::piped()))
            .spawn()
            .expect("mcrun-proxy starts");
        let made: Vec<_> = config.interfaces.iter().map(|i| (i.index, i.mac)).collect();
        let task = [serde_json::to_vec(config), serde_json::to_vec(&made)];
        let text = task.map(|line| line.expect("JSON")).join(&b'\n');
        child.stdin.take().expect("stdin").write_all(&text).expect("task");
        let mut answer = String::new();
        // It closes its output when it is ready.
        child.stdout.take().expect("stdout").read_to_string(&mut answer).expect("answer");
        let proxy = Proxy { child, directory: self.directory() };
        if answer == "installed\nready\n" { Ok(proxy) } else { Err(answer) }
    }

    /// A UDP socket in the container.
    fn socket(&self) -> Socket {
        let open = || Socket::new(Domain::IPV4, Type::DGRAM, None).expect("socket");
        self.ns.run(open).expect("entered")
    }

    fn join(&self, group: Ipv4Addr) -> Socket {
        let socket = self.socket();
        sockopt::join_group(&socket, self.index, group).expect("join");
        socket
    }

    /// Frames that its interface has received.
    fn received(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/net/dev", self.pid())).expect("counters");
        let line = text.lines().find_map(|line| line.trim().strip_prefix("mc0:"));
        let packets = line.expect("the interface").split_whitespace().nth(1).expect("packets");
        packets.parse().expect("a number")
    }

    fn join_source(&self, group: Ipv4Addr, source: Ipv4Addr) -> Socket {
        let socket = self.socket();
        sockopt::join_source_group(&socket, self.index, group, source).expect("join");
        socket
    }
}

/// A proxy, killed when dropped.
struct Proxy {
    child: Child,
    directory: PathBuf,
}

impl Proxy {
    fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    fn status(&self) -> ProxyStatus {
        query_all(&[&self.directory]).remove(0).expect("the proxy answers")
    }

    fn group(&self, group: Ipv4Addr) -> Option<GroupMembership> {
        self.status().interfaces[0].groups.iter().find(|g| g.group == group).cloned()
    }

    fn wait_group(&self, group: Ipv4Addr, status: MembershipStatus) -> GroupMembership {
        wait_until("the group has its status", PATIENCE, || {
            self.group(group).filter(|g| g.status == status)
        })
    }

    fn ended_within(&mut self, limit: Duration) {
        let child = &mut self.child;
        wait_until("the proxy ends", limit, || child.try_wait().expect("wait"));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_joined(lab: &Lab, group: Ipv4Addr) {
    wait_until("the host joins", PATIENCE, || lab.host_joins().contains(&group).then_some(()));
}

fn wait_left(lab: &Lab, group: Ipv4Addr) {
    wait_until("the host leaves", PATIENCE, || (!lab.host_joins().contains(&group)).then_some(()));
}

#[test]
fn a_join_and_a_leave_of_the_container_are_the_hosts_own_on_the_wire() {
    for version in [2, 3] {
        let lab = Lab::new(version);
        let capture = lab.capture();
        let container = FakeContainer::new(&lab, "c1", 11);
        let proxy = container.serve(&container.config());
        assert_eq!(proxy.status().state, ProxyState::Running, "{:?}", proxy.status().warnings);
        let socket = container.join(GROUP);
        wait_joined(&lab, GROUP);
        let text = GROUP.to_string();
        wait_until("the switch forwards", PATIENCE, || {
            lab.forwarded().contains(&text).then_some(())
        });
        let entry = proxy.wait_group(GROUP, MembershipStatus::Joined);
        assert_eq!((entry.mode, entry.version), (FilterMode::Exclude, 3));
        let querier = wait_until("a query of the switch is heard", PATIENCE, || {
            lab.query();
            proxy.status().interfaces[0].querier.clone()
        });
        assert_eq!((querier.address, querier.version), (lab::SWITCH, version));

        drop(socket);
        wait_left(&lab, GROUP);
        wait_until("the switch stops", PATIENCE, || {
            (!lab.forwarded().contains(&text)).then_some(())
        });
        assert_eq!(proxy.group(GROUP), None);
        let seen = capture.finish();
        assert!(seen.iter().any(|f| f.message.groups().contains(&GROUP)));
        lab.assert_one_igmp_host(&seen);
    }
}

#[test]
fn the_end_of_the_container_ends_the_proxy_and_all_that_it_held() {
    let lab = Lab::new(3);
    let mut container = FakeContainer::new(&lab, "c1", 11);
    let mut proxy = container.serve(&container.config());
    let _socket = container.join(GROUP);
    wait_joined(&lab, GROUP);
    assert!(container.directory().join("control.sock").exists());
    container.process.signal(libc::SIGKILL);
    container.process.wait(PATIENCE);
    let died = Instant::now();
    proxy.ended_within(Duration::from_secs(1));
    assert!(!container.directory().exists(), "the state directory is removed");
    wait_left(&lab, GROUP);
    assert!(died.elapsed() < Duration::from_secs(1), "{:?}", died.elapsed());
}

#[test]
fn the_end_of_the_proxy_leaves_a_container_that_speaks_for_itself() {
    let lab = Lab::new(3);
    let container = FakeContainer::new(&lab, "c1", 11);
    let mut proxy = container.serve(&container.config());
    let _first = container.join(GROUP);
    wait_joined(&lab, GROUP);
    let rules = |c: &FakeContainer<'_>| run(c.command("nft").args(["list", "ruleset"]));
    assert!(rules(&container).contains("log"), "{}", rules(&container));
    proxy.child.kill().expect("killed");
    proxy.ended_within(PATIENCE);
    wait_left(&lab, GROUP);
    assert_eq!(rules(&container), "");
    let capture = lab.capture();
    let native = Ipv4Addr::new(239, 5, 1, 2);
    let _second = container.join(native);
    wait_until("the container's own report is on the wire", PATIENCE, || {
        capture
            .igmp()
            .iter()
            .any(|f| f.mac != lab.host_mac() && f.message.groups().contains(&native))
            .then_some(())
    });
}

#[test]
fn the_proxy_has_no_privileges() {
    let lab = Lab::new(3);
    let container = FakeContainer::new(&lab, "c1", 11);
    let proxy = container.serve(&container.config());
    let status = fs::read_to_string(format!("/proc/{}/status", proxy.pid())).expect("status");
    let field = |name: &str| {
        let line = status.lines().find(|l| l.starts_with(name)).unwrap_or_else(|| panic!("{name}"));
        line.split_whitespace().skip(1).collect::<Vec<_>>()
    };
    assert_eq!(field("Uid:"), ["65534"; 4]);
    assert_eq!(field("Gid:"), ["65534"; 4]);
    assert_eq!(field("Groups:"), [""; 0]);
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(set), ["0000000000000000"], "{set}");
    }
    assert_eq!(field("NoNewPrivs:"), ["1"]);
    assert_eq!(field("Seccomp:"), ["2"]);
    assert_eq!(field("Threads:"), ["1"]);
    // It holds nothing of who started it: a socket of its own stands for standard input.
    let target = |fd: u8| fs::read_link(format!("/proc/{}/fd/{fd}", proxy.pid())).expect("fd");
    assert_eq!([target(1), target(2)], [PathBuf::from("/dev/null"), PathBuf::from("/dev/null")]);
    assert!(target(0).display().to_string().starts_with("socket:"), "{:?}", target(0));
}

#[test]
fn the_frames_of_a_group_that_was_left_stay_out_while_a_neighbour_gets_them() {
    let lab = Lab::new(3);
    let (leaves, stays) = (FakeContainer::new(&lab, "c1", 11), FakeContainer::new(&lab, "c2", 12));
    let (first, _second) = (leaves.serve(&leaves.config()), stays.serve(&stays.config()));
    // Other frames now and then are none of the stream's.
    let quiet = |received: u64| received < 20;
    let arrive = |container: &FakeContainer<'_>, time| {
        let before = container.received();
        std::thread::sleep(time);
        container.received() - before
    };
    let _stream = lab.send(GROUP, source(3), 1000);
    let _neighbour = stays.join(GROUP);
    // Twice, since what makes the filter anew is done and taken back in turns.
    for _ in 0..2 {
        let viewer = leaves.join(GROUP);
        first.wait_group(GROUP, MembershipStatus::Joined);
        wait_until("the stream arrives at both", PATIENCE, || {
            let time = Duration::from_millis(100);
            (!quiet(arrive(&leaves, time)) && !quiet(arrive(&stays, time))).then_some(())
        });
        drop(viewer);
        wait_until("the stream stays out", PATIENCE, || {
            quiet(arrive(&leaves, Duration::from_millis(100))).then_some(())
        });
        assert!(!quiet(arrive(&stays, Duration::from_millis(100))), "the neighbour gets it still");
    }
    let addresses =
        fs::read_to_string(format!("/proc/{}/net/dev_mcast", leaves.pid())).expect("file");
    assert!(!addresses.contains("01005e050101"), "{addresses}");
}

#[test]
fn a_source_specific_join_is_never_wider_on_the_wire() {
    let lab = Lab::new(3);
    let capture = lab.capture();
    let (first, second) = (FakeContainer::new(&lab, "c1", 11), FakeContainer::new(&lab, "c2", 12));
    let (p1, _p2) = (first.serve(&first.config()), second.serve(&second.config()));
    let one = first.join_source(SSM, source(3));
    let expect = |sources: &[u8]| {
        let wanted: BTreeSet<_> = sources.iter().map(|n| format!("{SSM}@{}", source(*n))).collect();
        wait_until(&format!("the switch forwards {wanted:?}"), PATIENCE, || {
            let of_group: BTreeSet<_> =
                lab.forwarded().into_iter().filter(|g| g.starts_with("232.")).collect();
            // The bridge lists the group itself beside its sources.
            let sources: BTreeSet<_> = of_group.into_iter().filter(|g| g.contains('@')).collect();
            (sources == wanted).then_some(())
        });
    };
    expect(&[3]);
    let entry = p1.wait_group(SSM, MembershipStatus::Joined);
    assert_eq!((entry.mode, entry.sources), (FilterMode::Include, vec![source(3)]));
    let two = second.join_source(SSM, source(4));
    expect(&[3, 4]);
    drop(two);
    expect(&[3]);
    drop(one);
    expect(&[]);
    let seen = capture.finish();
    lab.assert_one_igmp_host(&seen);
    for frame in &seen {
        let Igmp::ReportV3(records) = &frame.message else { panic!("{frame:?}") };
        for record in records.iter().filter(|r| r.group == SSM) {
            assert!(
                !matches!(record.kind, RecordKind::IsExclude | RecordKind::ToExclude),
                "{frame:?}"
            );
        }
    }
}

#[test]
fn an_exclude_list_reaches_the_wire_as_it_is() {
    let lab = Lab::new(3);
    let container = FakeContainer::new(&lab, "c1", 11);
    let proxy = container.serve(&container.config());
    let capture = lab.capture();
    let socket = container.socket();
    sockopt::join_source_group(&socket, container.index, GROUP, source(9)).expect("join");
    sockopt::set_filter(&socket, container.index, GROUP, &SourceFilter::exclude([source(9)]))
        .expect("filter");
    wait_until("the list is told", PATIENCE, || {
        proxy.group(GROUP).filter(|g| g.mode == FilterMode::Exclude && g.sources == [source(9)])
    });
    let filters = wait_until("the host's kernel has it", PATIENCE, || {
        lab.host_filters().get(&GROUP).cloned()
    });
    assert_eq!(filters.get(&source(9)), Some(&(0, 1)), "{filters:?}");
    wait_until("the report is on the wire", PATIENCE, || {
        capture.igmp().iter().any(|f| f.message.groups().contains(&GROUP)).then_some(())
    });
    for frame in capture.finish() {
        let Igmp::ReportV3(records) = &frame.message else { panic!("{frame:?}") };
        for record in records.iter().filter(|r| r.group == GROUP) {
            let wide = matches!(record.kind, RecordKind::IsExclude | RecordKind::ToExclude)
                && record.sources.is_empty();
            assert!(!wide, "{frame:?}");
        }
    }
}

#[test]
fn groups_are_spread_over_sockets_and_too_long_lists_recover() {
    let lab = Lab::new(3);
    let container = FakeContainer::new(&lab, "c1", 11);
    run(container.command("sh").args([
        "-c",
        "echo 1000 >/proc/sys/net/ipv4/igmp_max_memberships; echo 64 >/proc/sys/net/ipv4/igmp_max_msf",
    ]));
    let proxy = container.serve(&container.config());
    let socket = container.socket();
    let groups: BTreeSet<_> = (0..=255).map(|n| Ipv4Addr::new(239, 5, 2, n)).collect();
    for group in &groups {
        sockopt::join_group(&socket, container.index, *group).expect("join");
    }
    wait_until("all are joined", PATIENCE, || lab.host_joins().is_superset(&groups).then_some(()));
    let status = proxy.status();
    assert_eq!(status.interfaces[0].groups.len(), 256);
    assert!(status.interfaces[0].groups.iter().all(|g| g.status == MembershipStatus::Joined));
    drop(socket);
    wait_until("all are left", PATIENCE, || lab.host_joins().is_disjoint(&groups).then_some(()));

    // 25 sources fit no socket of the host's default, but three do.
    let many = SourceFilter::include((1..=25).map(|n| Ipv4Addr::new(10, 7, 0, n)));
    let socket = container.join_source(SSM, Ipv4Addr::new(10, 7, 0, 1));
    sockopt::set_filter(&socket, container.index, SSM, &many).expect("filter");
    wait_until("all sources are joined", PATIENCE, || {
        (lab.host_filters().get(&SSM)?.len() == 25).then_some(())
    });
    drop(socket);
    wait_left(&lab, SSM);

    // 12 excluded sources fit no socket until the host allows it.
    let excluded = SourceFilter::exclude((1..=12).map(|n| Ipv4Addr::new(10, 7, 0, n)));
    let socket = container.join(GROUP);
    wait_joined(&lab, GROUP);
    sockopt::set_filter(&socket, container.index, GROUP, &excluded).expect("filter");
    let failed = proxy.wait_group(GROUP, MembershipStatus::Failed);
    assert!(failed.reason.as_ref().is_some_and(|r| r.contains("igmp_max_msf")), "{failed:?}");
    assert!(lab.host_joins().contains(&GROUP), "what was joined stays");
    run(lab.enter("host", "sh").args(["-c", "echo 20 >/proc/sys/net/ipv4/igmp_max_msf"]));
    proxy.wait_group(GROUP, MembershipStatus::Joined);
    assert_eq!(lab.host_filters().get(&GROUP).map(|f| f.len()), Some(12));
}

#[test]
fn a_new_proxy_takes_over_without_a_leave_on_the_wire() {
    let lab = Lab::new(2);
    let container = FakeContainer::new(&lab, "c1", 11);
    let mut old = container.serve(&container.config());
    let _asm = container.join(GROUP);
    let _ssm = container.join_source(SSM, source(3));
    let wanted = BTreeSet::from([GROUP, SSM]);
    wait_until("both are joined", PATIENCE, || lab.host_joins().is_superset(&wanted).then_some(()));
    let capture = lab.capture();
    let mut new = container.start(&container.config()).expect("ready");
    // Ready means joined: the old one may end now.
    old.child.kill().expect("killed");
    old.ended_within(PATIENCE);
    assert!(lab.host_joins().is_superset(&wanted));
    requery(&container.directory()).expect("answered");
    // It intercepts, and hears the container.
    let third = Ipv4Addr::new(239, 5, 1, 3);
    let _third = container.join(third);
    wait_joined(&lab, third);
    wait_until("the container has answered", PATIENCE, || {
        new.status().interfaces[0].counters.get("reports_v3").filter(|n| **n > 1).map(drop)
    });
    let sources = |g: GroupMembership| (g.mode, g.sources);
    assert_eq!(new.group(SSM).map(sources), Some((FilterMode::Include, vec![source(3)])));
    assert_eq!(new.group(GROUP).map(sources), Some((FilterMode::Exclude, vec![])));
    let seen = capture.finish();
    lab.assert_one_igmp_host(&seen);
    assert!(!seen.iter().any(|f| matches!(f.message, Igmp::Leave { .. })), "{seen:?}");
    assert!(container.directory().exists());
    new.child.kill().expect("killed");
    new.ended_within(PATIENCE);
}

#[test]
fn denied_groups_stay_off_the_lan_and_are_shown() {
    let lab = Lab::new(3);
    let container = FakeContainer::new(&lab, "c1", 11);
    let mut config = container.config();
    config.interfaces[0].policy.deny =
        vec![GroupRule { groups: "239.5.0.0/16".parse().expect("net"), sources: None }];
    let proxy = container.serve(&config);
    let _denied = container.join(GROUP);
    let allowed = Ipv4Addr::new(239, 6, 1, 1);
    let _allowed = container.join(allowed);
    wait_joined(&lab, allowed);
    let entry = proxy.wait_group(GROUP, MembershipStatus::Denied);
    assert!(entry.reason.as_ref().is_some_and(|r| r.contains("239.5.0.0/16")), "{entry:?}");
    assert!(!lab.host_joins().contains(&GROUP));
}

#[test]
fn a_native_interface_is_left_alone_and_observed() {
    let lab = Lab::new(3);
    let container = FakeContainer::new(&lab, "c1", 11);
    let mut config = container.config();
    config.interfaces[0].igmp = IgmpMode::Native;
    let proxy = container.serve(&config);
    let capture = lab.capture();
    let _asm = container.join(GROUP);
    let _ssm = container.join_source(SSM, source(3));
    let entry = proxy.wait_group(SSM, MembershipStatus::Joined);
    assert_eq!((entry.mode, entry.sources), (FilterMode::Include, vec![source(3)]));
    assert_eq!(proxy.group(GROUP).map(|g| g.mode), Some(FilterMode::Exclude));
    assert_eq!(proxy.status().state, ProxyState::Running);
    assert_eq!(run(container.command("nft").args(["list", "ruleset"])), "");
    assert!(!lab.host_joins().contains(&GROUP));
    wait_until("the container reports by itself", PATIENCE, || {
        capture.igmp().iter().any(|f| f.mac != lab.host_mac()).then_some(())
    });
}

#[test]
fn without_nf_tables_the_container_speaks_for_itself_and_that_is_said() {
    let lab = Lab::new(3);
    let container = FakeContainer::new(&lab, "c1", 11);
    // A kernel without netfilter's netlink, as far as the proxy can tell.
    let condition = |argument, value: i32| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value as u64)
            .expect("condition")
    };
    let netfilter = SeccompRule::new(vec![
        condition(0, libc::AF_NETLINK),
        condition(2, libc::NETLINK_NETFILTER),
    ]);
    let program: BpfProgram = SeccompFilter::new(
        [(libc::SYS_socket, vec![netfilter.expect("rule")])].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPROTONOSUPPORT as u32),
        std::env::consts::ARCH.try_into().expect("architecture"),
    )
    .and_then(TryInto::try_into)
    .expect("filter");
    let proxy = container
        .start_as(&container.config(), |command| {
            // SAFETY: two system calls on a program made before; nothing is allocated.
            unsafe {
                command.pre_exec(move || {
                    seccompiler::apply_filter(&program).map_err(std::io::Error::other)
                })
            }
        })
        .expect("ready");
    container.up();
    let status = proxy.status();
    assert_eq!(status.state, ProxyState::Degraded);
    assert!(status.warnings.iter().any(|w| w.contains("nf_tables")), "{:?}", status.warnings);
    let capture = lab.capture();
    let _socket = container.join(GROUP);
    proxy.wait_group(GROUP, MembershipStatus::Joined);
    assert!(!lab.host_joins().contains(&GROUP));
    wait_until("the container reports by itself", PATIENCE, || {
        capture.igmp().iter().any(|f| f.mac != lab.host_mac()).then_some(())
    });
}

#[test]
fn two_interfaces_of_a_container_are_told_apart() {
    let lab = Lab::new(3);
    let container = FakeContainer::new(&lab, "c1", 11);
    let pid = container.pid();
    let second = format!("link add link {PARENT} name mc1 netns {pid} type macvlan mode bridge");
    lab.ip("host", &second);
    let mut config = container.config();
    let mut other = config.interfaces[0].clone();
    other.name = "mc1".into();
    other.index = container
        .ns
        .run(|| nix::net::if_::if_nametoindex("mc1").expect("the link"))
        .expect("entered");
    let index = other.index;
    config.interfaces.push(other);
    let proxy = container.serve(&config);
    container.ip("link set mc1 up");
    let narrow = container.join_source(SSM, source(3));
    let socket = container.socket();
    sockopt::join_source_group(&socket, index, SSM, source(4)).expect("join");
    let both: BTreeSet<_> = [source(3), source(4)].into();
    let sources = || lab.host_filters().get(&SSM).map(|f| f.keys().copied().collect());
    wait_until("both are joined", PATIENCE, || (sources() == Some(both.clone())).then_some(()));
    let interfaces = proxy.status().interfaces;
    let told = |at: usize| interfaces[at].groups.iter().map(|g| g.sources.clone()).collect();
    assert_eq!((told(0), told(1)), (vec![vec![source(3)]], vec![vec![source(4)]]));
    drop(narrow);
    wait_until("one is left", PATIENCE, || (sources() == Some([source(4)].into())).then_some(()));
}

#[test]
fn reports_as_long_as_a_jumbo_frame_are_heard() {
    let lab = Lab::new(3);
    lab.ip("host", &format!("link set {PARENT} mtu 9000"));
    let container = FakeContainer::new(&lab, "c1", 11);
    container.ip(&format!("link set {CHILD} mtu 9000"));
    run(container.command("sh").args(["-c", "echo 9999 >/proc/sys/net/ipv4/igmp_max_memberships"]));
    let mut config = container.config();
    config.interfaces[0].policy.max_groups = 1000;
    let proxy = container.serve(&config);
    let socket = container.socket();
    for n in 0..1000u16 {
        let [high, low] = n.to_be_bytes();
        let group = Ipv4Addr::new(239, 5, 8 + high, low);
        sockopt::join_group(&socket, container.index, group).expect("join");
    }
    wait_until("all are joined", PATIENCE, || (lab.host_joins().len() == 1000).then_some(()));
    let reports = |proxy: &Proxy| proxy.status().interfaces[0].counters["reports_v3"];
    let before = reports(&proxy);
    requery(&container.directory()).expect("answered");
    wait_until("the container has answered", PATIENCE, || (reports(&proxy) > before).then_some(()));
    let interface = &proxy.status().interfaces[0];
    assert_eq!(interface.groups.len(), 1000);
    let counters = &interface.counters;
    assert!(!counters.keys().any(|name| name.contains("length")), "{counters:?}");
}

#[test]
fn a_flood_of_reports_is_bounded_and_starves_nobody() {
    const FLOOD: u32 = 30_000;
    let lab = Lab::new(3);
    let container = FakeContainer::new(&lab, "c1", 11);
    let mut config = container.config();
    config.interfaces[0].policy.max_groups = 8;
    let proxy = container.serve(&config);
    let open = || Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(2))).expect("raw");
    let raw = container.ns.run(open).expect("entered");
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            for n in 0..FLOOD {
                // A v2 report of a group of its own each.
                let [_, b, c, d] = n.to_be_bytes();
                let mut report = [0x16, 0, 0, 0, 239, b, c, d];
                let sum: u32 =
                    report.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
                let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
                report[2..4].copy_from_slice(&checksum.to_be_bytes());
                let to = SocketAddrV4::new(Ipv4Addr::new(239, b, c, d), 0);
                assert!(raw.send_to(&report, &to.into()).is_err(), "dropped, and the sender told");
            }
        });
        while !flood.is_finished() {
            assert!(lab.host_joins().len() <= 8);
            assert!(proxy.status().interfaces[0].groups.len() <= 2048);
        }
    });
    let limited = |status: ProxyStatus| {
        let groups = &status.interfaces[0].groups;
        let count = |s| groups.iter().filter(|g| g.status == s).count();
        (count(MembershipStatus::Joined), count(MembershipStatus::Limited) > 0)
    };
    assert_eq!(limited(proxy.status()), (8, true));
}

#[test]
fn an_upstream_without_an_address_is_warned_of() {
    let lab = Lab::new(3);
    lab.ip("host", &format!("addr flush dev {PARENT}"));
    let container = FakeContainer::new(&lab, "c1", 11);
    let proxy = container.serve(&container.config());
    let warnings = proxy.status().warnings;
    assert!(warnings.iter().any(|w| w.contains("0.0.0.0") && w.contains(PARENT)), "{warnings:?}");
    let _socket = container.join(GROUP);
    wait_joined(&lab, GROUP);
}

#[test]
fn raw_and_packet_senders_get_no_igmp_onto_the_wire() {
    let lab = Lab::new(3);
    let container = FakeContainer::new(&lab, "c1", 11);
    let proxy = container.serve(&container.config());
    assert_eq!(proxy.status().warnings, Vec::<String>::new());
    // What a container says of its own groups is its own affair: the leave is for another's.
    let neighbour = FakeContainer::new(&lab, "c2", 12);
    let _other = neighbour.serve(&neighbour.config());
    let _socket = neighbour.join(GROUP);
    wait_until("the switch forwards", PATIENCE, || {
        lab.forwarded().contains(&GROUP.to_string()).then_some(())
    });
    let capture = lab.capture_also("udp port 9 or igmp or (vlan and igmp)");
    let leave = [0x17, 0, 0xf8, 0xf8, 239, 5, 1, 1];
    let mut ip = vec![0x46, 0xc0, 0, 32, 0, 0, 0x40, 0, 1, 2, 0, 0, 10, 99, 0, 11, 224, 0, 0, 2];
    ip.extend([0x94, 4, 0, 0]);
    ip.extend(leave);
    let destination = [0x01, 0x00, 0x5e, 0, 0, 2];
    let index = container.index;
    container
        .ns
        .run(|| {
            let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(2))).expect("raw");
            // The kernel tells the sender of a dropped packet.
            let to = SocketAddrV4::new(Ipv4Addr::new(224, 0, 0, 2), 0);
            let refused = raw.send_to(&leave, &to.into()).expect_err("dropped");
            assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
            let packet = Socket::new(Domain::PACKET, Type::RAW, None).expect("packet");
            let link = |protocol: u16| link_address(index, destination, protocol);
            let header = |tags: &[u8]| [&destination[..], &[2, 0, 0, 0, 0, 9], tags].concat();
            // As it is; with a protocol that lies; behind a tag.
            for (tags, protocol) in [
                (&[8, 0][..], 0x0800),
                (&[8, 0], 0x0806),
                (&[0x81, 0, 0, 5, 8, 0], 0x8100),
                (&[0x88, 0xa8, 0, 5, 8, 0], 0x88a8),
            ] {
                let frame = [header(tags), ip.clone()].concat();
                let refused = packet.send_to(&frame, &link(protocol)).expect_err("dropped");
                assert_eq!(refused.raw_os_error(), Some(libc::ENOBUFS));
            }
            // The way is open for what is not IGMP.
            let udp = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("udp");
            udp.send_to(b"x", &SocketAddrV4::new(Ipv4Addr::new(239, 5, 9, 9), 9).into())
                .expect("udp send");
        })
        .expect("entered");
    let frames = wait_until("the marker is on the wire", PATIENCE, || {
        let frames = capture.frames();
        frames.iter().any(|f| f.get(23) == Some(&17)).then_some(frames)
    });
    let host: Vec<u8> =
        lab.host_mac().split(':').map(|b| u8::from_str_radix(b, 16).expect("hex")).collect();
    for frame in frames.iter().filter(|f| f.get(23) != Some(&17)) {
        assert_eq!(frame[6..12], host[..], "{frame:02x?}");
    }
    assert!(lab.forwarded().contains(&GROUP.to_string()), "the leave was heard by nobody");
}

/// A packet socket's address of a destination on an interface.
fn link_address(index: u32, destination: [u8; 6], protocol: u16) -> SockAddr {
    let mut storage = socket2::SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is a valid view of a storage that is larger and zero.
    let link = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    link.sll_family = libc::AF_PACKET as u16;
    link.sll_protocol = protocol.to_be();
    link.sll_ifindex = index as i32;
    link.sll_halen = 6;
    link.sll_addr[..6].copy_from_slice(&destination);
    // SAFETY: a whole sockaddr_ll has been written.
    unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as u32) }
}

#[test]
fn what_cannot_be_served_is_refused_with_the_reason() {
    let lab = Lab::new(3);
    let container = FakeContainer::new(&lab, "c1", 11);
    let refused = |config: &ProxyConfig, why: &str| {
        let answer = container.start(config).err().expect("refused");
        let last = answer.lines().last().unwrap_or_default();
        assert!(last.starts_with("error: ") && last.contains(why), "{answer}");
        // Some things are found out when the rules are in place: the hook is told, and they go.
        assert_eq!(answer.trim_start_matches("installed\n").lines().count(), 1, "{answer}");
        assert_eq!(run(container.command("nft").args(["list", "ruleset"])), "");
        assert!(!container.directory().join("control.sock").exists());
    };
    let mut config = container.config();
    config.pid_start += 1;
    refused(&config, &format!("process {}", config.pid));
    let mut config = container.config();
    config.interfaces.clear();
    refused(&config, "interfaces");
    let mut config = container.config();
    config.interfaces[0].upstream = "nosuch0".into();
    refused(&config, "nosuch0");
    let mut config = container.config();
    config.interfaces[0].index = 7777;
    refused(&config, CHILD);
    let mut config = container.config();
    config.container = "no-such-container".into();
    refused(&config, "no-such-container");
}

#[test]
fn the_control_socket_is_patient_with_nobody() {
    use std::os::unix::net::UnixStream;
    let lab = Lab::new(3);
    let container = FakeContainer::new(&lab, "c1", 11);
    let proxy = container.serve(&container.config());
    let connect = || {
        let dir = fs::File::open(container.directory()).expect("directory");
        let path = format!("/proc/self/fd/{}/control.sock", dir.as_raw_fd());
        let stream = UnixStream::connect(path).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        stream
    };
    let ask = |request: &[u8]| {
        let mut stream = connect();
        stream.write_all(request).expect("request");
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    };
    assert!(ask(b"sta\xfftus\n").contains("unknown request"));
    assert_eq!(ask(&[b'x'; 1000]), "");
    // Clients that say nothing are in nobody's way for long, and are closed.
    let idle: Vec<_> = (0..20).map(|_| connect()).collect();
    wait_until("the proxy answers again", PATIENCE, || {
        query_all(&[&proxy.directory]).remove(0).ok()
    });
    for mut stream in idle {
        assert_eq!(stream.read(&mut [0; 8]).unwrap_or(0), 0);
    }
    assert!(alive(proxy.pid()));
}

#[test]
fn a_lost_link_and_a_new_one_are_survived() {
    let lab = Lab::new(2);
    let container = FakeContainer::new(&lab, "c1", 11);
    let proxy = container.serve(&container.config());
    let _socket = container.join(GROUP);
    wait_joined(&lab, GROUP);
    container.ip(&format!("link set {CHILD} down"));
    container.ip(&format!("link set {CHILD} up"));
    let _other = container.join(SSM.to_string().replace("232", "239").parse().expect("group"));
    wait_until("the kernel still speaks v3", PATIENCE, || {
        proxy.status().interfaces[0].groups.iter().all(|g| g.version == 3).then_some(())
    });
    container.ip(&format!("link del {CHILD}"));
    wait_left(&lab, GROUP);
    assert!(alive(proxy.pid()));
    assert_eq!(proxy.status().interfaces[0].groups, []);
}

#[test]
fn memory_is_small() {
    let lab = Lab::new(3);
    let container = FakeContainer::new(&lab, "c1", 11);
    let proxy = container.serve(&container.config());
    let _socket = container.join(GROUP);
    wait_joined(&lab, GROUP);
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", proxy.pid())).expect("smaps");
    let field = |name: &str| {
        let line = rollup.lines().find(|l| l.starts_with(name)).expect("field");
        line.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).expect("KiB")
    };
    println!("PSS {} KiB, of that anonymous {} KiB", field("Pss:"), field("Pss_Anon:"));
    // The program's own pages are shared by all proxies, and many in an unoptimized one.
    assert!(field("Pss_Anon:") < 400, "{rollup}");
}
