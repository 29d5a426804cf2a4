//! man/, completions/ and docs/reference/attachment-keys.md are in step with the command line and
//! the table of attachment keys.
//!
//! `make man` writes them anew: the pages of section 1 from the definition of the command line and
//! `generated/sections.rs`, mcrun-attachment(7) and docs/reference/attachment-keys.md from the
//! table of attachment keys. Other pages are not touched.

mod attachment_keys;
mod sections;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command as Process;

use clap::{Command, CommandFactory, Parser};
use clap_complete::Shell;
use mcrun::cli::Cli;

/// Set to write the files instead of comparing them.
const REGENERATE: &str = "MCRUN_REGENERATE";

/// Day of the pages' last change in substance.
const DATE: &str = "2026-11-28";

type Files = BTreeMap<String, String>;

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("generated text is UTF-8")
}

/// mcrun.1, and one page for each command that is not hidden.
fn man_pages() -> Files {
    fn add(command: &Command, files: &mut Files) {
        let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
        let mut page = Vec::new();
        clap_mangen::Man::new(command.clone())
            .title(name.to_uppercase())
            .render(&mut page)
            .expect("renders to memory");
        files.insert(format!("{name}.1"), complete(&name, &text(page)));
        for subcommand in command.get_subcommands().filter(|c| !c.is_hide_set()) {
            add(subcommand, files);
        }
    }

    // Building names the subcommands after their parents: mcrun-probe-send.
    let mut command = Cli::command();
    command.build();
    let mut files = Files::new();
    add(&command, &mut files);
    files
}

/// A page as clap_mangen makes it, with the sections that it does not make.
fn complete(name: &str, page: &str) -> String {
    let sections = sections::of(name)
        .unwrap_or_else(|| panic!("{name} has no entry in tests/generated/sections.rs"));
    let (page, _) = page.split_once(".SH VERSION\n").unwrap_or((page, ""));
    let (page, extra) = page.split_once(".SH EXTRA\n").unwrap_or((page, ""));
    let mut out = String::new();
    for line in page.replace(".br\n\n.br\n", ".sp\n").lines() {
        if line.starts_with(".TH ") {
            let title = name.to_uppercase().replace('-', "\\-");
            let version = env!("CARGO_PKG_VERSION");
            out += &format!(".TH {title} 1 {DATE} \"mcrun {version}\" \"mcrun manual\"\n");
        } else if !line.is_empty() {
            // A backslash-escaped blank would be needed to keep blanks at the end.
            out += line.trim_end();
            out.push('\n');
        } else {
            out += ".sp\n";
        }
    }

    // The help of a command that has statuses of its own: a line for each, then other remarks.
    let mut lines = extra.lines().peekable();
    let mut status =
        sections.exit.iter().map(|(s, m)| ((*s).to_owned(), (*m).to_owned())).collect();
    if lines.next_if_eq(&"Exit status:").is_some() {
        let own: &mut Vec<(String, String)> = &mut status;
        while let Some(line) = lines.next_if(|line| !line.is_empty()) {
            let (status, meaning) = line.trim().split_once(' ').expect("a status and its meaning");
            own.push((status.to_owned(), meaning.trim().replace("\\-", "-")));
        }
    }
    let remarks: Vec<_> = lines.skip_while(|line| line.is_empty()).collect();
    if !remarks.is_empty() {
        out += ".SH NOTES\n.nf\n";
        for line in remarks {
            out += line;
            out.push('\n');
        }
        out += ".fi\n";
    }

    let tagged = |out: &mut String, entries: &[(&str, &str)]| {
        for (tag, text) in entries {
            *out += &format!(".TP\n\\fB{}\\fR\n{}\n", roff(tag), roff(text));
        }
    };
    out += ".SH EXIT STATUS\n";
    assert!(!status.is_empty(), "{name}: no exit status");
    tagged(&mut out, &status.iter().map(|(s, m)| (s.as_str(), m.as_str())).collect::<Vec<_>>());
    out += ".SH ENVIRONMENT\n";
    let is_usual = |variable: &str| ["MCRUN_STATE_DIR", "MCRUN_CONFIG_DIR"].contains(&variable);
    let wanted = |(variable, _): &&(&str, &str)| {
        is_usual(variable) || sections.environment.contains(variable)
    };
    tagged(&mut out, &sections::ENVIRONMENT.iter().filter(wanted).copied().collect::<Vec<_>>());
    out += ".SH FILES\n";
    if sections.files.is_empty() {
        out += "None.\n";
    }
    let wanted = |(file, _): &&(&str, &str)| sections.files.contains(file);
    tagged(&mut out, &sections::FILES.iter().filter(wanted).copied().collect::<Vec<_>>());
    out += ".SH EXAMPLES\n";
    for (what, command) in sections.examples {
        out += &format!(".PP\n{}\n.PP\n.RS 4\n.nf\n{}\n.fi\n.RE\n", roff(what), roff(command));
    }
    // The macro begins a paragraph of its own after a heading.
    out = out.replace(".SH EXAMPLES\n.PP\n", ".SH EXAMPLES\n");
    out += ".SH SEE ALSO\n";
    let others: Vec<_> = sections
        .see_also
        .iter()
        .map(|page| {
            let (name, section) = page.split_once('(').expect("a section");
            format!(".BR {} ({section}", roff(name))
        })
        .collect();
    out += &others.join(" ,\n");
    out.push('\n');
    out
}

/// Text as roff takes it.
fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
    if text.starts_with('.') { format!("\\&{text}") } else { text }
}

fn completions() -> Files {
    [(Shell::Bash, "mcrun.bash"), (Shell::Zsh, "_mcrun"), (Shell::Fish, "mcrun.fish")]
        .into_iter()
        .map(|(shell, file)| {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "mcrun", &mut script);
            (file.to_owned(), text(script))
        })
        .collect()
}

/// Compares the files of a directory that `is_ours`, or writes them anew.
fn check(directory: &str, expected: &Files, is_ours: impl Fn(&str) -> bool) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let ours = || -> Vec<String> {
        let entries = fs::read_dir(&directory).expect("directory is there");
        let names = entries.map(|entry| entry.expect("directory entry").file_name());
        names.map(|name| name.into_string().expect("file name")).filter(|n| is_ours(n)).collect()
    };
    if std::env::var_os(REGENERATE).is_some() {
        for name in ours() {
            fs::remove_file(directory.join(name)).expect("old files go");
        }
        for (name, content) in expected {
            fs::write(directory.join(name), content).expect("file is written");
        }
    }
    let mut committed = ours();
    committed.sort();
    assert_eq!(
        committed.iter().collect::<Vec<_>>(),
        expected.keys().collect::<Vec<_>>(),
        "files of {}; `make man` writes them",
        directory.display()
    );
    for (name, content) in expected {
        let committed = fs::read_to_string(directory.join(name)).expect("text");
        assert!(committed == *content, "{name} is out of step; `make man` writes it");
    }
}

#[test]
fn man_pages_are_in_step() {
    check("man", &man_pages(), |name| name.ends_with(".1"));
}

#[test]
fn completions_are_in_step() {
    check("completions", &completions(), |_| true);
}

/// The pages of all sections.
fn committed_pages() -> Files {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("man");
    let entries = fs::read_dir(directory).expect("directory is there");
    let pages = entries.map(|entry| entry.expect("directory entry").path());
    pages
        .map(|path| {
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            (name, fs::read_to_string(path).expect("text"))
        })
        .collect()
}

#[test]
fn man_pages_have_all_sections() {
    for (name, text) in committed_pages() {
        // What is no program has no exit status.
        let is_program = name.ends_with(".1") || name.ends_with(".8");
        for section in ["EXIT STATUS", "ENVIRONMENT", "FILES", "EXAMPLES", "SEE ALSO"] {
            let heading = format!(".sh {section}").to_lowercase();
            let is_there = text.lines().any(|line| line.to_lowercase() == heading);
            let is_needed = is_program || matches!(section, "EXAMPLES" | "SEE ALSO");
            assert!(is_there || !is_needed, "{name} has no section {section}");
        }
    }
}

#[test]
fn man_pages_lead_to_pages_that_are_there() {
    let pages = committed_pages();
    for (name, text) in &pages {
        for line in text.lines() {
            // man(7) and mdoc(7); without a section a name is only in bold.
            let man = || line.strip_prefix(".BR ")?.split_once(" (");
            let mdoc = || line.strip_prefix(".Xr ")?.split_once(' ');
            let Some((page, rest)) = man().or_else(mdoc) else { continue };
            if !page.starts_with("mcrun") {
                continue;
            }
            let section = rest.chars().next().expect("a section");
            let file = format!("{}.{section}", page.replace("\\-", "-"));
            assert!(pages.contains_key(&file), "{name}: {file}");
        }
    }
}

#[test]
fn mandoc_finds_nothing_wrong_with_the_man_pages() {
    let mut lint = Process::new("mandoc");
    lint.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/man"));
    let output = lint
        .args(["-T", "lint", "-W", "warning"])
        .args(committed_pages().keys())
        .output()
        .expect("mandoc starts: install it (make test does)");
    let found = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && found.is_empty(), "{found}");
}

#[test]
fn the_examples_of_the_man_pages_are_command_lines() {
    for page in man_pages().keys() {
        let name = page.trim_end_matches(".1");
        for (_, example) in sections::of(name).expect("sections").examples {
            let words: Vec<_> = example.split_whitespace().collect();
            // The engine parses these, and docker its own.
            let is_engines =
                words.contains(&"--engine") && matches!(words[1], "run" | "create" | "start");
            if words[0] != "docker" && !is_engines {
                let parsed = Cli::try_parse_from(&words);
                assert!(parsed.is_ok(), "{name}: {example}: {}", parsed.unwrap_err());
            }
        }
    }
}

#[test]
fn the_reference_of_attachment_keys_is_in_step() {
    for (file, expected) in [
        ("man/mcrun-attachment.7", attachment_keys::manual_page()),
        ("docs/reference/attachment-keys.md", attachment_keys::markdown()),
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        if std::env::var_os(REGENERATE).is_some() {
            fs::write(&path, &expected).expect("file is written");
        }
        let committed = fs::read_to_string(&path).expect("text");
        assert!(committed == expected, "{file} is out of step; `make man` writes it");
    }
}
