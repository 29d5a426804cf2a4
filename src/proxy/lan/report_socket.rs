//! Reports of the proxy's own: a raw socket that sends IGMP or MLD on one interface of the host, from
//! the host's address, and receives nothing.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::net::Ipv4Addr;
use std::os::unix::fs::FileExt;

use socket2::Socket;

use crate::igmp::message::Message;
use crate::proxy::lan::family::LanFamily;
pub(crate) use crate::proxy::lan::family::MTU;
use crate::sys::sockopt;

/// Bytes that are read of the kernel's addresses: what it returns at once, some fifty addresses.
const ADDRESSES: usize = 4096;

/// Sends reports on one interface of the host.
pub(crate) struct ReportSocket<A = Ipv4Addr> {
    socket: Socket,
    index: u32,
    /// The kernel's file of addresses; `None`: the kernel puts the address into the packets.
    sources: Option<File>,
    source: Cell<A>,
}

impl<A: LanFamily> ReportSocket<A> {
    /// Opens one in the caller's namespace.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_RAW, `ENODEV` when there is no such interface.
    pub(crate) fn open(name: &str, index: u32) -> io::Result<Self> {
        SpareReportSocket::open()?.turn_to(name, index)
    }

    /// Sends a message that fits in one packet; one that does not is left to the kernel.
    pub(crate) fn send_whole(&self, message: &Message<A>) {
        if let [packet] = self.packets(message).as_slice() {
            self.send_packet(message, packet);
        }
    }

    /// Sends a message, in several packets where it does not fit in one.
    pub(crate) fn send(&self, message: &Message<A>) {
        for packet in self.packets(message) {
            self.send_packet(message, &packet);
        }
    }

    /// Looks up the address that reports come from. Until the next call it is taken for that of the
    /// host, if it has one at all.
    pub(crate) fn look_up_source(&self) {
        if let Some(file) = &self.sources {
            let mut text = [0; ADDRESSES];
            let length = file.read_at(&mut text, 0).unwrap_or(0);
            let text = String::from_utf8_lossy(text.get(..length).unwrap_or_default());
            self.source.set(A::source(&text, self.index));
        }
    }

    fn packets(&self, message: &Message<A>) -> Vec<Vec<u8>> {
        if self.source.get() == A::UNSPECIFIED {
            self.look_up_source();
        }
        A::packets(message, self.source.get())
    }

    /// A report that cannot be sent is no error: others follow. Whether the host lets reports out
    /// is looked at elsewhere.
    fn send_packet(&self, message: &Message<A>, packet: &[u8]) {
        let _ = A::send(&self.socket, packet, A::destination(message));
    }
}

/// A report socket of no interface yet. It can be turned to one once, without privileges.
pub(crate) struct SpareReportSocket<A = Ipv4Addr> {
    socket: Socket,
    sources: Option<File>,
    family: PhantomData<A>,
}

impl<A: LanFamily> SpareReportSocket<A> {
    /// Opens one in the caller's namespace.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_RAW.
    pub(crate) fn open() -> io::Result<Self> {
        let sources = A::SOURCES_FILE.map(File::open).transpose()?;
        Ok(SpareReportSocket { socket: A::open_sender()?, sources, family: PhantomData })
    }

    /// Sends on the interface of this name and index from now on.
    ///
    /// # Errors
    /// `ENODEV` when there is no such interface; `EPERM` before Linux 5.7, without privileges.
    pub(crate) fn turn_to(self, name: &str, index: u32) -> io::Result<ReportSocket<A>> {
        let SpareReportSocket { socket, sources, .. } = self;
        socket.bind_device(Some(name.as_bytes()))?;
        sockopt::set_multicast_interface(&socket, index, A::UNSPECIFIED.into())?;
        let socket = ReportSocket { socket, index, sources, source: Cell::new(A::UNSPECIFIED) };
        socket.look_up_source();
        Ok(socket)
    }
}
