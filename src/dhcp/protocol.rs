//! What the process that speaks to servers does of either protocol: frames in, frames and orders out.
//! Pure.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use crate::dhcp::message::ServerMessage;
use crate::dhcp::order::Order;
use crate::dhcp::{client, client_v6, frame, frame_v6, message_v6};
use crate::net::address_probe::conflict;
use crate::net::arp_announcement::{arp_probe, gratuitous_request};
use crate::net::neighbour_discovery;
use crate::primitives::MacAddr;

/// What is to be done.
#[derive(Debug)]
pub enum Step {
    /// Send this frame to servers, or to tell the LAN.
    Send(Vec<u8>),
    /// Send this frame, which asks the LAN for an address.
    Ask(Vec<u8>),
    /// Have the holder do this.
    Order(Order),
}

/// A client of one of the protocols.
pub enum Protocol {
    /// Of DHCPv4.
    V4(V4),
    /// Of DHCPv6.
    V6(V6),
}

/// DHCPv4.
pub struct V4 {
    client: client::Client,
    mac: MacAddr,
    /// What the LAN was told of.
    announced: Option<Ipv4Addr>,
    /// What comes behind the last step.
    next: VecDeque<Step>,
}

/// DHCPv6.
pub struct V6 {
    client: client_v6::Client,
    mac: MacAddr,
    /// What the LAN was told of.
    announced: Option<Ipv6Addr>,
    /// What comes behind the last step.
    next: VecDeque<Step>,
}

impl Protocol {
    /// DHCPv4 for the interface of this MAC address.
    pub fn v4(client: client::Client, mac: MacAddr) -> Self {
        Protocol::V4(V4 { client, mac, announced: None, next: VecDeque::new() })
    }

    /// DHCPv6.
    pub fn v6(client: client_v6::Client, mac: MacAddr) -> Self {
        Protocol::V6(V6 { client, mac, announced: None, next: VecDeque::new() })
    }

    /// When [`Self::handle_timeout`] is to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self {
            Protocol::V4(v4) => v4.client.poll_timeout(),
            Protocol::V6(v6) => v6.client.poll_timeout(),
        }
    }

    /// Time has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        match self {
            Protocol::V4(v4) => v4.client.handle_timeout(now),
            Protocol::V6(v6) => v6.client.handle_timeout(now),
        }
    }

    /// Gives the address back.
    pub fn release(&mut self) {
        match self {
            Protocol::V4(v4) => v4.client.release(),
            Protocol::V6(v6) => v6.client.release(),
        }
    }

    /// What to do next.
    pub fn next_step(&mut self) -> Option<Step> {
        match self {
            Protocol::V4(v4) => v4.next_step(),
            Protocol::V6(v6) => v6.next_step(),
        }
    }

    /// A frame has come that may be a server's.
    pub fn handle_frame(&mut self, frame: &[u8], now: Instant) {
        match self {
            Protocol::V4(V4 { client, .. }) => {
                if let Some((from, payload)) = frame::server_payload(frame)
                    && let Some(message) = ServerMessage::parse(payload)
                {
                    client.handle_message(&message, from, now);
                }
            }
            Protocol::V6(V6 { client, .. }) => {
                let payload = frame_v6::server_payload(frame);
                if let Some(message) = payload.and_then(message_v6::ServerMessage::parse) {
                    client.handle_message(&message, now);
                }
            }
        }
    }

    /// A frame has come that may show who has an address.
    pub fn handle_answer(&mut self, frame: &[u8], now: Instant) {
        match self {
            Protocol::V4(V4 { client, mac, .. }) => {
                let probed = client.probed();
                let found = conflict(frame, *mac, |asked| probed == Some(asked));
                if let Some((address, station)) = found {
                    client.handle_conflict(address, station, now);
                }
            }
            Protocol::V6(V6 { client, mac, .. }) => {
                let probed = client.probed();
                let found = neighbour_discovery::conflict(frame, *mac, |a| probed == Some(a));
                if let Some((address, station)) = found {
                    client.handle_conflict(address, station, now);
                }
            }
        }
    }
}

impl V4 {
    fn next_step(&mut self) -> Option<Step> {
        use client::Action;
        if let Some(next) = self.next.pop_front() {
            return Some(next);
        }
        Some(match self.client.poll_action()? {
            Action::Send(frame) => Step::Send(frame),
            Action::Probe(address) => Step::Ask(arp_probe(self.mac, address).to_vec()),
            Action::Set(lease) => {
                let address = lease.address.addr();
                if self.announced.replace(address) != Some(address) {
                    let frame = gratuitous_request(address, self.mac);
                    self.next.push_back(Step::Send(frame.to_vec()));
                }
                Step::Order(Order::of(&lease))
            }
            Action::Declined { address, mac } => {
                self.announced = None;
                Step::Order(Order::Declined { address: address.into(), mac })
            }
            Action::Remove => {
                self.announced = None;
                Step::Order(Order::Remove)
            }
        })
    }
}

impl V6 {
    fn next_step(&mut self) -> Option<Step> {
        use client_v6::Action;
        if let Some(next) = self.next.pop_front() {
            return Some(next);
        }
        Some(match self.client.poll_action()? {
            Action::Send(message) => Step::Send(frame_v6::client_frame(self.mac, &message)),
            Action::Probe(address) => Step::Ask(neighbour_discovery::probe(self.mac, address)),
            Action::Set(lease) => {
                // The address was asked for already, so that the kernel is told to detect no duplicate,
                // and announces nothing.
                if self.announced.replace(lease.address) != Some(lease.address) {
                    let frame = neighbour_discovery::advertisement_frame(self.mac, lease.address);
                    self.next.push_back(Step::Send(frame));
                }
                Step::Order(Order::SetV6(lease))
            }
            Action::Declined { address, mac } => {
                self.announced = None;
                Step::Order(Order::Declined { address: address.into(), mac })
            }
            Action::Remove => {
                self.announced = None;
                Step::Order(Order::Remove)
            }
        })
    }
}
