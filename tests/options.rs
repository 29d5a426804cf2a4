//! What mcrun knows of the engines' options, compared with the engines that are installed.

use std::process::{Command, Stdio};

use mcrun::engine::option_table::HelpOptions;

fn compare(engine: &str) {
    for command in ["run", "create"] {
        let output = Command::new(engine)
            .args([command, "--help"])
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|e| panic!("{engine}: {e}: install it (make test does)"));
        let help = HelpOptions::parse(&String::from_utf8_lossy(&output.stdout));
        // A help that was not understood would agree with everything.
        assert!(help.long.len() > 60, "{engine} {command} --help: {help:?}");
        assert_eq!(help.short.get(&b'e'), Some(&true), "{engine}");
        assert_eq!(help.short.get(&b't'), Some(&false), "{engine}");
        let differences = help.differences();
        assert!(differences.is_empty(), "{engine} {command}: {differences:?}");
    }
}

#[test]
fn the_table_agrees_with_docker() {
    compare("docker");
}

#[test]
fn the_table_agrees_with_podman() {
    compare("podman");
}
