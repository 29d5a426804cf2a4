//! containerd's config.toml: the runtime handler "mcrun" of the CRI plugin.
//!
//! TOML allows tables in any order. mcrun's tables are at the end of the file, between two
//! comments; everything else stays as it is.

use toml::{Table, Value};

use crate::setup::files::Edit;
use crate::sys::toml_text;

const BEGIN: &str = "# mcrun setup: begin";
const END: &str = "# mcrun setup: end";

pub(super) fn edit(programs: &str) -> Edit {
    let program = format!("{programs}/mcrun-runtime");
    Edit::Part {
        empty: "version = 2\n",
        add: Box::new(move |text| add(text, &program)),
        remove_part: Box::new(|text| Ok(remove_part(text))),
    }
}

fn add(text: &str, program: &str) -> Result<String, String> {
    let without = remove_part(text);
    let config: Table = toml_text::parse(&without)?;
    let keys = plugin(&config)?;
    if find(&config, &keys).is_some() {
        return Err(format!(
            "has a runtime handler mcrun that mcrun setup did not write; remove [{}]",
            keys.map(quoted).join(".")
        ));
    }
    let (_, runtimes) = keys.split_last().unwrap_or((&"", &[]));
    let names: Vec<_> = runtimes.iter().map(|key| quoted(key)).collect();
    let names = names.join(".");
    let mut block = String::new();
    if find(&config, runtimes).is_none_or(Table::is_empty) {
        // Without any runtime in the file the plugin has the runtime runc. With mcrun in the file
        // it would have mcrun alone, and would not start without its default, runc.
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
    // Nothing can be added to a runtimes table that is written inline.
    match toml_text::parse(&added) {
        Ok(config) if find(&config, &keys).is_some() => Ok(added),
        _ => Err(format!(
            "{} is an inline table, to which nothing can be added; write [{table}] into it by hand",
            runtimes.join(".")
        )),
    }
}

/// The text without the two comments, what is between them, and the line break before them.
fn remove_part(text: &str) -> String {
    let Some(begin) = text.find(BEGIN) else { return text.to_owned() };
    let Some(length) = text[begin..].find(END) else { return text.to_owned() };
    let rest = &text[begin + length + END.len()..];
    let before = &text[..begin];
    let before = before.strip_suffix('\n').unwrap_or(before);
    format!("{before}{}", rest.strip_prefix('\n').unwrap_or(rest))
}

/// Keys of the runtime handler mcrun. They depend on the version of the file (containerd,
/// docs/cri/config.md).
fn plugin(config: &Table) -> Result<[&'static str; 5], String> {
    let plugin = match config.get("version").map_or(Some(1), Value::as_integer) {
        Some(1) => "cri",
        Some(2) => "io.containerd.grpc.v1.cri",
        Some(3) => "io.containerd.cri.v1.runtime",
        Some(other) => return Err(format!("version = {other} is unknown; mcrun knows 1, 2 and 3")),
        None => return Err("version is not a number; mcrun knows 1, 2 and 3".into()),
    };
    Ok(["plugins", plugin, "containerd", "runtimes", "mcrun"])
}

fn find<'c>(config: &'c Table, keys: &[&str]) -> Option<&'c Table> {
    keys.iter().try_fold(config, |table, key| table.get(*key)?.as_table())
}

fn quoted(key: &str) -> String {
    if key.contains('.') { format!("\"{key}\"") } else { key.to_owned() }
}
