//! The plugin that gives addresses (CNI specification, "Execution of delegated plugins").

use std::io::{Read, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cni::MAX_JSON;
use crate::cni::call::{Call, Verb};
use crate::cni::config::NetworkConfig;
use crate::cni::error::CniError;

/// A plugin for addresses.
pub(super) struct Ipam<'c> {
    kind: &'c str,
    program: PathBuf,
    config: &'c [u8],
}

/// What it gives an interface.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Addresses {
    #[serde(default)]
    ips: Vec<Ip>,
    #[serde(default)]
    routes: Vec<Route>,
    #[serde(default)]
    pub(super) dns: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Ip {
    address: IpNet,
    #[serde(default)]
    gateway: Option<IpAddr>,
}

#[derive(Debug, Deserialize)]
struct Route {
    dst: IpNet,
    #[serde(default)]
    gw: Option<IpAddr>,
}

/// An error of a plugin.
#[derive(Debug, Default, Deserialize)]
struct Failure {
    code: Option<u64>,
    #[serde(default)]
    msg: String,
    #[serde(default)]
    details: String,
}

impl<'c> Ipam<'c> {
    /// The one that a configuration names, if it names one.
    pub(super) fn of(config: &'c NetworkConfig, call: &Call) -> Result<Option<Self>, CniError> {
        let Some(kind) = config.ipam.as_deref() else { return Ok(None) };
        Ok(Some(Ipam { kind, program: call.plugin(kind)?, config: &config.text }))
    }

    /// Gets addresses.
    pub(super) fn add(&self) -> Result<Addresses, CniError> {
        let output = self.call(Verb::Add)?;
        let understood = serde_json::from_slice(&output);
        understood.map_err(|error| {
            // It has given addresses, whatever they are.
            let _ = self.call(Verb::Del);
            CniError::delegate(format!(
                "the result of the address plugin {} cannot be understood: {error}",
                self.kind
            ))
        })
    }

    /// Calls it for another verb.
    pub(super) fn pass(&self, verb: Verb) -> Result<(), CniError> {
        self.call(verb).map(drop)
    }

    /// The plugin has the same environment and the same configuration, and returns its output.
    fn call(&self, verb: Verb) -> Result<Vec<u8>, CniError> {
        let failed = |what: &str, error: std::io::Error| {
            CniError::io(format!("{what} the address plugin {}: {error}", self.program.display()))
        };
        let mut plugin = Command::new(&self.program)
            .env("CNI_COMMAND", verb.name())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| failed("cannot start", error))?;
        let (input, output) = (plugin.stdin.take(), plugin.stdout.take());
        let read = thread::scope(|scope| {
            // It may write before it has read everything.
            scope.spawn(move || {
                // One that ends without reading says why by its status.
                let _ = input.map(|mut input| input.write_all(self.config));
            });
            let mut bytes = Vec::new();
            let output = output.map(|output| output.take(MAX_JSON).read_to_end(&mut bytes));
            output.unwrap_or(Ok(0)).map(|_| bytes)
        });
        let status = plugin.wait().map_err(|error| failed("cannot wait for", error))?;
        let output = read.map_err(|error| failed("cannot read from", error))?;
        if status.success() {
            return Ok(output);
        }
        let told: Failure = serde_json::from_slice(&output).unwrap_or_default();
        let text: Vec<_> = [told.msg, told.details].into_iter().filter(|t| !t.is_empty()).collect();
        let text = match text.is_empty() {
            true => format!("it has failed without saying why ({status})"),
            false => text.join("; "),
        };
        let line = format!("address plugin {}: {text}", self.kind);
        Err(CniError::of_delegate(told.code, line))
    }
}

impl Addresses {
    /// No address, and the name servers of a network of the administrator's.
    pub(super) fn of_name_servers(servers: &[IpAddr]) -> Self {
        let dns = (!servers.is_empty()).then(|| json!({"nameservers": servers}));
        Addresses { dns, ..Addresses::default() }
    }

    /// As keys of an attachment. A route without a next hop has the gateway of the address, as other
    /// plugins understand it.
    pub(super) fn pairs(&self) -> Vec<String> {
        let mut pairs: Vec<_> = self.ips.iter().map(|ip| format!("ip={}", ip.address)).collect();
        for Route { dst, gw } in &self.routes {
            let is_of_family = |other: &IpAddr| other.is_ipv4() == dst.addr().is_ipv4();
            let gateway = gw.or_else(|| {
                self.ips.iter().filter_map(|ip| ip.gateway).find(|gateway| is_of_family(gateway))
            });
            let dst = dst.trunc();
            let is_default = dst.prefix_len() == 0;
            let pair = match gateway {
                Some(gateway) if is_default => format!("gw={gateway}"),
                Some(gateway) => format!("route={dst}@{gateway}"),
                None => format!("route={dst}"),
            };
            if !pairs.contains(&pair) {
                pairs.push(pair);
            }
        }
        pairs
    }

    /// The gateway of an address, which the result repeats.
    pub(super) fn gateway_of(&self, address: IpNet) -> Option<IpAddr> {
        self.ips.iter().find(|ip| ip.address == address)?.gateway
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_routes_become_keys() {
        let addresses: Addresses = serde_json::from_str(
            r#"{"cniVersion":"0.4.0","ips":[
                {"version":"4","address":"10.1.0.5/16","gateway":"10.1.0.1"},
                {"version":"6","address":"fd00::5/64"}],
                "routes":[{"dst":"0.0.0.0/0"},{"dst":"10.9.0.0/16","gw":"10.1.0.9"},{"dst":"fd01::/64"},
                    {"dst":"0.0.0.0/0"}]}"#,
        )
        .unwrap();
        assert_eq!(
            addresses.pairs(),
            [
                "ip=10.1.0.5/16",
                "ip=fd00::5/64",
                "gw=10.1.0.1",
                "route=10.9.0.0/16@10.1.0.9",
                "route=fd01::/64"
            ]
        );
        let gateway = addresses.gateway_of("10.1.0.5/16".parse().unwrap());
        assert_eq!(gateway, "10.1.0.1".parse().ok());
    }
}
