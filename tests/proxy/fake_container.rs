//! A process in a namespace of its own that stands for the container, and its proxy.

use std::fs;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mcrun::attachment::{IgmpMode, UidRange};
use mcrun::multicast::GroupPolicy;
use mcrun::net::netns::NetNs;
use mcrun::proxy::{
    CreatedInterface, GroupMembership, InterfaceTask, MembershipStatus, ProxyStatus, ProxyTask,
    query_all,
};
use mcrun::state::{Lifetime, Store};
use mcrun::sys::process::ProcessRef;
use mcrun::sys::sockopt;
use socket2::{Domain, Socket, Type};

use crate::lab;
use crate::lab::{Background, Lab, PARENT, PATIENCE, run, wait_until};

pub(super) const GROUP: Ipv4Addr = Ipv4Addr::new(239, 5, 1, 1);
pub(super) const SSM: Ipv4Addr = Ipv4Addr::new(232, 5, 1, 1);
pub(super) const CHILD: &str = "mc0";

pub(super) fn source(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 0, n)
}

/// A process with a network namespace and a macvlan child that is down, as the hook has it when
/// it starts the proxy.
pub(super) struct FakeContainer<'l> {
    pub(super) lab: &'l Lab,
    pub(super) id: String,
    pub(super) process: Background,
    pub(super) ns: NetNs,
    pub(super) index: u32,
}

impl<'l> FakeContainer<'l> {
    pub(super) fn new(lab: &'l Lab, name: &str, address: u8) -> Self {
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

    pub(super) fn pid(&self) -> i32 {
        self.process.pid()
    }

    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid().to_string(), "-n", program]);
        command
    }

    pub(super) fn ip(&self, arguments: &str) {
        run(self.command("ip").args(arguments.split_whitespace()));
    }

    pub(super) fn up(&self) {
        self.ip(&format!("link set {CHILD} up"));
        self.ip(&format!("route add 224.0.0.0/4 dev {CHILD}"));
    }

    pub(super) fn directory(&self) -> PathBuf {
        self.lab.state_dir().join("containers").join(&self.id)
    }

    pub(super) fn config(&self) -> ProxyTask {
        let upstream_index = self.lab.link(PARENT)["ifindex"].as_u64().expect("index") as u32;
        ProxyTask {
            container: self.id.clone(),
            lifetime: Lifetime::Process(ProcessRef::of(self.pid()).expect("it runs")),
            notifications: lab::notifications(),
            count: true,
            mark: mcrun::proxy::random_packet_mark().expect("a mark"),
            user: 0,
            group_notice: None,
            takes_over: false,
            interfaces: vec![InterfaceTask {
                remade: false,
                query_interval: None,
                name: CHILD.into(),
                index: self.index,
                mac: None,
                announce: Vec::new(),
                parent: PARENT.into(),
                upstream: PARENT.into(),
                upstream_index,
                igmp: IgmpMode::Proxy,
                mld: false,
                policy: GroupPolicy::default(),
                egress: None,
                relay: None,
            }],
        }
    }

    /// Makes the state directory and starts a proxy, as the hook does; then the link goes up.
    pub(super) fn serve(&self, config: &ProxyTask) -> Proxy {
        let proxy = self.start(config).unwrap_or_else(|e| panic!("the proxy did not start: {e}"));
        self.up();
        proxy
    }

    pub(super) fn start(&self, config: &ProxyTask) -> Result<Proxy, String> {
        self.start_as(config, |command| command)
    }

    /// One with a system call filter, which shows it another kernel.
    pub(super) fn start_filtered(
        &self,
        config: &ProxyTask,
        filter: seccompiler::SeccompFilter,
    ) -> Result<Proxy, String> {
        let program: seccompiler::BpfProgram = filter.try_into().expect("a filter");
        self.start_as(config, |command| {
            // SAFETY: two system calls on a program made before; nothing is allocated.
            unsafe {
                command.pre_exec(move || {
                    seccompiler::apply_filter(&program).map_err(std::io::Error::other)
                })
            }
        })
    }

    pub(super) fn start_as(
        &self,
        config: &ProxyTask,
        change: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Result<Proxy, String> {
        let store = Store::at(self.lab.state_dir());
        let id = self.id.clone().try_into().expect("an id");
        let locked = store.lock_or_create(&id).expect("state directory");
        fs::write(locked.path().join("record.json"), "{}").expect("record");
        let user = store.reserve_proxy_user(&id, UidRange::default()).expect("a user");
        locked.hand_to_proxy(user.id).expect("handed over");
        let config = &ProxyTask { user: user.id, ..config.clone() };
        drop(locked);
        let mut command = self.lab.enter("host", env!("CARGO_BIN_EXE_mcrun-proxy"));
        let mut child = change(command.stdin(Stdio::piped()).stdout(Stdio::piped()))
            .spawn()
            .expect("mcrun-proxy starts");
        let created: Vec<_> = config
            .interfaces
            .iter()
            .map(|i| CreatedInterface { index: i.index, mac: i.mac })
            .collect();
        let task = [serde_json::to_vec(config), serde_json::to_vec(&created)];
        let mut text = task.map(|line| line.expect("JSON")).join(&b'\n');
        text.extend_from_slice(b"\nkeep\n");
        child.stdin.take().expect("stdin").write_all(&text).expect("task");
        let mut answer = String::new();
        // It closes its output when it is ready.
        child.stdout.take().expect("stdout").read_to_string(&mut answer).expect("answer");
        let proxy = Proxy { child, directory: self.directory() };
        if answer == "installed\nready\n" { Ok(proxy) } else { Err(answer) }
    }

    /// A UDP socket in the container.
    pub(super) fn socket(&self) -> Socket {
        let open = || Socket::new(Domain::IPV4, Type::DGRAM, None).expect("socket");
        self.ns.run(open).expect("entered")
    }

    pub(super) fn join(&self, group: Ipv4Addr) -> Socket {
        let socket = self.socket();
        sockopt::join_group(&socket, self.index, group).expect("join");
        socket
    }

    /// Frames that its interface has received.
    pub(super) fn received(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/net/dev", self.pid())).expect("counters");
        let line = text.lines().find_map(|line| line.trim().strip_prefix("mc0:"));
        let packets = line.expect("the interface").split_whitespace().nth(1).expect("packets");
        packets.parse().expect("a number")
    }

    pub(super) fn join_source(&self, group: Ipv4Addr, source: Ipv4Addr) -> Socket {
        let socket = self.socket();
        sockopt::join_source_group(&socket, self.index, group, source).expect("join");
        socket
    }
}

/// A proxy, killed when dropped.
pub(super) struct Proxy {
    pub(super) child: Child,
    pub(super) directory: PathBuf,
}

impl Proxy {
    pub(super) fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub(super) fn status(&self) -> ProxyStatus {
        query_all(&[&self.directory]).remove(0).expect("the proxy answers")
    }

    pub(super) fn group(&self, group: Ipv4Addr) -> Option<GroupMembership> {
        self.status().interfaces[0].groups.iter().find(|g| g.group == group).cloned()
    }

    pub(super) fn wait_group(&self, group: Ipv4Addr, status: MembershipStatus) -> GroupMembership {
        wait_until("the group has its status", PATIENCE, || {
            self.group(group).filter(|g| g.status == status)
        })
    }

    pub(super) fn ended_within(&mut self, limit: Duration) {
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

pub(super) fn wait_joined(lab: &Lab, group: Ipv4Addr) {
    wait_until("the host joins", PATIENCE, || lab.host_joins().contains(&group).then_some(()));
}

pub(super) fn wait_left(lab: &Lab, group: Ipv4Addr) {
    wait_until("the host leaves", PATIENCE, || (!lab.host_joins().contains(&group)).then_some(()));
}
