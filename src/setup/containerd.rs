//! containerd's config.toml: the runtime handler "mcrun" of the CRI plugin.
//!
//! TOML allows tables in any order. mcrun's tables are at the end of the file, between two
//! comments; everything else stays as it is. The handler is a copy of the default runtime's, with
//! another program: a pod gets the control groups, the base specification and the snapshotter that
//! it would get without mcrun.

use toml::{Table, Value};

use crate::setup::files::Edit;
use crate::sys::toml_text;

const BEGIN: &str = "# mcrun setup: begin";
const END: &str = "# mcrun setup: end";
/// The runtime of containerd's shim for runc, which calls any program that has runc's command line.
const RUNC: &str = "io.containerd.runc.v2";
/// How the types of that shim's versions begin. Other shims have options of their own.
const RUNC_SHIMS: &str = "io.containerd.runc.";
/// Annotations of a pod that its containers are to get.
const ANNOTATIONS: &str = "io.mcrun.*";
/// The option that names the program.
const PROGRAM: &str = "BinaryName";

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
            keys.map(toml_text::key).join(".")
        ));
    }
    let (_, runtimes) = keys.split_last().unwrap_or((&"", &[]));
    let names: Vec<_> = runtimes.iter().map(|key| toml_text::key(key)).collect();
    let names = names.join(".");
    let mut block = String::new();
    if find(&config, runtimes).is_none_or(Table::is_empty) {
        // Without any runtime in the file the plugin has the runtime runc. With mcrun in the file
        // it would have mcrun alone, and would not start without its default, runc.
        block = format!("[{names}.runc]\n  runtime_type = \"{RUNC}\"\n");
    }
    let table = format!("{names}.mcrun");
    let model = model(&config, runtimes);
    block += &handler(&table, model.unwrap_or(&Table::new()), program);
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

/// The runtime that containerd uses for pods without a handler, or `runc` if that one has another
/// shim than runc's. None if the file has neither.
fn model<'c>(config: &'c Table, runtimes: &[&str]) -> Option<&'c Table> {
    let (_, containerd) = runtimes.split_last()?;
    let containerd = find(config, containerd)?;
    let type_of = |runtime: &Table| {
        let name = runtime.get("runtime_type").and_then(Value::as_str);
        name.filter(|name| !name.is_empty()).map(str::to_owned)
    };
    // The older way to name the default, before default_runtime_name.
    let own = containerd.get("default_runtime").and_then(Value::as_table);
    let own = own.filter(|runtime| type_of(runtime).is_some());
    let named = containerd.get("default_runtime_name").and_then(Value::as_str).unwrap_or("runc");
    let of = |name: &str| containerd.get("runtimes")?.as_table()?.get(name)?.as_table();
    let is_runc = |runtime: &&Table| type_of(runtime).is_none_or(|t| t.starts_with(RUNC_SHIMS));
    own.or_else(|| of(named)).filter(is_runc).or_else(|| of("runc").filter(is_runc))
}

/// The tables of a handler that is like `model`, except that it calls `program` and hands mcrun's
/// annotations over.
fn handler(table: &str, model: &Table, program: &str) -> String {
    let text_of = |key: &str| {
        let text = model.get(key).and_then(Value::as_str).unwrap_or_default();
        Some(text).filter(|text| !text.is_empty())
    };
    let kind = text_of("runtime_type").unwrap_or(RUNC);
    let mut annotations: Vec<Value> = match model.get("pod_annotations") {
        Some(Value::Array(annotations)) => annotations.clone(),
        _ => Vec::new(),
    };
    if !annotations.iter().any(|annotation| annotation.as_str() == Some(ANNOTATIONS)) {
        annotations.push(ANNOTATIONS.into());
    }
    let mut text = format!(
        "[{table}]\n  runtime_type = {}\n  pod_annotations = {}\n",
        toml_text::value(&kind.into()),
        toml_text::value(&annotations.into())
    );
    let written = ["runtime_type", "pod_annotations", "options"];
    for (key, value) in model.iter().filter(|(key, _)| !written.contains(&key.as_str())) {
        text += &format!("  {} = {}\n", toml_text::key(key), toml_text::value(value));
    }
    text +=
        &format!("  [{table}.options]\n    {PROGRAM} = {}\n", toml_text::value(&program.into()));
    let options = model.get("options").and_then(Value::as_table);
    // containerd reads names in any case.
    let others =
        options.into_iter().flatten().filter(|(key, _)| !key.eq_ignore_ascii_case(PROGRAM));
    for (key, value) in others {
        text += &format!("    {} = {}\n", toml_text::key(key), toml_text::value(value));
    }
    text
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
