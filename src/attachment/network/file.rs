//! The reader of a network's file.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::attachment::admin::{Problem, one_line};
use crate::attachment::error::suggestion;
use crate::attachment::keys;
use crate::attachment::keys::{KEYS, Key};
use crate::attachment::network::keys::{NETWORK_KEYS, NetworkKey};
use crate::attachment::network::{AddressRange, Network};
use crate::attachment::values::Values;

/// A key that the tables have.
enum Known {
    Network(&'static NetworkKey),
    Attachment(&'static Key),
}

/// What is read so far.
#[derive(Default)]
struct Reader {
    network: Network,
    /// The line of each value, by its key and the value.
    lines: BTreeMap<(String, String), usize>,
    problems: Vec<Problem>,
}

/// Reads a file.
///
/// # Errors
/// All problems, in the order of the lines.
pub(super) fn read(text: &str) -> Result<Network, Vec<Problem>> {
    let mut reader = Reader::default();
    let line = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let line = line(error.span().map_or(0, |span| span.start));
        reader.problems.push(Problem { line, message: one_line(error.message()) });
    }
    for (name, value) in document.into_inner() {
        let at = line(name.span().start);
        reader.read_key(&name.into_inner(), at, value, &line);
    }
    if reader.problems.is_empty() {
        reader.check();
    }
    let Reader { mut network, mut problems, .. } = reader;
    problems.sort_by_key(|problem| problem.line);
    let order = |name: &str| KEYS.iter().position(|key| key.name == name);
    network.keys.sort_by_key(|(name, _)| order(name));
    if problems.is_empty() { Ok(network) } else { Err(problems) }
}

impl Reader {
    fn problem(&mut self, line: usize, message: String) {
        self.problems.push(Problem { line, message });
    }

    fn read_key(
        &mut self,
        name: &str,
        at: usize,
        value: Spanned<DeValue<'_>>,
        line: &impl Fn(usize) -> usize,
    ) {
        let known = match (NETWORK_KEYS.iter().find(|key| key.name == name), keys::find(name)) {
            (Some(key), _) => Known::Network(key),
            (None, Some(key)) if name != "net" => Known::Attachment(key),
            _ => {
                let own = NETWORK_KEYS.iter().map(|key| key.name);
                let of_attachments = KEYS.iter().map(|key| key.name).filter(|key| *key != "net");
                let names: Vec<_> = own.chain(of_attachments).collect();
                return self
                    .problem(at, format!("unknown key {name}; {}", suggestion(name, &names)));
            }
        };
        let repeatable = match known {
            Known::Network(key) => key.repeatable,
            Known::Attachment(key) => key.repeatable,
        };
        let items = match (value.get_ref(), repeatable) {
            (DeValue::Array(_), false) => {
                return self.problem(at, format!("{name}: a list; the key has one value"));
            }
            (DeValue::Array(_), true) => match value.into_inner() {
                DeValue::Array(items) => items.into_iter().collect(),
                _ => Vec::new(),
            },
            _ => vec![value],
        };
        for item in items {
            let line = line(item.span().start);
            let Some(text) = as_text(item.get_ref()) else {
                self.problem(line, format!("{name}: the value is neither a text nor a number"));
                continue;
            };
            let read = match known {
                Known::Network(key) => (key.read)(&mut self.network, &text),
                Known::Attachment(key) => self.read_attachment_key(key, &text),
            };
            self.lines.insert((name.to_owned(), text.clone()), line);
            if let Err(why) = read {
                self.problem(line, format!("{name}: {text:?}: {why}"));
            }
        }
    }

    fn read_attachment_key(&mut self, key: &'static Key, text: &str) -> Result<(), String> {
        // What is written in an attachment cannot have these.
        if text.is_empty() || text.contains([',', ';']) {
            return Err(format!("write {}", key.value));
        }
        if key.name == "mac" {
            return Err("a MAC address is that of one container, not of a network".into());
        }
        key.parse(&mut self.network.values, text)?;
        if !self.network.values.ip.is_empty() {
            self.network.values.ip.clear();
            return Err("an address is that of one container, not of a network".into());
        }
        self.network.keys.push((key.name, text.to_owned()));
        Ok(())
    }

    /// Checks what was read against each other.
    fn check(&mut self) {
        let addressing = self.network.addressing.clone();
        let in_subnet =
            |range: &AddressRange| addressing.subnets.iter().any(|subnet| range.is_within(subnet));
        let ranges = addressing.ranges.iter().map(|range| ("range", *range));
        let excluded = addressing.excluded.iter().map(|range| ("exclude", *range));
        let gateways = addressing
            .gateways
            .iter()
            .filter_map(|gateway| Some(("gateway", gateway.to_string().parse().ok()?)));
        for (key, range) in ranges.chain(excluded).chain(gateways) {
            if !in_subnet(&range) {
                let line = self.line_of(key, |text| text.parse() == Ok(range));
                self.problem(line, format!("{key}: {range} is in no subnet"));
            }
        }
        if self.network.values.parent.is_none() {
            return self.problem(
                1,
                "parent is missing: name the LAN interface of the host, as in parent = \"eth0\""
                    .to_owned(),
            );
        }
        let values: &Values = &self.network.values;
        let checked = values.driver().and_then(|driver| {
            for (name, value) in &self.network.keys {
                let refusal =
                    keys::find(name).and_then(|key| key.refusal(&driver, values.igmp_mode()));
                if let Some(why) = refusal {
                    return crate::attachment::error::fail(format!("{name}={value}: {why}"));
                }
            }
            let alone = self.network.clone().beside(Values::default());
            alone.finish(driver, None).map(drop)
        });
        if let Err(error) = checked {
            let message = error.to_string();
            let key = message.split('=').next().unwrap_or_default().to_owned();
            let line = self.line_of(&key, |_| true);
            self.problem(line, message);
        }
    }

    /// The line of a key's value; of its last one, if it has several of them.
    fn line_of(&self, key: &str, is_it: impl Fn(&str) -> bool) -> usize {
        let lines = self.lines.iter().filter(|((name, text), _)| name == key && is_it(text));
        lines.map(|(_, line)| *line).max().unwrap_or(1)
    }
}

/// A value as the attachment syntax writes it.
fn as_text(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).ok().map(|n| n.to_string())
        }
        _ => None,
    }
}
