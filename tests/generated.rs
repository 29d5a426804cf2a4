//! man/ and completions/ are in step with the command line.
//!
//! `make man` writes them anew.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use mcrun::cli::Cli;

/// Set to write the files instead of comparing them.
const REGENERATE: &str = "MCRUN_REGENERATE";

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
            .source(concat!("mcrun ", env!("CARGO_PKG_VERSION")))
            .manual("mcrun")
            .render(&mut page)
            .expect("renders to memory");
        files.insert(format!("{name}.1"), text(page));
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

fn check(directory: &str, expected: &Files) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    if std::env::var_os(REGENERATE).is_some() {
        if directory.exists() {
            fs::remove_dir_all(&directory).expect("old files go");
        }
        fs::create_dir_all(&directory).expect("directory");
        for (name, content) in expected {
            fs::write(directory.join(name), content).expect("file is written");
        }
    }
    let committed: Files = fs::read_dir(&directory)
        .expect("directory is there")
        .map(|entry| {
            let entry = entry.expect("directory entry");
            let name = entry.file_name().into_string().expect("file name");
            (name, fs::read_to_string(entry.path()).expect("text"))
        })
        .collect();
    assert_eq!(
        committed.keys().collect::<Vec<_>>(),
        expected.keys().collect::<Vec<_>>(),
        "files of {}; `make man` writes them",
        directory.display()
    );
    for (name, content) in expected {
        assert!(committed[name] == *content, "{name} is out of step; `make man` writes it");
    }
}

#[test]
fn man_pages_are_in_step() {
    check("man", &man_pages());
}

#[test]
fn completions_are_in_step() {
    check("completions", &completions());
}
