//! The network configuration on standard input (CNI specification, "Plugin configuration objects").

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value};

use crate::cni::call::{Verb, runtime_id};
use crate::cni::error::CniError;

/// The versions of the specification, oldest first.
pub(super) const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// The newest of them.
pub(super) const NEWEST: &str = VERSIONS[VERSIONS.len() - 1];

/// The attachments of a network that are in use, in a configuration for GC.
const VALID: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];

/// Bytes of a network's name.
const MAX_NAME: usize = 253;

/// A network configuration.
#[derive(Debug)]
pub(super) struct NetworkConfig {
    /// As it came, for the plugins to which a part is delegated.
    pub(super) text: Vec<u8>,
    /// One of [`VERSIONS`].
    pub(super) version: String,
    /// Name of the network.
    pub(super) name: String,
    /// The plugin that gives addresses, if another one does.
    pub(super) ipam: Option<String>,
    /// What the network says of DNS.
    pub(super) dns: Option<Value>,
    /// The result of the plugins before this one; for CHECK also that of this one.
    pub(super) previous: Option<Value>,
    /// Container and interface of each attachment that is in use, for GC.
    pub(super) valid: Option<BTreeSet<(String, String)>>,
    /// The members that are neither the specification's nor of an extension: keys of the attachment.
    pub(super) keys: Map<String, Value>,
}

impl NetworkConfig {
    /// Reads a configuration. `version` becomes the one that it names.
    pub(super) fn parse(text: Vec<u8>, verb: Verb, version: &mut String) -> Result<Self, CniError> {
        let decoded: Value = serde_json::from_slice(&text).map_err(|error| {
            CniError::decode(format!("the network configuration is not JSON: {error}"))
        })?;
        let Value::Object(mut members) = decoded else {
            return Err(CniError::decode("the network configuration is not a JSON object"));
        };
        let asked = word(&mut members, "cniVersion")?.unwrap_or_else(|| "0.1.0".into());
        let Some(position) = VERSIONS.iter().position(|known| *known == asked) else {
            return Err(CniError::version(format!(
                "cniVersion {asked:?}: the versions are {}",
                VERSIONS.join(", ")
            )));
        };
        version.clone_from(&asked);
        if VERSIONS.iter().position(|known| *known == verb.since()) > Some(position) {
            return Err(CniError::version(format!(
                "{} is called with a configuration of version {asked}; it is of {}",
                verb.name(),
                verb.since()
            )));
        }
        let name = word(&mut members, "name")?.unwrap_or_default();
        let is_valid = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if !name.starts_with(|c: char| c.is_ascii_alphanumeric())
            || !name.chars().all(is_valid)
            || name.len() > MAX_NAME
        {
            return Err(CniError::config(
                "name: a network's name begins with a letter or a digit and has letters, digits, \
                 underscores, dots and hyphens",
            ));
        }
        let ipam = match members.remove("ipam") {
            None | Some(Value::Null) => None,
            Some(Value::Object(mut ipam)) => word(&mut ipam, "type")
                .map_err(|_| CniError::config("ipam: type is the name of a plugin"))?
                .filter(|kind| !kind.is_empty()),
            Some(_) => return Err(CniError::config("ipam is an object with the member type")),
        };
        let dns = members.remove("dns").filter(Value::is_object);
        let previous = members.remove("prevResult").filter(Value::is_object);
        let valid = VALID.into_iter().filter_map(|key| members.remove(key)).next();
        let valid = valid.map(|list| attachments(&list)).transpose()?;
        for key in ["type", "args", "runtimeConfig", "capabilities", "disableCheck", "cniVersions"]
        {
            members.remove(key);
        }
        // Extensions have a domain before their names.
        members.retain(|key, _| !key.contains('/'));
        let keys = members;
        Ok(NetworkConfig { text, version: asked, name, ipam, dns, previous, valid, keys })
    }

    /// Whether the version is that one or newer.
    pub(super) fn is_since(&self, version: &str) -> bool {
        let position = |wanted: &str| VERSIONS.iter().position(|known| *known == wanted);
        position(&self.version) >= position(version)
    }

    /// The addresses that the result of the call has, or had, for an interface of a container:
    /// `ADDRESS/PREFIX`.
    pub(super) fn previous_addresses(&self, interface: &str, namespace: &Path) -> Vec<&str> {
        let member = |name: &str| self.previous.as_ref()?.get(name)?.as_array();
        let interfaces = member("interfaces").map(Vec::as_slice).unwrap_or_default();
        let is_its = |ip: &&Value| {
            let Some(index) = ip["interface"].as_u64() else { return false };
            let entry = usize::try_from(index).ok().and_then(|index| interfaces.get(index));
            entry.is_some_and(|entry| {
                entry["name"] == interface
                    && entry["sandbox"].as_str().is_some_and(|path| Path::new(path) == namespace)
            })
        };
        let ips = member("ips").map(Vec::as_slice).unwrap_or_default().iter();
        ips.filter(is_its).filter_map(|ip| ip["address"].as_str()).collect()
    }
}

/// A member that is a string.
fn word(members: &mut Map<String, Value>, key: &str) -> Result<Option<String>, CniError> {
    match members.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(CniError::config(format!("{key} is a string"))),
    }
}

fn attachments(list: &Value) -> Result<BTreeSet<(String, String)>, CniError> {
    // What is not understood here would be removed.
    let bad = || {
        CniError::config(format!(
            "{}: a list of objects with the members containerID and ifname",
            VALID[0]
        ))
    };
    let entry = |entry: &Value| {
        let word = |key: &str| entry.get(key).and_then(Value::as_str);
        let (id, interface) = word("containerID").zip(word("ifname")).ok_or_else(bad)?;
        Ok((runtime_id(id).to_owned(), interface.to_owned()))
    };
    match list {
        Value::Null => Ok(BTreeSet::new()),
        Value::Array(entries) => entries.iter().map(entry).collect(),
        _ => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, verb: Verb) -> Result<NetworkConfig, String> {
        let parsed = NetworkConfig::parse(text.into(), verb, &mut String::new());
        parsed.map_err(|error| error.json("")["code"].to_string() + ": " + &error.to_string())
    }

    #[test]
    fn the_members_of_the_specification_and_the_keys_of_the_attachment() {
        let config = parse(
            r#"{"cniVersion":"1.0.0","name":"media","type":"mcrun-cni","parent":"eth1","vlan":10,
                "ipam":{"type":"host-local"},"dns":{"domain":"studio"},"capabilities":{"mac":true},
                "cni.dev/other":1,"disableCheck":false}"#,
            Verb::Add,
        )
        .unwrap();
        assert_eq!((config.name.as_str(), config.ipam.as_deref()), ("media", Some("host-local")));
        assert_eq!(config.keys.keys().collect::<Vec<_>>(), ["parent", "vlan"]);
        assert!(config.is_since("0.4.0") && config.is_since("1.0.0") && !config.is_since("1.1.0"));
    }

    #[test]
    fn what_is_refused_and_with_which_code() {
        for (text, verb, expected) in [
            ("{", Verb::Add, "6: the network configuration is not JSON"),
            ("[]", Verb::Add, "6: the network configuration is not a JSON object"),
            ("{}", Verb::Add, "1: cniVersion \"0.1.0\""),
            (r#"{"cniVersion":"2.0.0","name":"n"}"#, Verb::Add, "1: cniVersion \"2.0.0\""),
            (r#"{"cniVersion":7,"name":"n"}"#, Verb::Add, "7: cniVersion is a string"),
            (r#"{"cniVersion":"1.0.0"}"#, Verb::Add, "7: name"),
            (r#"{"cniVersion":"1.0.0","name":"../n"}"#, Verb::Add, "7: name"),
            (r#"{"cniVersion":"0.3.1","name":"n"}"#, Verb::Check, "1: CHECK is called"),
            (r#"{"cniVersion":"1.0.0","name":"n"}"#, Verb::Gc, "1: GC is called"),
            (r#"{"cniVersion":"1.0.0","name":"n"}"#, Verb::Status, "1: STATUS is called"),
            (r#"{"cniVersion":"1.0.0","name":"n","ipam":"dhcp"}"#, Verb::Add, "7: ipam"),
            (r#"{"cniVersion":"1.0.0","name":"n","ipam":{"type":1}}"#, Verb::Add, "7: ipam"),
            (
                r#"{"cniVersion":"1.1.0","name":"n","cni.dev/valid-attachments":[{"ifname":"e"}]}"#,
                Verb::Gc,
                "7: cni.dev/valid-attachments",
            ),
        ] {
            let error = parse(text, verb).unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }

    #[test]
    fn the_addresses_of_one_interface_in_a_result() {
        let config = parse(
            r#"{"cniVersion":"1.0.0","name":"n","prevResult":{
                "interfaces":[{"name":"br0"},{"name":"eth0","sandbox":"/run/netns/a"}],
                "ips":[{"address":"10.0.0.1/24","interface":0},{"address":"10.0.0.2/24","interface":1},
                       {"address":"10.0.0.3/24","interface":9},{"address":"10.0.0.4/24"}]}}"#,
            Verb::Check,
        )
        .unwrap();
        let at = |path: &str| config.previous_addresses("eth0", Path::new(path));
        assert_eq!(at("/run/netns/a"), ["10.0.0.2/24"]);
        assert!(at("/run/netns/b").is_empty());
    }
}
