//! What the plugin prints on success (CNI specification, "Success").

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::cni::config::{NEWEST, NetworkConfig, VERSIONS};
use crate::cni::ipam::Addresses;
use crate::state::AttachedInterface;

/// The answer to VERSION: in the version that was asked in, where it is given.
pub(super) fn versions(input: &[u8]) -> Value {
    let asked = serde_json::from_slice::<Value>(input).ok();
    let asked = asked.as_ref().and_then(|asked| asked["cniVersion"].as_str());
    json!({"cniVersion": asked.unwrap_or(NEWEST), "supportedVersions": VERSIONS})
}

/// What was made for an interface.
pub(super) fn made(
    config: &NetworkConfig,
    interface: &AttachedInterface,
    namespace: &Path,
    given: &Addresses,
) -> Value {
    let attachment = &interface.attachment;
    let mut link = Map::new();
    link.insert("name".into(), json!(interface.name));
    if let Some(mac) = interface.mac {
        link.insert("mac".into(), json!(mac.to_string()));
    }
    link.insert("sandbox".into(), json!(namespace));
    let ips = attachment.ip.addresses().iter().map(|net| {
        let mut ip = Map::new();
        if !config.is_since("1.0.0") {
            let version = if net.addr().is_ipv4() { "4" } else { "6" };
            ip.insert("version".into(), json!(version));
        }
        ip.insert("address".into(), json!(net.to_string()));
        let own = attachment.gateways.iter().copied().find(|gateway| net.contains(gateway));
        if let Some(gateway) = given.gateway_of(*net).or(own) {
            ip.insert("gateway".into(), json!(gateway.to_string()));
        }
        ip.insert("interface".into(), json!(0));
        Value::Object(ip)
    });
    let further = attachment.routes.iter().map(|route| match route.gateway {
        Some(gateway) => json!({"dst": route.destination.to_string(), "gw": gateway.to_string()}),
        None => json!({"dst": route.destination.to_string()}),
    });
    let default = attachment.gateways.iter().map(|gateway| {
        let dst = if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
        json!({"dst": dst, "gw": gateway.to_string()})
    });
    let dns = config.dns.as_ref().or(given.dns.as_ref());
    json!({
        "cniVersion": config.version,
        "interfaces": [link],
        "ips": ips.collect::<Vec<_>>(),
        "routes": further.chain(default).collect::<Vec<_>>(),
        "dns": dns.unwrap_or(&json!({})),
    })
}

/// The result of the plugins before this one, which has made nothing that a result names.
pub(super) fn passed_on(config: &NetworkConfig, previous: &Value) -> Value {
    let mut result = previous.clone();
    result["cniVersion"] = json!(config.version);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_versions_are_told_in_the_one_that_was_asked_in() {
        assert_eq!(versions(br#"{"cniVersion":"0.4.0"}"#)["cniVersion"], "0.4.0");
        let answer = versions(b"");
        assert_eq!(answer["cniVersion"], "1.1.0");
        assert_eq!(answer["supportedVersions"].as_array().unwrap().len(), VERSIONS.len());
    }
}
