//! How many sockets of a network namespace can receive UDP: bound UDP and UDP-Lite sockets, and raw
//! ones (/proc/net/sockstat and sockstat6, `sockstat_seq_show` in net/ipv4/proc.c).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// More than the kernel writes: a line for each of five protocols.
const LONGEST: usize = 1024;

/// The files of one network namespace.
#[derive(Debug)]
pub(crate) struct BoundSockets {
    files: Vec<File>,
}

impl BoundSockets {
    /// Opens the files of the calling thread's namespace. A kernel without IPv6 has one of them only.
    ///
    /// # Errors
    /// Those of open(2).
    pub(crate) fn open() -> io::Result<Self> {
        let mut files = vec![File::open("/proc/thread-self/net/sockstat")?];
        files.extend(File::open("/proc/thread-self/net/sockstat6"));
        Ok(BoundSockets { files })
    }

    /// The counts now, by protocol. They cost the kernel the same however many sockets there are.
    ///
    /// # Errors
    /// Those of read(2).
    pub(crate) fn counts(&self) -> io::Result<Vec<u64>> {
        let mut counts = Vec::new();
        for file in &self.files {
            let mut text = [0; LONGEST];
            let length = file.read_at(&mut text, 0)?;
            counts.extend(parse(&String::from_utf8_lossy(&text[..length])));
        }
        Ok(counts)
    }
}

fn parse(text: &str) -> impl Iterator<Item = u64> {
    let lines = text.lines().filter(|line| line.starts_with("UDP") || line.starts_with("RAW"));
    lines.filter_map(|line| line.split_ascii_whitespace().nth(2)?.parse().ok())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};

    use super::*;

    #[test]
    fn lines_of_the_kernel_are_understood() {
        let text = "sockets: used 11\nTCP: inuse 1 orphan 0 tw 0 alloc 1 mem 0\nUDP: inuse 7 mem 0\n\
                    UDPLITE: inuse 2\nRAW: inuse 3\nFRAG: inuse 9 memory 0\n";
        assert_eq!(parse(text).collect::<Vec<_>>(), [7, 2, 3]);
        let text = "TCP6: inuse 4\nUDP6: inuse 5\nUDPLITE6: inuse 0\nRAW6: inuse 1\n";
        assert_eq!(parse(text).collect::<Vec<_>>(), [5, 0, 1]);
    }

    #[test]
    fn a_bound_socket_counts() {
        // Other tests open sockets too, so a namespace of its own is needed.
        std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let sockets = BoundSockets::open().unwrap();
            let before = sockets.counts().unwrap();
            assert_eq!(before.iter().sum::<u64>(), 0);
            let bound = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            assert_eq!(sockets.counts().unwrap().iter().sum::<u64>(), 1);
            drop(bound);
            assert_eq!(sockets.counts().unwrap(), before);
        })
        .join()
        .unwrap();
    }
}
