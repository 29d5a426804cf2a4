//! The emulated machine.

use std::fs;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long the machine may take for all tests.
const LIMIT: Duration = Duration::from_secs(1200);

const KERNEL_OPTIONS: &str =
    "console=ttyS0 panic=-1 quiet loglevel=4 mitigations=off nokaslr norandmaps";

/// What a machine has beside its kernel.
#[derive(Debug)]
pub(super) struct Further {
    /// In MiB.
    pub(super) memory: u32,
    pub(super) kernel_options: &'static str,
    /// The image of a disk, which is not changed.
    pub(super) disk: Option<PathBuf>,
}

/// A running machine, which ends with its owner.
pub(super) struct Machine {
    qemu: Child,
    log: PathBuf,
}

impl Machine {
    /// Boots a kernel with the file system of its memory. What the kernel writes goes to `console`, what the
    /// first process writes for the host to `port`.
    pub(super) fn start(
        kernel: &Path,
        image: &Path,
        further: &Further,
        console: &Path,
        port: &Path,
    ) -> Result<Self, String> {
        let log = console.with_extension("log");
        let error = || File::create(&log).map_err(|e| e.to_string());
        let chardev = |id: &str, path: &Path| format!("file,id={id},path={}", path.display());
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-accel", "tcg,thread=single", "-cpu", "max", "-smp", "2"])
            .args(["-m", &further.memory.to_string()])
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .args(["-monitor", "none", "-nic", "none"])
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(image)
            // norandmaps: a program is translated once, and not at each of its starts.
            .args(["-append", &format!("{KERNEL_OPTIONS} {}", further.kernel_options)])
            .args(["-chardev", &chardev("console", console), "-serial", "chardev:console"])
            .args(["-chardev", &chardev("port", port), "-device", "virtio-serial-pci"])
            .args(["-device", "virtserialport,chardev=port,name=tests"])
            .args(further.disk.iter().flat_map(|disk| {
                // What the machine writes is gone with it.
                let drive = format!("file={},format=raw,if=virtio,snapshot=on", disk.display());
                ["-drive".to_owned(), drive]
            }))
            .stdin(Stdio::null())
            .stdout(error()?)
            .stderr(error()?);
        // SAFETY: between fork and exec, one async-signal-safe system call without memory. It ends
        // qemu when this thread ends, however that does; the thread waits for it.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
        let qemu = command.spawn().map_err(|e| {
            format!("qemu-system-x86_64: {e}: install qemu-system-x86 (make test does)")
        })?;
        Ok(Machine { qemu, log })
    }

    /// Waits for its end.
    pub(super) fn wait(&mut self) -> Result<(), String> {
        let start = Instant::now();
        while start.elapsed() < LIMIT {
            match self.qemu.try_wait().map_err(|e| e.to_string())? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => {
                    let log = fs::read_to_string(&self.log).unwrap_or_default();
                    return Err(format!("qemu: {status}\n{log}"));
                }
                None => std::thread::sleep(Duration::from_millis(50)),
            }
        }
        Err(format!("it has not ended after {LIMIT:?}"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}
