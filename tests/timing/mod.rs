//! How long tests take: libtest tells that on nightly toolchains alone.

use std::fs::File;
use std::io::Write;
use std::time::Instant;

/// Names a file to which each test that makes one of these appends a line: seconds and its name.
const VARIABLE: &str = "MCRUN_TEST_TIMES";

/// Measures from its start to its end. A test may make several, one after the other.
pub struct Timing(Instant);

impl Timing {
    pub fn start() -> Timing {
        Timing(Instant::now())
    }
}

impl Drop for Timing {
    fn drop(&mut self) {
        let Some(path) = std::env::var_os(VARIABLE) else { return };
        // libtest calls a test's thread by the test's name.
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unknown");
        let line = format!("{:.1} {name}\n", self.0.elapsed().as_secs_f64());
        // In one write, since tests run beside each other. A report that fails fails no test.
        let file = File::options().append(true).create(true).open(path);
        let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
    }
}
