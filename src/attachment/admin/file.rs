//! The table of keys of mcrun.toml, and the reader of the file.
//!
//! The keys of `[attach]` that limit attachments are in the table of limits; all others are here.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use crate::attachment::admin::allowed::{ReadError, one_line};
use crate::attachment::admin::limits::LIMITS;
use crate::attachment::admin::{AdminConfig, MAX_ATTACHMENTS_KEY, Problem, groups};
use crate::attachment::error::suggestion;
use crate::attachment::types::MAX_ATTACHMENTS;

/// One key of the file.
pub(super) struct FileKey {
    /// Its section.
    pub(super) section: &'static str,
    /// Its name.
    pub(super) name: &'static str,
    /// Reads its value.
    read: fn(&mut AdminConfig, Spanned<DeValue<'_>>) -> Result<(), ReadError>,
    /// The value in force as the file would have it; null where there is no limit.
    pub(super) shown: fn(&AdminConfig) -> Value,
}

/// The keys that limit no attachment key, in the order in which people read about them.
pub(super) const FILE_KEYS: &[FileKey] = &[
    FileKey {
        section: "attach",
        name: MAX_ATTACHMENTS_KEY,
        read: |config, value| {
            let at = value.span().start;
            set(&mut config.max_attachments, value)?;
            match config.max_attachments {
                Some(0..=MAX_ATTACHMENTS) | None => Ok(()),
                Some(number) => Err(ReadError {
                    at,
                    message: format!("{number}: not a number from 0 to {MAX_ATTACHMENTS}"),
                }),
            }
        },
        shown: |config| json!(config.max_attachments()),
    },
    FileKey {
        section: "attach",
        name: "default-network",
        read: |config, value| set(&mut config.default_network, value),
        shown: |config| json!(config.default_network),
    },
    FileKey {
        section: "attach",
        name: "environment",
        read: |config, value| set(&mut config.environment, value),
        shown: |config| json!(config.environment()),
    },
    FileKey {
        section: "groups",
        name: "allow",
        read: |config, value| set(&mut config.groups.allow, value),
        shown: |config| texts(groups::all(&config.groups.allow)),
    },
    FileKey {
        section: "groups",
        name: "deny",
        read: |config, value| set(&mut config.groups.deny, value),
        shown: |config| texts(groups::all(&config.groups.deny)),
    },
    FileKey {
        section: "groups",
        name: "max-groups",
        read: |config, value| set(&mut config.groups.max_groups, value),
        shown: |config| json!(config.groups.max_groups),
    },
    FileKey {
        section: "groups",
        name: "max-sources",
        read: |config, value| set(&mut config.groups.max_sources, value),
        shown: |config| json!(config.groups.max_sources),
    },
    FileKey {
        section: "groups",
        name: "ssm-strict",
        read: |config, value| set(&mut config.groups.ssm_strict, value),
        shown: |config| json!(config.groups.ssm_strict == Some(true)),
    },
    FileKey {
        section: "relay",
        name: "max-pps",
        read: |config, value| set(&mut config.relay.max_pps, value),
        shown: |config| json!(config.relay.max_pps),
    },
    FileKey {
        section: "relay",
        name: "max-byterate",
        read: |config, value| set(&mut config.relay.max_byterate, value),
        shown: |config| json!(config.relay.max_byterate),
    },
    FileKey {
        section: "relay",
        name: "bpf",
        read: |config, value| set(&mut config.relay.bpf, value),
        shown: |config| json!(config.relay.bpf != Some(false)),
    },
    FileKey {
        section: "relay",
        name: "ports",
        read: |config, value| set(&mut config.relay.ports, value),
        shown: |config| json!(config.relay.ports),
    },
    FileKey {
        section: "proxy",
        name: "notifications",
        read: |config, value| set(&mut config.proxy.notifications, value),
        shown: |config| json!(config.notifications()),
    },
    FileKey {
        section: "proxy",
        name: "uids",
        read: |config, value| set(&mut config.proxy.uids, value),
        shown: |config| json!(config.proxy_uids().to_string()),
    },
    FileKey {
        section: "count",
        name: "enabled",
        read: |config, value| set(&mut config.count, value),
        shown: |config| json!(config.count()),
    },
    FileKey {
        section: "keeper",
        name: "fence",
        read: |config, value| set(&mut config.fence, value),
        shown: |config| json!(config.fence()),
    },
    FileKey {
        section: "runtime",
        name: "path",
        read: |config, value| set(&mut config.runtime.path, value),
        shown: |config| json!(config.runtime.path),
    },
];

/// What was read, and what is wrong.
#[derive(Default)]
pub(super) struct Read {
    /// What could be read.
    pub(super) config: AdminConfig,
    /// The line of each key that the file has, from 1, by section and name.
    pub(super) lines: BTreeMap<(String, String), usize>,
    /// What is wrong, in the order of the lines.
    pub(super) problems: Vec<Problem>,
}

/// Reads the text of a file; of all sections, or of one alone.
pub(super) fn read(text: &str, only: Option<&str>) -> Read {
    let mut read = Read::default();
    let line = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let line = line(error.span().map_or(0, |span| span.start));
        read.problems.push(Problem { line, message: one_line(error.message()) });
    }
    for (section, content) in document.into_inner() {
        let at = section.span().start;
        let section = section.into_inner();
        if only.is_some_and(|only| only != section) {
            continue;
        }
        let names = names(&section);
        if names.is_empty() {
            let what = match content.get_ref() {
                DeValue::Table(_) => format!("unknown section [{section}]"),
                _ => format!("unknown key {section} outside of a section"),
            };
            let near = suggestion(&section, &sections());
            read.problems.push(Problem { line: line(at), message: format!("{what}; {near}") });
            continue;
        }
        let DeValue::Table(table) = content.into_inner() else {
            let message = format!("{section} is a section: write [{section}]");
            read.problems.push(Problem { line: line(at), message });
            continue;
        };
        for (name, value) in table {
            let at = line(name.span().start);
            let name = name.into_inner();
            let value_at = value.span().start;
            match read_key(&mut read.config, &section, &name, value) {
                None => {
                    let near = suggestion(&name, &names);
                    let message = format!("unknown key {name} in [{section}]; {near}");
                    read.problems.push(Problem { line: at, message });
                }
                Some(Err(error)) => {
                    let line = line(error.at.max(value_at));
                    let message = format!("{name}: {}", error.message);
                    read.problems.push(Problem { line, message });
                }
                Some(Ok(())) => {
                    read.lines.insert((section.to_string(), name.to_string()), at);
                }
            }
        }
    }
    read.problems.sort_by_key(|problem| problem.line);
    read
}

/// Reads a key that the tables have; `None` if they do not.
fn read_key(
    config: &mut AdminConfig,
    section: &str,
    name: &str,
    value: Spanned<DeValue<'_>>,
) -> Option<Result<(), ReadError>> {
    if section == "attach"
        && let Some(limit) = LIMITS.iter().find(|limit| limit.name == name)
    {
        let allowed = limit.kind.read(limit.key, value);
        return Some(allowed.map(|allowed| {
            config.attach.insert(limit.name, allowed);
        }));
    }
    let key = FILE_KEYS.iter().find(|key| key.section == section && key.name == name)?;
    Some((key.read)(config, value))
}

/// The sections, each once.
pub(super) fn sections() -> Vec<&'static str> {
    let mut sections: Vec<_> = FILE_KEYS.iter().map(|key| key.section).collect();
    sections.dedup();
    sections
}

/// The names of the keys of a section; empty if there is no such section.
fn names(section: &str) -> Vec<&'static str> {
    let limits = LIMITS.iter().filter(|_| section == "attach").map(|limit| limit.name);
    let others = FILE_KEYS.iter().filter(|key| key.section == section).map(|key| key.name);
    limits.chain(others).collect()
}

fn set<'t, T: Deserialize<'t>>(
    field: &mut T,
    value: Spanned<DeValue<'t>>,
) -> Result<(), ReadError> {
    let at = value.span().start;
    *field = T::deserialize(ValueDeserializer::from(value)).map_err(|error| ReadError {
        at: error.span().map_or(at, |span| span.start),
        message: one_line(error.message()),
    })?;
    Ok(())
}

fn texts(rules: impl Iterator<Item = impl ToString>) -> Value {
    rules.map(|rule| json!(rule.to_string())).collect()
}
