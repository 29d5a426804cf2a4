//! A DHCP server that answers as a test wants: for short leases, refusals, silence and nonsense.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::lab::{Lab, PARENT, SOURCES};

/// How it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// With this address, whose renewal is due after a quarter of the time.
    Lease {
        address: Ipv4Addr,
        seconds: u32,
        gateway: u8,
    },
    /// Requests with a NAK, and questions with nothing.
    Refuse,
    Silence,
    /// The first question with packets that are no answers, and then as it is told.
    Noise,
}

/// A request for an address, as the server has heard it.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    pub at: Instant,
    /// The address that the client has; unspecified: none.
    pub own: Ipv4Addr,
    /// Whether it was sent to the server alone.
    pub is_unicast: bool,
}

struct Shared {
    reply: Mutex<Reply>,
    requests: Mutex<Vec<Request>>,
    after_noise: Mutex<Option<Reply>>,
    released: AtomicBool,
    declined: AtomicU32,
    end: AtomicBool,
}

pub struct Server {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    pub fn start(lab: &Lab, reply: Reply) -> Server {
        let open = |address: Ipv4Addr| {
            let socket =
                Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).expect("socket");
            socket.set_reuse_address(true).expect("option");
            socket.set_broadcast(true).expect("option");
            socket.bind_device(Some(PARENT.as_bytes())).expect("device");
            socket.bind(&SocketAddrV4::new(address, 67).into()).expect("bind");
            socket.set_read_timeout(Some(Duration::from_millis(100))).expect("timeout");
            UdpSocket::from(socket)
        };
        // The kernel hands to the socket of an address what was sent to it, and the rest to the other one.
        let sockets = lab.run_in("src", || [Ipv4Addr::UNSPECIFIED, SOURCES[0]].map(open));
        let shared = Arc::new(Shared {
            reply: Mutex::new(reply),
            requests: Mutex::new(Vec::new()),
            after_noise: Mutex::new(None),
            released: AtomicBool::new(false),
            declined: AtomicU32::new(0),
            end: AtomicBool::new(false),
        });
        let threads = sockets.into_iter().zip([false, true]).map(|(socket, is_unicast)| {
            let own = Arc::clone(&shared);
            std::thread::spawn(move || serve(&socket, is_unicast, &own))
        });
        let threads = threads.collect();
        Server { shared, threads }
    }

    /// All requests up to now.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().expect("lock").clone()
    }

    pub fn set(&self, reply: Reply) {
        *self.shared.reply.lock().expect("lock") = reply;
    }

    pub fn set_after_noise(&self, reply: Reply) {
        *self.shared.after_noise.lock().expect("lock") = Some(reply);
    }

    /// Whether an address was given back.
    pub fn released(&self) -> bool {
        crate::lab::wait_until("the release arrives", crate::lab::PATIENCE, || {
            self.shared.released.load(Ordering::Relaxed).then_some(())
        });
        true
    }

    /// How many addresses were declined.
    pub fn declined(&self) -> u32 {
        self.shared.declined.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn serve(socket: &UdpSocket, is_unicast: bool, shared: &Shared) {
    let mut buffer = [0; 1500];
    while !shared.end.load(Ordering::Relaxed) {
        let Ok((length, _)) = socket.recv_from(&mut buffer) else { continue };
        let question = &buffer[..length];
        let Some(kind) = option(question, 53).and_then(|value| value.first().copied()) else {
            continue;
        };
        if kind == 4 {
            shared.declined.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        if kind == 7 {
            shared.released.store(true, Ordering::Relaxed);
            continue;
        }
        if kind == 3 {
            let own: [u8; 4] = question[12..16].try_into().expect("four bytes");
            let request = Request { at: Instant::now(), own: own.into(), is_unicast };
            shared.requests.lock().expect("lock").push(request);
        }
        let mut reply = *shared.reply.lock().expect("lock");
        if reply == Reply::Noise {
            noise(socket, question);
            if let Some(next) = *shared.after_noise.lock().expect("lock") {
                *shared.reply.lock().expect("lock") = next;
                reply = next;
            }
        }
        let told = match (kind, reply) {
            (1, Reply::Lease { address, seconds, gateway }) => {
                answer(question, 2, address, seconds, gateway)
            }
            (3, Reply::Lease { address, seconds, gateway }) => {
                let wanted = option(question, 50).map_or(&question[12..16], |value| value);
                let kind = if wanted == address.octets() { 5 } else { 6 };
                answer(question, kind, address, seconds, gateway)
            }
            (3, Reply::Refuse) => answer(question, 6, Ipv4Addr::UNSPECIFIED, 0, 0),
            _ => continue,
        };
        let _ = socket.send_to(&told, (Ipv4Addr::BROADCAST, 68));
    }
}

/// Answers with what no client should believe.
fn noise(socket: &UdpSocket, question: &[u8]) {
    let good = answer(question, 2, Ipv4Addr::new(224, 0, 0, 1), 600, 254);
    let mut all = vec![Vec::new(), vec![0xff; 1400], vec![0; 300], good.clone()];
    all.extend((0..good.len()).step_by(7).map(|length| good[..length].to_vec()));
    all.extend((230..good.len()).map(|at| {
        let mut bad = good.clone();
        bad[at] ^= 0xff;
        bad
    }));
    for bytes in all {
        let _ = socket.send_to(&bytes, (Ipv4Addr::BROADCAST, 68));
    }
}

fn answer(question: &[u8], kind: u8, address: Ipv4Addr, seconds: u32, gateway: u8) -> Vec<u8> {
    let mut bytes = vec![0; 236];
    bytes[..3].copy_from_slice(&[2, 1, 6]);
    bytes[4..8].copy_from_slice(&question[4..8]);
    bytes[28..34].copy_from_slice(&question[28..34]);
    if kind != 6 {
        bytes[16..20].copy_from_slice(&address.octets());
    }
    bytes.extend([99, 130, 83, 99, 53, 1, kind, 54, 4]);
    bytes.extend(SOURCES[0].octets());
    if kind != 6 {
        bytes.extend([1, 4, 255, 255, 255, 0, 3, 4, 10, 99, 0, gateway, 51, 4]);
        bytes.extend(seconds.to_be_bytes());
        bytes.extend([58, 4]);
        bytes.extend((seconds / 4).to_be_bytes());
    }
    bytes.push(255);
    bytes
}

fn option(message: &[u8], wanted: u8) -> Option<&[u8]> {
    let mut rest = message.get(240..)?;
    while let [code, length, behind @ ..] = rest {
        if *code == 255 {
            return None;
        }
        let (value, behind) = behind.split_at_checked(usize::from(*length))?;
        if *code == wanted {
            return Some(value);
        }
        rest = behind;
    }
    None
}
