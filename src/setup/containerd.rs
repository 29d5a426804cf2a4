//! containerd's config.toml: the runtime handler "mcrun" of the CRI plugin.
//!
//! TOML lets a table be written anywhere, so ours go to the end between two comments; everything
//! else stays as it is.

use toml::{Table, Value};

use crate::setup::files::Edit;

const BEGIN: &str = "# mcrun setup: begin";
const END: &str = "# mcrun setup: end";

pub(super) fn edit(programs: &str) -> Edit {
    let program = format!("{programs}/mcrun-runtime");
    Edit::Part {
        empty: "version = 2\n",
        add: Box::new(move |text| add(text, &program)),
        take_back: Box::new(|text| Ok(take_back(text))),
    }
}

fn add(text: &str, program: &str) -> Result<String, String> {
    let without = take_back(text);
    let config: Table = parse(&without)?;
    let keys = plugin(&config)?;
    if find(&config, &keys).is_some() {
        return Err("has a runtime mcrun already, which mcrun setup did not write".into());
    }
    let (_, runtimes) = keys.split_last().unwrap_or((&"", &[]));
    let names: Vec<_> = runtimes.iter().map(|key| quoted(key)).collect();
    let names = names.join(".");
    let mut block = String::new();
    if find(&config, runtimes).is_none_or(Table::is_empty) {
        // A runtime of ours would replace the one that is there without any being named, and the
        // plugin refuses to start without its default.
        block = format!("[{names}.runc]\n  runtime_type = \"io.containerd.runc.v2\"\n");
    }
    let table = format!("{names}.mcrun");
    block += &format!(
        "[{table}]\n  \
         runtime_type = \"io.containerd.runc.v2\"\n  \
         pod_annotations = [\"io.mcrun.*\"]\n  \
         [{table}.options]\n    \
         BinaryName = \"{program}\"\n"
    );
    let newline = if without.is_empty() { "" } else { "\n" };
    let added = format!("{without}{newline}{BEGIN}\n{block}{END}\n");
    // A runtimes table that is written inline can't be added to.
    match parse(&added) {
        Ok(config) if find(&config, &keys).is_some() => Ok(added),
        _ => Err(format!(
            "its {} is written such that nothing can be added; write [{table}] into it by hand",
            runtimes.join(".")
        )),
    }
}

/// The text without what stands between the comments, and the line break before it.
fn take_back(text: &str) -> String {
    let Some(begin) = text.find(BEGIN) else { return text.to_owned() };
    let Some(length) = text[begin..].find(END) else { return text.to_owned() };
    let rest = &text[begin + length + END.len()..];
    let before = &text[..begin];
    let before = before.strip_suffix('\n').unwrap_or(before);
    format!("{before}{}", rest.strip_prefix('\n').unwrap_or(rest))
}

/// Where the runtimes are, by the version of the file (containerd, docs/cri/config.md).
fn plugin(config: &Table) -> Result<[&'static str; 5], String> {
    let plugin = match config.get("version").map_or(Some(1), Value::as_integer) {
        Some(1) => "cri",
        Some(2) => "io.containerd.grpc.v1.cri",
        Some(3) => "io.containerd.cri.v1.runtime",
        Some(other) => return Err(format!("has version {other}; 1, 2 and 3 are known")),
        None => return Err("its version is not a number".into()),
    };
    Ok(["plugins", plugin, "containerd", "runtimes", "mcrun"])
}

fn find<'c>(config: &'c Table, keys: &[&str]) -> Option<&'c Table> {
    keys.iter().try_fold(config, |table, key| table.get(*key)?.as_table())
}

fn quoted(key: &str) -> String {
    if key.contains('.') { format!("\"{key}\"") } else { key.to_owned() }
}

fn parse(text: &str) -> Result<Table, String> {
    toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start.min(text.len()));
        let line = text[..start].matches('\n').count() + 1;
        format!("line {line}: {}", error.message().replace('\n', " "))
    })
}
