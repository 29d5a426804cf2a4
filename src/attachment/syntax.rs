//! The attachment syntax: `KEY=VALUE[,KEY=VALUE...]` to [`Attachment`].

use crate::attachment::error::{SpecError, fail, suggestion};
use crate::attachment::keys::Key;
use crate::attachment::network::{Network, NetworkName, Networks};
use crate::attachment::values::Values;
use crate::attachment::{Attachment, Driver, MAX_ATTACHMENTS, NetworkUse, keys};
use crate::primitives::InterfaceName;

/// Bytes of a whole attachment text.
const MAX_TEXT: usize = 64 * 1024;

/// Parses the attachments of one container, from whatever source: the values of a repeated flag, an
/// annotation, or a variable. Each text holds attachments separated by `;`. All are checked against
/// each other. An empty text is no attachment. A `net=` is one of `networks`.
///
/// # Errors
/// That of the first bad attachment, and those of [`check_together`].
pub fn parse_all<'t>(
    texts: impl IntoIterator<Item = &'t str>,
    networks: &Networks,
) -> Result<Vec<Attachment>, SpecError> {
    let attachments = parse_each(texts, networks)?;
    check_together(&attachments)?;
    Ok(attachments)
}

/// Parses attachments as [`parse_all`] does, but leaves the check against each other to the caller:
/// for those that are added to what a container has.
///
/// # Errors
/// That of the first bad attachment.
pub fn parse_each<'t>(
    texts: impl IntoIterator<Item = &'t str>,
    networks: &Networks,
) -> Result<Vec<Attachment>, SpecError> {
    each(texts, Some(networks))
}

fn each<'t>(
    texts: impl IntoIterator<Item = &'t str>,
    networks: Option<&Networks>,
) -> Result<Vec<Attachment>, SpecError> {
    let mut attachments = Vec::new();
    for text in texts {
        if text.len() > MAX_TEXT {
            return fail(format!(
                "the attachment text has {} bytes; it may have {MAX_TEXT}",
                text.len()
            ));
        }
        if text.trim().is_empty() {
            continue;
        }
        for spec in text.split(';') {
            attachments.push(parse_one(spec, networks)?);
        }
    }
    Ok(attachments)
}

/// [`parse_all`] of one text that names no network.
///
/// # Errors
/// As [`parse_all`].
pub fn parse_list(text: &str) -> Result<Vec<Attachment>, SpecError> {
    let attachments = each([text], None)?;
    check_together(&attachments)?;
    Ok(attachments)
}

/// Checks the attachments of one container against each other: their number, their interface names,
/// and the drivers, modes and flags on each parent.
///
/// # Errors
/// More than [`MAX_ATTACHMENTS`], two interfaces of one name, children that one parent cannot have
/// beside each other.
pub fn check_together(attachments: &[Attachment]) -> Result<(), SpecError> {
    if attachments.len() > MAX_ATTACHMENTS {
        return fail(format!(
            "{} attachments: a container can have {MAX_ATTACHMENTS}",
            attachments.len()
        ));
    }
    let names: Vec<InterfaceName> =
        attachments.iter().enumerate().map(|(i, a)| a.interface_name(i)).collect();
    match names.iter().enumerate().find(|(i, name)| names[..*i].contains(name)) {
        Some((_, name)) => fail(format!(
            "name={name}: two attachments of the container have this interface name; give one another"
        )),
        None => check_parents(attachments),
    }
}

/// Checks that the child links of one parent go together: the kernel allows either macvlan or
/// ipvlan on a parent, and gives all ipvlan links of a parent the mode and the flag of the last
/// one.
fn check_parents(attachments: &[Attachment]) -> Result<(), SpecError> {
    for (position, attachment) in attachments.iter().enumerate() {
        let parent = attachment.parent_link();
        let before = attachments[..position].iter().filter(|other| other.parent_link() == parent);
        for other in before {
            let (key, wanted, there) = match (&attachment.driver, &other.driver) {
                (Driver::Ipvlan { mode, .. }, Driver::Ipvlan { mode: other, .. })
                    if mode != other =>
                {
                    ("mode", mode.name(), other.name())
                }
                (Driver::Ipvlan { flag, .. }, Driver::Ipvlan { flag: other, .. })
                    if flag != other =>
                {
                    ("flag", flag.name(), other.name())
                }
                (Driver::Ipvlan { .. }, Driver::Macvlan(_))
                | (Driver::Macvlan(_), Driver::Ipvlan { .. }) => {
                    ("driver", attachment.driver.name(), other.driver.name())
                }
                _ => continue,
            };
            return fail(format!(
                "{key}={wanted}: another attachment of the container to {parent} has {key}={there}; \
                 all child links of a parent must have the same {key}"
            ));
        }
    }
    Ok(())
}

/// Parses one attachment that names no network.
///
/// # Errors
/// A line that names the key, the value and what would be right.
pub fn parse_spec(text: &str) -> Result<Attachment, SpecError> {
    parse_one(text, None)
}

fn parse_one(text: &str, networks: Option<&Networks>) -> Result<Attachment, SpecError> {
    let mut values = Values::default();
    let mut given: Vec<(&'static Key, String)> = Vec::new();
    for pair in text.trim().split(',') {
        let pair = pair.trim();
        let (name, value) = match pair.split_once('=') {
            Some((name, value)) => (name.trim(), value.trim()),
            None if pair.is_empty() => {
                return fail(format!(
                    "attachment {text:?} has an empty part; write KEY=VALUE[,KEY=VALUE...]"
                ));
            }
            None => return fail(format!("{pair:?} is not KEY=VALUE; did you mean parent={pair}?")),
        };
        let Some(key) = keys::find(name) else { return fail(unknown(name)) };
        if value.is_empty() {
            return fail(format!("{name}= has no value; write {name}={}", key.value));
        }
        if !key.repeatable && given.iter().any(|(other, _)| other.name == name) {
            return fail(format!("{name}={value}: {name} is given twice"));
        }
        key.parse(&mut values, value).or_else(|why| fail(format!("{name}={value}: {why}")))?;
        given.push((key, value.to_owned()));
    }
    let mut used = None;
    let own = given.len();
    if let Some((name, network)) = network_of(&values, networks)? {
        let own = given.iter().map(|(key, _)| key.name.to_owned()).filter(|key| key != "net");
        used = Some(NetworkUse { name, own: own.collect() });
        let others: Vec<_> = network.others(&given).collect();
        given.extend(others);
        values = network.beside(values);
    }
    let driver = values.driver()?;
    for (position, (key, value)) in given.into_iter().enumerate() {
        if let Some(why) = key.refusal(&driver, values.igmp_mode()) {
            let of = match &used {
                Some(network) if position >= own => format!(" (of network {})", network.name),
                _ => String::new(),
            };
            return fail(format!("{}={value}{of}: {why}", key.name));
        }
    }
    values.finish(driver, used)
}

/// The network that values are on: the one that they name, or the default where they name no
/// parent.
fn network_of(
    values: &Values,
    networks: Option<&Networks>,
) -> Result<Option<(NetworkName, Network)>, SpecError> {
    let (name, networks) = match (&values.net, &values.parent, networks) {
        (Some(name), _, Some(networks)) => (name.clone(), networks),
        (Some(name), _, None) => return fail(format!("net={name}: networks are not known here")),
        (None, None, Some(networks)) => match networks.default_name() {
            Ok(Some(name)) => (name, networks),
            Ok(None) => return Ok(None),
            Err(error) => return fail(error.to_string()),
        },
        _ => return Ok(None),
    };
    match networks.read(&name) {
        Ok(network) => Ok(Some((name, network))),
        Err(error) => fail(format!("net={name}: {error}")),
    }
}

/// Why a key that the table does not have is refused.
fn unknown(name: &str) -> String {
    let names: Vec<_> = keys::KEYS.iter().map(|key| key.name).collect();
    format!("attachment key {name:?} is unknown; {}", suggestion(name, &names))
}

#[cfg(test)]
mod tests;
