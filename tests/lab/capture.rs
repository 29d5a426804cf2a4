//! A capture of what comes in at a switch port.

use std::fs;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::process::{Background, run, wait_until};
use super::{IgmpFrame, Lab, PATIENCE, SWITCH};

/// UDP port of the packets that show how far a capture is.
const SENTINEL: u16 = 40000;

/// A running tcpdump.
pub struct Capture {
    tcpdump: Background,
    file: PathBuf,
    /// The network namespace of the container host.
    host: String,
}

impl Capture {
    /// Returns when the capture has begun.
    pub fn start(lab: &Lab, port: &str, filter: &str) -> Capture {
        let file = tempfile::Builder::new()
            .prefix("capture-")
            .tempfile_in(lab.directory())
            .expect("capture file")
            .into_temp_path()
            .keep()
            .expect("kept until the lab goes");
        let log = file.with_extension("log");
        let tcpdump = Background::start(
            lab.enter("sw", "tcpdump")
                // What the host sends is what comes in.
                .args([
                    "-i",
                    port,
                    "-Q",
                    "in",
                    "-n",
                    "--immediate-mode",
                    "-U",
                    "-Z",
                    "root",
                    "-s",
                    "2048",
                ])
                .args(["-w", "-", &format!("({filter}) or udp dst port {SENTINEL}")])
                .stdout(Stdio::from(File::create(&file).expect("capture file")))
                .stderr(Stdio::from(File::create(&log).expect("log file"))),
        );
        wait_until("tcpdump listens", PATIENCE, || {
            fs::read_to_string(&log).ok()?.contains("listening on").then_some(())
        });
        Capture { tcpdump, file, host: lab.namespace("host") }
    }

    /// The frames that tcpdump has written up to now: for polling.
    pub fn frames(&self) -> Vec<Vec<u8>> {
        let all = frames(&fs::read(&self.file).expect("capture file"));
        all.into_iter().filter(|frame| !is_sentinel(frame)).collect()
    }

    /// The IGMP messages that tcpdump has written up to now: for polling.
    pub fn igmp_so_far(&self) -> Vec<IgmpFrame> {
        self.frames().iter().filter_map(|frame| IgmpFrame::parse(frame)).collect()
    }

    /// The IGMP messages that have passed the port before this call.
    pub fn igmp(&self) -> Vec<IgmpFrame> {
        self.catch_up();
        self.igmp_so_far()
    }

    /// Waits until tcpdump has written what has passed: it may be behind, and what it has not yet
    /// read when it is stopped is lost.
    fn catch_up(&self) {
        let sentinels = || {
            let all = frames(&fs::read(&self.file).expect("capture file"));
            all.iter().filter(|frame| is_sentinel(frame)).count()
        };
        let before = sentinels();
        let script = format!("echo > /dev/udp/{SWITCH}/{SENTINEL}");
        run(Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", self.host))
            .args(["bash", "-c", &script]));
        wait_until("the capture has caught up", PATIENCE, || (sentinels() > before).then_some(()));
    }

    /// Ends the capture; everything it saw.
    pub fn finish(mut self) -> Vec<IgmpFrame> {
        self.catch_up();
        self.tcpdump.signal(libc::SIGINT);
        self.tcpdump.wait(Duration::from_secs(10));
        self.igmp_so_far()
    }
}

fn is_sentinel(frame: &[u8]) -> bool {
    // The protocol and the destination port, behind a header without options.
    frame.get(23) == Some(&17) && frame.get(36..38) == Some(&SENTINEL.to_be_bytes())
}

/// Whole packets of a pcap file that may still be growing.
fn frames(pcap: &[u8]) -> Vec<Vec<u8>> {
    const FILE_HEADER: usize = 24;
    const PACKET_HEADER: usize = 16;
    let mut rest = pcap.get(FILE_HEADER..).unwrap_or_default();
    let mut frames = Vec::new();
    while let Some(length) = rest.get(8..12) {
        // tcpdump writes in the byte order of this machine.
        let length = u32::from_ne_bytes(length.try_into().expect("four bytes")) as usize;
        let Some(frame) = rest.get(PACKET_HEADER..PACKET_HEADER + length) else { break };
        frames.push(frame.to_vec());
        rest = &rest[PACKET_HEADER + length..];
    }
    frames
}
