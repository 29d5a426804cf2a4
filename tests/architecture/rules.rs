//! What ARCHITECTURE.md asks of the imports.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::graph::{Graph, circles};
use super::imports::{Import, Tree};
use super::tables::{Row, Table, Tables};

/// Modules whose `mod.rs` shows what others may use and holds nothing that their own files need. In
/// other modules a file may use its parent's types, of which it is a part: `impl Parent` in a file
/// of its own, or the error type of the module.
const FACADES: [&str; 10] = [
    "link",
    "multicast",
    "net",
    "oci",
    "primitives",
    "probe",
    "proxy",
    "standalone",
    "state",
    "sys",
];

/// Something that is against the page.
pub(super) struct Violation {
    /// What is wrong, without line numbers.
    pub(super) name: String,
    /// Where, and the row that says so.
    details: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n    {}", self.name, self.details.join("\n    "))
    }
}

/// All that is wrong.
pub(super) fn violations(tables: &Tables, tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    let folders = proxy_folders(tree);
    let modules: BTreeSet<&str> = tree.top_modules().collect();
    check_rows("module", &tables.modules, &modules, &mut found);
    check_rows("part of `proxy`", &tables.proxy, &folders, &mut found);

    let between_modules = |import: &Import| {
        let to = import.path.first()?.as_str();
        let from = top_module(&import.file)?;
        modules.contains(to).then_some((from.to_owned(), to.to_owned()))
    };
    check_arrows(&tables.modules, tree, between_modules, &mut found);
    let between_folders = |import: &Import| {
        let from = proxy_folder(&import.file)?;
        let to = proxy_folder(tree.file_of(&import.path))?;
        Some((from.to_owned(), to.to_owned()))
    };
    check_arrows(&tables.proxy, tree, between_folders, &mut found);

    check_circles("modules", tree, between_modules, &mut found);
    let between_files = |import: &Import| {
        let to = tree.file_of(&import.path);
        let module = top_module(&import.file)?;
        let is_part = is_parent(to, &import.file) && !is_facade(to);
        let counts = top_module(to) == Some(module) && !import.is_reexport && !is_part;
        counts.then(|| (import.file.clone(), to.to_owned()))
    };
    check_circles("files", tree, between_files, &mut found);
    found
}

/// The module at the crate's root that a file belongs to; none for the root itself.
fn top_module(file: &str) -> Option<&str> {
    let name = file.strip_prefix("src/")?.split(['/', '.']).next()?;
    (name != "lib").then_some(name)
}

/// The folder or file right below `proxy`; none for `mod.rs`, which shows what others may use.
fn proxy_folder(file: &str) -> Option<&str> {
    let name = file.strip_prefix("src/proxy/")?.split(['/', '.']).next()?;
    (name != "mod").then_some(name)
}

/// Whether a file is that of a module around the other's: `src/a/mod.rs` of `src/a/b/c.rs`.
fn is_parent(file: &str, of: &str) -> bool {
    let directory = file.strip_suffix("/mod.rs").or_else(|| file.strip_suffix(".rs"));
    directory
        .is_some_and(|directory| of.strip_prefix(directory).is_some_and(|o| o.starts_with('/')))
}

fn is_facade(file: &str) -> bool {
    FACADES.iter().any(|module| file == format!("src/{module}/mod.rs"))
}

fn proxy_folders(tree: &Tree) -> BTreeSet<&str> {
    tree.files().into_iter().filter_map(proxy_folder).collect()
}

/// Each thing has a row, and each row is about a thing; rows name rows, and do not go round.
fn check_rows(what: &str, table: &Table, things: &BTreeSet<&str>, found: &mut Vec<Violation>) {
    for thing in things.iter().filter(|thing| table.row(thing).is_none()) {
        let name = format!("{what} `{thing}` has no row");
        found.push(Violation { name, details: vec!["add it to the table".into()] });
    }
    for row in table.rows().iter().filter(|row| !things.contains(row.name.as_str())) {
        let name = format!("{what} `{}` has a row, and no source file", row.name);
        found.push(Violation { name, details: vec![row.line.clone()] });
    }
    for row in table.rows() {
        for used in row.may_use.iter().filter(|used| table.row(used).is_none()) {
            let name = format!("the row of `{}` allows `{used}`, which has no row", row.name);
            found.push(Violation { name, details: vec![row.line.clone()] });
        }
    }
    let allowed: Graph<'_> = table
        .rows()
        .iter()
        .map(|row| (row.name.as_str(), row.may_use.iter().map(String::as_str).collect()))
        .collect();
    for circle in circles(&allowed) {
        let rows = circle.iter().filter_map(|name| table.row(name)).map(|row| row.line.clone());
        let name = format!("the table allows a circle of `{}`", circle.join("`, `"));
        found.push(Violation { name, details: rows.collect() });
    }
}

/// Each import from one row to another is allowed by the row. What has no row is told elsewhere.
fn check_arrows(
    table: &Table,
    tree: &Tree,
    ends: impl Fn(&Import) -> Option<(String, String)>,
    found: &mut Vec<Violation>,
) {
    let mut wrong: BTreeMap<String, (Vec<String>, &Row)> = BTreeMap::new();
    for import in &tree.imports {
        let Some((from, to)) = ends(import).filter(|(from, to)| from != to) else { continue };
        let Some(row) = table.row(&from) else { continue };
        if !row.may_use.contains(&to) {
            let name =
                format!("{} uses `{to}`, and the row of `{from}` does not allow it", import.file);
            wrong.entry(name).or_insert_with(|| (Vec::new(), row)).0.push(shown(import));
        }
    }
    for (name, (mut details, row)) in wrong {
        details.dedup();
        details.push(row.line.clone());
        found.push(Violation { name, details });
    }
}

fn check_circles(
    what: &str,
    tree: &Tree,
    ends: impl Fn(&Import) -> Option<(String, String)>,
    found: &mut Vec<Violation>,
) {
    let mut arrows: BTreeMap<(String, String), &Import> = BTreeMap::new();
    for import in &tree.imports {
        if let Some((from, to)) = ends(import).filter(|(from, to)| from != to) {
            arrows.entry((from, to)).or_insert(import);
        }
    }
    let mut graph = Graph::new();
    for (from, to) in arrows.keys() {
        graph.entry(from).or_default().insert(to);
    }
    for circle in circles(&graph) {
        let next = circle.iter().cycle().skip(1);
        let details = circle.iter().zip(next).map(|(from, to)| {
            let import = arrows[&((*from).to_owned(), (*to).to_owned())];
            format!("{} -> {to}", shown(import))
        });
        let name = format!("a circle of {what}: {}", circle.join(" -> "));
        found.push(Violation { name, details: details.collect() });
    }
}

/// `FILE:LINE: crate::PATH`
fn shown(import: &Import) -> String {
    format!("{}:{}: crate::{}", import.file, import.line, import.path.join("::"))
}
