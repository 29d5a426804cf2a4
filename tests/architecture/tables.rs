//! The tables of ARCHITECTURE.md.

use std::collections::BTreeSet;

/// Both tables of the section "The modules".
pub(super) struct Tables {
    /// The modules of the crate.
    pub(super) modules: Table,
    /// The folders and files of `proxy`.
    pub(super) proxy: Table,
}

/// One table: who may use whom.
pub(super) struct Table(Vec<Row>);

pub(super) struct Row {
    pub(super) name: String,
    /// Names of the rows that it may use.
    pub(super) may_use: BTreeSet<String>,
    /// The line as it is written.
    pub(super) line: String,
}

impl Tables {
    /// # Panics
    /// When the section or a table is missing, and at a cell that is not understood.
    pub(super) fn parse(text: &str) -> Tables {
        let (_, section) = text.split_once("\n## The modules\n").expect("the section");
        let section = section.split("\n## ").next().unwrap_or_default();
        let (modules, proxy) = section.split_once("Inside `proxy`").expect("proxy's table");
        Tables { modules: Table::parse(modules), proxy: Table::parse(proxy) }
    }
}

impl Table {
    fn parse(text: &str) -> Table {
        let mut rows: Vec<Row> = Vec::new();
        // The heading and the line below it come first.
        for line in text.lines().filter(|line| line.starts_with('|')).skip(2) {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [name, _, may_use] = cells[..] else { panic!("not three cells: {line}") };
            let may_use = match may_use {
                "nothing" | "" => BTreeSet::new(),
                "all of the above" => rows.iter().map(|row| row.name.clone()).collect(),
                names => names.split_whitespace().map(|name| unquoted(name, line)).collect(),
            };
            rows.push(Row { name: unquoted(name, line), may_use, line: line.to_owned() });
        }
        assert!(!rows.is_empty(), "a table without rows: {text}");
        Table(rows)
    }

    pub(super) fn rows(&self) -> &[Row] {
        &self.0
    }

    pub(super) fn row(&self, name: &str) -> Option<&Row> {
        self.0.iter().find(|row| row.name == name)
    }
}

/// A name without its backticks.
fn unquoted(name: &str, line: &str) -> String {
    let inner = name.strip_prefix('`').and_then(|name| name.strip_suffix('`'));
    inner.unwrap_or_else(|| panic!("{name:?} is not a name in backticks: {line}")).to_owned()
}
