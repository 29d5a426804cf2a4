//! A capture of what comes in at a switch port.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use super::process::{Background, wait_until};
use super::{IgmpFrame, Lab, PATIENCE};

/// A running tcpdump.
pub struct Capture {
    tcpdump: Background,
    file: PathBuf,
}

impl Capture {
    /// Returns when the capture has begun.
    pub(super) fn start(lab: &Lab, port: &str, filter: &str) -> Capture {
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
                .args(["-i", port, "-Q", "in", "-n", "--immediate-mode", "-U", "-Z", "root"])
                .args(["-w", "-", filter])
                .stdout(Stdio::from(File::create(&file).expect("capture file")))
                .stderr(Stdio::from(File::create(&log).expect("log file"))),
        );
        wait_until("tcpdump listens", PATIENCE, || {
            fs::read_to_string(&log).ok()?.contains("listening on").then_some(())
        });
        Capture { tcpdump, file }
    }

    /// The frames up to now.
    pub fn frames(&self) -> Vec<Vec<u8>> {
        frames(&fs::read(&self.file).expect("capture file"))
    }

    /// The IGMP messages up to now.
    pub fn igmp(&self) -> Vec<IgmpFrame> {
        self.frames().iter().filter_map(|frame| IgmpFrame::parse(frame)).collect()
    }

    /// Ends the capture; everything it saw.
    pub fn finish(mut self) -> Vec<IgmpFrame> {
        self.tcpdump.signal(libc::SIGINT);
        self.tcpdump.wait(Duration::from_secs(10));
        self.igmp()
    }
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
