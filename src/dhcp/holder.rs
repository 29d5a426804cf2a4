//! The process that gives a container's interface its leased address. It has CAP_NET_ADMIN and nothing
//! else, and reads no packet: the [speaker](crate::dhcp::speaker), its child, asks it by
//! [orders](crate::dhcp::order).

use std::fs::File;
use std::io;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;
use nix::unistd::{read, write};

use crate::attachment::Route;
use crate::dhcp::order::{LONGEST, LeasedAddress, Order};
use crate::dhcp::shim_route;
use crate::dhcp::speaker::{DONE, FAILED, RELEASE};
use crate::dhcp::task::{DECLINED, KEEP, LEASED, LeaseTask};
use crate::net::messages::{delete_address, delete_route, leased_address, new_route};
use crate::net::netlink::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NetlinkError, RouteSocket};
use crate::proxy::EndWatch;
use crate::state::{DhcpLease, DhcpLeaseFile, seconds_since_1970};

/// How long the speaker may take to give the address back.
const LAST_WORD: Duration = Duration::from_millis(300);

/// A holder.
pub(super) struct Holder {
    pub(super) task: LeaseTask,
    /// In the container's namespace.
    pub(super) route: RouteSocket,
    pub(super) speaker: OwnedFd,
    pub(super) container_end: EndWatch,
    pub(super) signals: SignalFd,
    /// Standard input, until the record names this process.
    pub(super) input: Option<File>,
    /// Standard output, until the first address is told.
    pub(super) answer: Option<File>,
    pub(super) file: DhcpLeaseFile,
    /// What the interface has.
    pub(super) held: Option<DhcpLease>,
}

impl Holder {
    /// Holds the lease until the container has ended, the speaker has gone, or SIGTERM comes.
    ///
    /// # Errors
    /// Those of poll(2).
    pub(super) fn run(mut self) -> io::Result<()> {
        loop {
            let mut awaited = vec![
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.container_end.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.speaker.as_fd(), PollFlags::POLLIN),
            ];
            awaited.extend(self.input.as_ref().map(|i| PollFd::new(i.as_fd(), PollFlags::POLLIN)));
            match poll(&mut awaited, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
                Ok(_) => {}
            }
            let ready: Vec<_> = awaited.iter().map(|fd| fd.any() == Some(true)).collect();
            let is_over = ready[0]
                || (ready[1] && self.container_end.has_ended())
                || (ready.get(3) == Some(&true) && !self.read_input());
            if is_over {
                self.give_back();
                return Ok(());
            }
            if ready[2] && !self.obey() {
                // The address stays until its lease ends: the kernel takes it away then.
                return Ok(());
            }
        }
    }

    /// Reads on the standard input; `false`: whoever launched this process does not want it.
    fn read_input(&mut self) -> bool {
        let Some(input) = &mut self.input else { return true };
        let mut line = [0; KEEP.len() + 1];
        let is_kept = input
            .read(&mut line)
            .is_ok_and(|length| line[..length].trim_ascii_end() == KEEP.as_bytes());
        self.input = None;
        self.answer = None;
        is_kept
    }

    /// Carries out the speaker's next order; `false`: it has gone, or its order is none.
    fn obey(&mut self) -> bool {
        let mut bytes = [0; LONGEST + 1];
        let Ok(length @ 1..) = read(&self.speaker, &mut bytes) else { return false };
        let before = self.address();
        let done = match Order::parse(&bytes[..length]) {
            Some(Order::Set(leased)) => {
                let (server, seconds) = (Some(leased.server.into()), leased.seconds);
                let routes = self.routes(&leased);
                self.set(leased.address.into(), server, (seconds, seconds), routes)
            }
            Some(Order::SetV6(leased)) => {
                let address = IpNet::V6(Ipv6Net::from(leased.address));
                self.set(address, None, (leased.preferred, leased.valid), Vec::new())
            }
            Some(Order::Remove) => self.remove(),
            Some(Order::Declined { address, mac }) => {
                if let Some(answer) = &mut self.answer {
                    // Who does not read it closes the input too.
                    let _ = answer.write_all(format!("{DECLINED}{address} {mac}\n").as_bytes());
                }
                Ok(())
            }
            None => return false,
        };
        let answered = write(&self.speaker, &[if done.is_ok() { DONE } else { FAILED }]);
        if done.is_ok()
            && let Some(lease) = &self.held
            && let Some(mut answer) = self.answer.take()
        {
            // Who does not read it closes the input too.
            let _ = answer.write_all(format!("{LEASED}{}\n", lease.address).as_bytes());
        }
        // Before the record names this process, the attachment service leads the way.
        if let (Some(parent), None) = (&self.task.shim_parent, &self.input)
            && self.address() != before
        {
            // What fails is set by whoever changes a record next, and by `mcrun reload`.
            let _ = shim_route::follow(parent, self.task.mac, before, self.address());
        }
        done.is_ok() && answered.is_ok()
    }

    fn address(&self) -> Option<Ipv4Addr> {
        match self.held.as_ref()?.address {
            IpNet::V4(net) => Some(net.addr()),
            IpNet::V6(_) => None,
        }
    }

    /// Gives the interface an address, for as many seconds as it is preferred and valid.
    fn set(
        &mut self,
        address: IpNet,
        server: Option<IpAddr>,
        (preferred, valid): (u32, u32),
        routes: Vec<Route>,
    ) -> Result<(), NetlinkError> {
        if self.held.as_ref().is_some_and(|held| held.address != address) {
            self.remove()?;
        }
        let index = self.task.index;
        let message = leased_address(index, address, preferred, valid);
        self.route.request(message, NLM_F_CREATE | NLM_F_REPLACE)?;
        let before = self.held.take().map(|held| held.routes).unwrap_or_default();
        for old in before.iter().filter(|old| !routes.contains(old)) {
            let _ = self.route.request(delete_route(self.route_message(old)), 0);
        }
        for route in &routes {
            // It is there since the last time, or the container has another one. A next hop that
            // cannot be reached is the server's mistake: the address is good all the same.
            let _ = self.route.request(self.route_message(route), NLM_F_CREATE | NLM_F_EXCL);
        }
        let ends_at =
            (valid != u32::MAX).then(|| seconds_since_1970().saturating_add(valid.into()));
        let lease = DhcpLease { address, server, ends_at, routes };
        // What is not written is not shown; the address is there.
        let _ = self.file.write(&lease);
        self.held = Some(lease);
        Ok(())
    }

    /// The routes that go with a lease: those of the attachment come first.
    fn routes(&self, leased: &LeasedAddress) -> Vec<Route> {
        let default = IpNet::V4(Ipv4Net::default());
        let own = self
            .task
            .gateway
            .map(|gateway| Route { destination: default, gateway: Some(IpAddr::V4(gateway)) });
        let mut routes: Vec<Route> = Vec::new();
        let given = leased.routes.iter().map(|route| Route {
            destination: IpNet::V4(route.destination),
            gateway: Some(route.gateway).filter(|g| !g.is_unspecified()).map(IpAddr::V4),
        });
        for route in self.task.routes.iter().copied().chain(own).chain(given) {
            if routes.iter().all(|other| other.destination != route.destination) {
                routes.push(route);
            }
        }
        routes
    }

    fn route_message(&self, route: &Route) -> netlink_packet_route::RouteNetlinkMessage {
        // A default route without a metric would replace the engine's own.
        let metric = if route.destination.prefix_len() == 0 { self.task.metric } else { 0 };
        new_route(self.task.index, route.destination, route.gateway, metric)
    }

    fn remove(&mut self) -> Result<(), NetlinkError> {
        self.file.remove_lease();
        let Some(held) = self.held.take() else { return Ok(()) };
        for route in &held.routes {
            let _ = self.route.request(delete_route(self.route_message(route)), 0);
        }
        match self.route.request(delete_address(self.task.index, held.address), 0) {
            // The kernel has taken it away at the end of its lease, or somebody in the container has.
            Err(error) if error.errno == libc::EADDRNOTAVAIL => Ok(()),
            result => result,
        }
    }

    /// Takes the address away and has the speaker return it to the server.
    fn give_back(&mut self) {
        // A link that has gone has no address.
        let _ = self.remove();
        self.file.remove();
        let deadline = Instant::now() + LAST_WORD;
        if write(&self.speaker, &[RELEASE]).is_err() {
            return;
        }
        // Its last orders are not carried out.
        let mut bytes = [0; LONGEST];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            match poll(&mut [PollFd::new(self.speaker.as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(1..) => {}
                Err(Errno::EINTR) => continue,
                _ => return,
            }
            if !matches!(read(&self.speaker, &mut bytes), Ok(1..)) {
                return;
            }
        }
    }
}
