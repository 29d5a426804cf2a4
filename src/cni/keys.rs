//! From members of a network configuration to the text of an attachment.

use serde_json::{Map, Value};

use crate::attachment::{KEYS, nearest};
use crate::cni::error::CniError;
use crate::primitives::printable;

/// Characters of a value that are shown.
const MAX_SHOWN: usize = 200;

/// The keys that a configuration cannot have, and why.
const OTHERS: [(&str, &str); 3] = [
    ("interface", "the interface is the one that CNI_IFNAME names"),
    ("optional", "CNI promises an interface; leave it out"),
    ("master", "it is called parent here"),
];

/// The keys that a link of another plugin can have: those of its proxy.
const OF_PROXY: [&str; 7] =
    ["igmp", "l2", "upstream", "allow", "deny", "max-groups", "max-sources"];

/// The members as `KEY=VALUE`, one for each value. Values are checked where the text is parsed.
pub(super) fn pairs(members: &Map<String, Value>) -> Result<Vec<String>, CniError> {
    let mut pairs = Vec::new();
    for (name, value) in members {
        let shown = || printable(&format!("{name}: {value}"), MAX_SHOWN);
        let key = KEYS.iter().find(|key| key.name == name);
        if let Some((_, why)) = OTHERS.iter().find(|(other, _)| other == name) {
            return Err(CniError::unsupported(format!("{}: {why}", shown())));
        }
        let Some(key) = key else {
            let near = nearest(name, KEYS.iter().map(|key| key.name));
            let hint = match near {
                Some(near) => format!("did you mean {near}?"),
                None => "mcrun-attachment(7) has the keys".into(),
            };
            return Err(CniError::unsupported(format!("{}: unknown key; {hint}", shown())));
        };
        let values = match value {
            Value::Array(values) if key.repeatable => values.as_slice(),
            Value::Array(_) => {
                return Err(CniError::config(format!("{}: the key has one value", shown())));
            }
            one => std::slice::from_ref(one),
        };
        for value in values {
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                Value::Bool(truth) => truth.to_string(),
                _ => {
                    return Err(CniError::config(format!(
                        "{}: a value is a string or a number",
                        shown()
                    )));
                }
            };
            if text.contains([',', ';']) {
                return Err(CniError::config(format!(
                    "{}: several values are a JSON list",
                    shown()
                )));
            }
            pairs.push(format!("{name}={text}"));
        }
    }
    Ok(pairs)
}

/// Refuses the keys that say how a link is made.
pub(super) fn refuse_keys_of_links(members: &Map<String, Value>) -> Result<(), CniError> {
    let other = members.keys().find(|name| !OF_PROXY.contains(&name.as_str()));
    match other {
        Some(name) => Err(CniError::unsupported(format!(
            "{}: the link is another plugin's, which has made it already; the keys of its proxy are {}",
            printable(&format!("{name}: {}", members[name]), MAX_SHOWN),
            OF_PROXY.join(", ")
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Vec<String>, String> {
        let Value::Object(members) = serde_json::from_str(text).unwrap() else { panic!("{text}") };
        pairs(&members)
            .map_err(|error| error.json("")["code"].to_string() + ": " + &error.to_string())
    }

    #[test]
    fn members_become_pairs() {
        let pairs = of(r#"{"parent":"eth1","vlan":10,"allow":["239.1.0.0/16","239.2.0.0/16"]}"#);
        let mut pairs = pairs.unwrap();
        pairs.sort();
        assert_eq!(pairs, ["allow=239.1.0.0/16", "allow=239.2.0.0/16", "parent=eth1", "vlan=10"]);
        assert_eq!(of(r#"{"allow":"239.1.0.0/16"}"#).unwrap(), ["allow=239.1.0.0/16"]);
    }

    #[test]
    fn what_is_no_key_is_named() {
        for (text, expected) in [
            (r#"{"master":"eth1"}"#, "2: master: \"eth1\": it is called parent here"),
            (r#"{"parnt":"eth1"}"#, "2: parnt: \"eth1\": unknown key; did you mean parent?"),
            (r#"{"interface":"eth0"}"#, "2: interface: \"eth0\": the interface is the one"),
            (r#"{"parent":["eth1"]}"#, "7: parent: [\"eth1\"]: the key has one value"),
            (r#"{"parent":{}}"#, "7: parent: {}: a value is"),
            (r#"{"parent":"eth1,ip=10.0.0.1/8"}"#, "7: parent: \"eth1,ip=10.0.0.1/8\": several"),
        ] {
            let error = of(text).unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }
}
