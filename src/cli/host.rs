//! `mcrun host`.

use std::process::ExitCode;

use clap::Args;

use crate::cli::output::{print, print_json, table};
use crate::inventory;
use crate::inventory::{Change, Use};
use crate::state::Store;

pub(super) const ABOUT: &str = "List what mcrun has changed on this host, and whose it is.

Links, settings, nf_tables rules, processes, sockets, BPF programs, control groups, files, and the \
configuration of engines that mcrun setup has changed. STATE says of what nobody owns that it was \
left behind, and which command removes it. Nothing is changed. Without root, what is in \
containers is not shown.";

/// Arguments of `mcrun host`.
#[derive(Debug, Args)]
pub struct HostArgs {
    /// Print an array of objects instead of a table.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: HostArgs) -> anyhow::Result<ExitCode> {
    let found = inventory::take(&Store::from_env())?;
    for line in &found.hidden {
        eprintln!("mcrun: {line}");
    }
    if args.json {
        print_json(&found.changes)?;
    } else if found.changes.is_empty() {
        print("mcrun has changed nothing on this host\n")?;
    } else {
        let headings = ["KIND", "WHAT", "OWNER", "STATE"];
        print(&table(&headings, found.changes.iter().map(cells)))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn cells(change: &Change) -> Vec<String> {
    let state = match (change.state, &change.remove) {
        (Use::Owned, _) => "in use".to_owned(),
        (Use::LeftBehind, Some(remove)) => format!("left behind: {remove}"),
        (Use::LeftBehind, None) => "left behind".to_owned(),
        (Use::Unknown, _) => "unknown".to_owned(),
    };
    let owner = change.owner.clone().unwrap_or_else(|| "-".to_owned());
    vec![change.kind.name().to_owned(), change.what.clone(), owner, state]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::Kind;

    #[test]
    fn what_was_left_behind_names_the_command_that_removes_it() {
        let change = Change {
            kind: Kind::Link,
            what: "mc0".to_owned(),
            owner: None,
            container: None,
            state: Use::LeftBehind,
            remove: Some("mcrun gc".to_owned()),
        };
        assert_eq!(cells(&change), ["link", "mc0", "-", "left behind: mcrun gc"]);
    }
}
