//! README.md and docs/: links lead somewhere, texts are those of the programs, and commands work.

mod page;
mod reader;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use self::page::{Block, Page, page, pages, root};
use self::reader::{Needs, read};

/// Pages whose commands are run, each by a test below.
const READ: [&str; 13] = [
    "README.md",
    "docs/doctor.md",
    "docs/engines.md",
    "docs/how-it-works.md",
    "docs/metrics.md",
    "docs/reference/attachment.md",
    "docs/reference/commands.md",
    "docs/reference/configuration.md",
    "docs/reference/drivers.md",
    "docs/reference/networks.md",
    "docs/reference/policy.md",
    "docs/security.md",
    "docs/troubleshooting.md",
];

/// Blocks that are not run: the page, the first line, and why.
const NOT_RUN: [(&str, &str, &str); 18] = [
    ("README.md", "make demo      #", "`.ci/run` and demo.rs run it"),
    ("README.md", "make && sudo make install", "install.rs runs it, into a directory of its own"),
    (
        "docs/engines.md",
        "sudo mcrun setup containerd",
        "there is no systemd; setup.rs has the rest",
    ),
    (
        "README.md",
        "sudo systemctl enable --now mcrun-docker.socket",
        "there is no systemd; the reader has a driver",
    ),
    (
        "docs/engines.md",
        "sudo systemctl enable --now mcrun-docker.socket",
        "there is no systemd; the reader has a driver",
    ),
    (
        "docs/engines.md",
        "sudo ctr run",
        "runtime_containerd.rs runs it, on a containerd of its own",
    ),
    (
        "docs/engines.md",
        "sudo docker run --rm --runtime mcrun --annotation",
        "Debian 12's docker has no annotations; runtime_containerd.rs has one",
    ),
    (
        "docs/engines.md",
        "sudo mcrun attach cam --engine lxc",
        "it needs LXC; under_systemd/machines.rs runs it",
    ),
    (
        "docs/engines.md",
        "sudo incus config set cam",
        "it needs Incus; under_systemd/machines.rs runs it",
    ),
    (
        "docs/engines.md",
        "sudo mcrun attach mic --engine nspawn",
        "there is no systemd; under_systemd/machines.rs runs it",
    ),
    ("docs/engines.md", "sudo mcrun setup crio", "Debian 12 has no CRI-O; setup.rs has the rest"),
    (
        "docs/engines.md",
        "sudo mcrun attach \"$(podman inspect",
        "there is no rootless podman; attach.rs attaches a container of a user namespace",
    ),
    (
        "docs/engines.md",
        "sudo podman network create -d mcrun",
        "Debian 12's podman has no drivers of others; netavark has one that does",
    ),
    ("docs/engines.md", "sudo podman run --rm --device", "podman 4.3 reads the machine's /etc/cdi"),
    (
        "docs/reference/attachment.md",
        "sudo mcrun run --rootfs rootfs --mcast parent=eth1,ip=dhcp",
        "it needs a server; dhcp.rs runs it",
    ),
    ("docs/performance.md", "make bench", "it takes minutes, and reports instead of testing"),
    ("CONTRIBUTING.md", "make lint", "`.ci/run` runs it"),
    ("CONTRIBUTING.md", "benches/bench.py --from", "it changes a page, from a measurement"),
];

fn is_not_run(path: &str, block: &Block) -> bool {
    NOT_RUN.iter().any(|(page, line, _)| *page == path && block.first_line().starts_with(line))
}

fn read_page(path: &str, needs: Needs) {
    assert!(READ.contains(&path), "{path} is not in the list of pages that are read");
    read(path, needs, |block| is_not_run(path, block));
}

#[test]
fn the_commands_of_the_readme() {
    read_page("README.md", Needs::EnginesAndEmptyDirectory);
}

#[test]
fn the_commands_of_engines() {
    read_page("docs/engines.md", Needs::Engines);
}

#[test]
fn the_commands_of_troubleshooting() {
    read_page("docs/troubleshooting.md", Needs::Docker);
}

#[test]
fn the_commands_of_drivers() {
    read_page("docs/reference/drivers.md", Needs::Docker);
}

#[test]
fn the_commands_of_pages_that_need_no_engine() {
    for path in [
        "docs/doctor.md",
        "docs/how-it-works.md",
        "docs/metrics.md",
        "docs/reference/attachment.md",
        "docs/reference/commands.md",
        "docs/reference/configuration.md",
        "docs/reference/networks.md",
        "docs/reference/policy.md",
        "docs/security.md",
    ] {
        read_page(path, Needs::Nothing);
    }
}

#[test]
fn every_command_is_run_or_listed_with_a_reason() {
    for page in pages() {
        for block in page.blocks().iter().filter(|block| block.is_command()) {
            let path = page.path.as_str();
            assert!(
                READ.contains(&path) || is_not_run(path, block),
                "{path}, line {}: no test runs this:\n{}",
                block.line,
                block.text
            );
        }
    }
    for (path, line, _) in NOT_RUN {
        let is_it = |block: &Block| block.first_line().starts_with(line);
        assert!(page(path).blocks().iter().any(is_it), "{path} has no block {line:?} any more");
    }
}

#[test]
fn every_block_says_what_it_is() {
    for page in pages() {
        for block in page.blocks() {
            assert!(!block.info.is_empty(), "{}, line {}: a bare ```", page.path, block.line);
        }
    }
}

#[test]
fn every_link_leads_somewhere() {
    let mut seen = 0;
    for page in pages() {
        for link in page.links().iter().filter(|link| !link.contains("://")) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let here = Path::new(&page.path).parent().expect("a directory");
            let file = if path.is_empty() { page.path.clone().into() } else { here.join(path) };
            assert!(root().join(&file).exists(), "{}: {link}", page.path);
            if !anchor.is_empty() {
                let text = fs::read_to_string(root().join(&file)).expect("a page");
                let target = Page { path: link.clone(), text };
                assert!(target.anchors().iter().any(|a| a == anchor), "{}: {link}", page.path);
            }
            seen += 1;
        }
    }
    assert!(seen > 20, "links were found");
}

/// A path with a word in capitals stands for several.
#[test]
fn every_path_of_the_source_tree_is_there() {
    let mut seen = 0;
    for path in ["ARCHITECTURE.md", "CONTRIBUTING.md"] {
        let prose = page(path).prose();
        for word in prose.split('`').skip(1).step_by(2) {
            let folders = ["src/", "tests/", "docs/", "benches/", "scripts/", "hooks/", "man/"];
            let is_path = folders.iter().any(|folder| word.starts_with(folder));
            if is_path && !word.contains(|c: char| c.is_uppercase() || c.is_whitespace()) {
                assert!(root().join(word).exists(), "{path}: {word}");
                seen += 1;
            }
        }
    }
    assert!(seen > 10, "paths were found");
}

#[test]
fn examples_are_the_delivered_files() {
    let engines = page("docs/engines.md");
    for file in ["config.json", "kubernetes/runtimeclass.yaml", "kubernetes/pod.yaml"] {
        let text = fs::read_to_string(root().join("hooks").join(file)).expect("file");
        let text: String = text.split_inclusive('\n').filter(|l| !l.starts_with('#')).collect();
        assert!(engines.blocks().iter().any(|block| block.text == text), "hooks/{file}");
    }
}

#[test]
fn every_test_that_a_page_names_is_there() {
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["--list", "--format", "terse"])
        .output()
        .expect("the list of tests");
    let list = String::from_utf8(output.stdout).expect("text");
    let tests: Vec<_> = list.lines().filter_map(|line| line.strip_suffix(": test")).collect();
    let is_there = |word: &str| {
        tests.iter().any(|test| {
            test.strip_prefix(word).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        })
    };
    let mut seen = 0;
    for page in pages().into_iter().filter(|page| page.path.starts_with("docs/")) {
        let prose = page.prose();
        let words = prose.split('`').skip(1).step_by(2).filter(|word| {
            word.contains("::")
                && word
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_:".contains(&b))
        });
        for word in words {
            // Addresses of IPv6 are written alike.
            if word.parse::<std::net::Ipv6Addr>().is_err() {
                assert!(is_there(word), "{}: no test {word}", page.path);
                seen += 1;
            }
        }
    }
    assert!(seen > 15, "tests were found");
    // Each way of each engine has a test, or a reason why not.
    let text = page("docs/engines.md").text;
    let rows = text.split_once("| engine | way | test |\n").expect("the table").1;
    let rows: Vec<_> = rows.lines().skip(1).take_while(|line| line.starts_with('|')).collect();
    for row in &rows {
        let cell = row.trim_end_matches(" |").rsplit(" | ").next().unwrap_or_default();
        let has_test = cell.split('`').skip(1).step_by(2).any(is_there);
        assert!(has_test || cell.starts_with("no, because "), "neither a test nor a reason: {row}");
    }
    assert!(rows.len() > 20, "rows were found");
}

/// The headings of the troubleshooting page are messages; a word in capitals stands for what
/// differs.
#[test]
fn every_message_of_the_troubleshooting_page_is_in_the_sources() {
    let sources = sources();
    let page = page("docs/troubleshooting.md");
    let headings: Vec<_> = page
        .text
        .lines()
        .filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`'))
        .collect();
    assert!(headings.len() > 30, "messages were found");
    let mut unique = BTreeSet::new();
    for message in headings {
        assert!(unique.insert(message), "{message} is there twice");
        for part in fixed_parts(message) {
            assert!(sources.contains(&part), "no program says {part:?} ({message})");
        }
    }
}

/// What stands between the placeholders of a message: words of capitals, also as a part of a word.
fn fixed_parts(message: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut characters = message.chars().peekable();
    while let Some(c) = characters.next() {
        let starts = c.is_ascii_uppercase()
            && characters.peek().is_none_or(|next| !next.is_ascii_lowercase());
        let known = ["IGMP", "IPv4", "KEY=VALUE", "ADDRESS/PREFIX", "LAN", "OCI", "PATH", "IGMPv"];
        let rest: String = std::iter::once(c).chain(characters.clone()).collect();
        if let Some(word) = known.iter().rev().find(|word| rest.starts_with(**word)) {
            parts.last_mut().expect("a part").push_str(word);
            for _ in 1..word.chars().count() {
                characters.next();
            }
        } else if starts {
            while characters.next_if(|c| c.is_ascii_uppercase()).is_some() {}
            parts.push(String::new());
        } else {
            parts.last_mut().expect("a part").push(c);
        }
    }
    let trimmed = parts.iter().map(|part| part.trim_matches(|c: char| !c.is_alphanumeric()));
    trimmed.filter(|part| part.len() > 3).map(str::to_owned).collect()
}

/// All sources as one text, strings that go over several lines as one line.
fn sources() -> String {
    fn collect(directory: &Path, into: &mut String) {
        for entry in fs::read_dir(directory).expect("directory") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                collect(&path, into);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("text");
                let mut lines = text.lines();
                while let Some(line) = lines.next() {
                    let mut line = line.to_owned();
                    while line.ends_with('\\') {
                        line.pop();
                        line.push_str(lines.next().unwrap_or_default().trim_start());
                    }
                    into.push_str(&line.replace("\\\"", "\""));
                    into.push('\n');
                }
            }
        }
    }
    let mut text = String::new();
    collect(&root().join("src"), &mut text);
    text
}
