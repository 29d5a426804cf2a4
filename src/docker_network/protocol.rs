//! What docker asks a network driver, and what it is answered: libnetwork's remote drivers,
//! libnetwork/docs/remote.md and libnetwork/drivers/remote/api/api.go of moby.
//!
//! Each request is `POST /METHOD` with an object of JSON. An answer with a text in `Err` is an error,
//! which docker shows to whoever asked.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Where docker has the options that a network was created with.
const GENERIC: &str = "com.docker.network.generic";
/// Whether a network has no way out.
const INTERNAL: &str = "com.docker.network.internal";

/// What docker asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    /// What the plugin is.
    Activate,
    /// What the driver can do.
    Capabilities,
    /// A network that was made.
    CreateNetwork(CreateNetwork),
    /// A network that is removed.
    DeleteNetwork(NetworkName),
    /// A container's place on a network.
    CreateEndpoint(CreateEndpoint),
    /// Such a place that is given up.
    DeleteEndpoint(EndpointName),
    /// What the driver knows of it.
    EndpointInfo,
    /// A container gets its place.
    Join(Join),
    /// A container leaves its place.
    Leave(EndpointName),
    /// What does not concern this driver: clusters, and port numbers.
    Nothing,
}

/// Why a request is no request.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ProtocolError {
    /// No method of this name.
    #[error("the driver does not know {0}")]
    Method(String),
    /// A body that is not that of the method.
    #[error("{method}: {why}")]
    Body {
        /// The method.
        method: &'static str,
        /// What is wrong.
        why: String,
    },
}

/// The id that docker gives to a network or an endpoint. It is also the name of a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct DockerId(String);

/// Characters of an id; docker's have 64.
const MAX_ID: usize = 64;

impl TryFrom<String> for DockerId {
    type Error = String;

    fn try_from(id: String) -> Result<Self, String> {
        if (1..=MAX_ID).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric()) {
            Ok(DockerId(id))
        } else {
            Err(format!("an id has 1 to {MAX_ID} letters and digits"))
        }
    }
}

impl From<DockerId> for String {
    fn from(id: DockerId) -> String {
        id.0
    }
}

impl fmt::Display for DockerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `/NetworkDriver.CreateNetwork`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct CreateNetwork {
    /// The network.
    #[serde(rename = "NetworkID")]
    pub(super) network: DockerId,
    #[serde(rename = "Options", default)]
    options: Option<BTreeMap<String, Value>>,
    #[serde(rename = "IPv4Data", default)]
    ipv4: Option<Vec<Pool>>,
    #[serde(rename = "IPv6Data", default)]
    ipv6: Option<Vec<Pool>>,
}

/// Addresses of a network, as docker's IPAM has them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Pool {
    /// ADDRESS/PREFIX.
    #[serde(rename = "Gateway", default)]
    gateway: Option<String>,
}

impl CreateNetwork {
    /// What `docker network create` was given with `-o`.
    ///
    /// # Errors
    /// An option whose value is neither a text nor a number nor a truth value.
    pub(super) fn options(&self) -> Result<BTreeMap<String, String>, String> {
        let given = match self.options.as_ref().and_then(|options| options.get(GENERIC)) {
            None | Some(Value::Null) => return Ok(BTreeMap::new()),
            Some(Value::Object(given)) => given,
            Some(_) => return Err(format!("{GENERIC}: an object is needed")),
        };
        let text = |(name, value): (&String, &Value)| match value {
            Value::String(text) => Ok((name.clone(), text.clone())),
            Value::Number(number) => Ok((name.clone(), number.to_string())),
            Value::Bool(truth) => Ok((name.clone(), truth.to_string())),
            _ => Err(format!("{name:.100}: a text is needed")),
        };
        given.iter().map(text).collect()
    }

    /// The gateways, ADDRESS/PREFIX; none where the network has no way out (`--internal`).
    pub(super) fn gateways(&self) -> impl Iterator<Item = &str> {
        let internal = self.options.as_ref().and_then(|options| options.get(INTERNAL));
        let internal = match internal {
            Some(Value::Bool(internal)) => *internal,
            Some(Value::String(text)) => text == "true",
            _ => false,
        };
        let pools = self.ipv4.iter().chain(&self.ipv6).flatten();
        pools.filter(move |_| !internal).filter_map(|pool| pool.gateway.as_deref())
    }
}

/// `/NetworkDriver.DeleteNetwork`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct NetworkName {
    /// The network.
    #[serde(rename = "NetworkID")]
    pub(super) network: DockerId,
}

/// `/NetworkDriver.CreateEndpoint`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct CreateEndpoint {
    /// The network.
    #[serde(rename = "NetworkID")]
    pub(super) network: DockerId,
    /// The endpoint.
    #[serde(rename = "EndpointID")]
    pub(super) endpoint: DockerId,
    #[serde(rename = "Interface", default)]
    interface: Option<EndpointInterface>,
    /// What the endpoint was made with; names of docker's begin with `com.docker.`.
    #[serde(rename = "Options", default)]
    options: Option<BTreeMap<String, Value>>,
}

/// What docker knows of a container's interface. A text is empty where it leaves the choice to the
/// driver.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct EndpointInterface {
    /// ADDRESS/PREFIX.
    #[serde(rename = "Address")]
    pub(super) address: String,
    /// ADDRESS/PREFIX.
    #[serde(rename = "AddressIPv6")]
    pub(super) address_ipv6: String,
    /// XX:XX:XX:XX:XX:XX.
    #[serde(rename = "MacAddress")]
    pub(super) mac: String,
}

impl CreateEndpoint {
    pub(super) fn interface(&self) -> EndpointInterface {
        self.interface.clone().unwrap_or_default()
    }

    /// The name that compose's `interface_name` or docker's `--network name=...,ifname=...` gives to
    /// the interface, since docker 28.
    pub(super) fn interface_name(&self) -> Option<&str> {
        self.options.as_ref()?.get("com.docker.network.endpoint.ifname")?.as_str()
    }

    /// Options that are not docker's own.
    pub(super) fn foreign_options(&self) -> impl Iterator<Item = &str> {
        let names = self.options.iter().flat_map(BTreeMap::keys);
        names.map(String::as_str).filter(|name| !name.starts_with("com.docker."))
    }
}

/// A request that names an endpoint and no more.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct EndpointName {
    /// The endpoint.
    #[serde(rename = "EndpointID")]
    pub(super) endpoint: DockerId,
}

/// `/NetworkDriver.Join`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Join {
    /// The network.
    #[serde(rename = "NetworkID")]
    pub(super) network: DockerId,
    /// The endpoint.
    #[serde(rename = "EndpointID")]
    pub(super) endpoint: DockerId,
    /// Where the container's network namespace is mounted, or will be.
    #[serde(rename = "SandboxKey")]
    pub(super) sandbox: PathBuf,
}

impl Request {
    /// Reads a request; `path` is that of the URL.
    ///
    /// # Errors
    /// [`ProtocolError`].
    pub(super) fn parse(path: &str, body: &[u8]) -> Result<Self, ProtocolError> {
        fn read<'b, T: Deserialize<'b>>(
            method: &'static str,
            body: &'b [u8],
        ) -> Result<T, ProtocolError> {
            serde_json::from_slice(body)
                .map_err(|error| ProtocolError::Body { method, why: error.to_string() })
        }
        Ok(match path {
            "/Plugin.Activate" => Request::Activate,
            "/NetworkDriver.GetCapabilities" => Request::Capabilities,
            "/NetworkDriver.CreateNetwork" => Request::CreateNetwork(read("CreateNetwork", body)?),
            "/NetworkDriver.DeleteNetwork" => Request::DeleteNetwork(read("DeleteNetwork", body)?),
            "/NetworkDriver.CreateEndpoint" => {
                Request::CreateEndpoint(read("CreateEndpoint", body)?)
            }
            "/NetworkDriver.DeleteEndpoint" => {
                Request::DeleteEndpoint(read("DeleteEndpoint", body)?)
            }
            "/NetworkDriver.EndpointOperInfo" => Request::EndpointInfo,
            "/NetworkDriver.Join" => {
                let join: Join = read("Join", body)?;
                if !join.sandbox.is_absolute() {
                    let why = "SandboxKey is no absolute path".to_owned();
                    return Err(ProtocolError::Body { method: "Join", why });
                }
                Request::Join(join)
            }
            "/NetworkDriver.Leave" => Request::Leave(read("Leave", body)?),
            "/NetworkDriver.AllocateNetwork"
            | "/NetworkDriver.FreeNetwork"
            | "/NetworkDriver.DiscoverNew"
            | "/NetworkDriver.DiscoverDelete"
            | "/NetworkDriver.ProgramExternalConnectivity"
            | "/NetworkDriver.RevokeExternalConnectivity" => Request::Nothing,
            _ => return Err(ProtocolError::Method(path.chars().take(100).collect())),
        })
    }
}

/// The answer to [`Request::Activate`].
pub(super) fn activated() -> Value {
    json!({ "Implements": ["NetworkDriver"] })
}

/// The answer to [`Request::Capabilities`]: docker keeps the networks, and each host its own.
pub(super) fn capabilities() -> Value {
    json!({ "Scope": "local", "ConnectivityScope": "local" })
}

/// The answer to [`Request::CreateEndpoint`]. docker refuses an address that it has given itself.
pub(super) fn endpoint_made(mac: Option<String>) -> Value {
    match mac {
        Some(mac) => json!({ "Interface": { "MacAddress": mac } }),
        None => json!({}),
    }
}

/// The answer to [`Request::Join`]: there is no link that docker would have to move, and no default
/// route that it would have to set. The beginning of the interface's name is what docker takes off
/// when it looks for the interface after a restart; it has to find a number behind it.
pub(super) fn joined(interface: &str) -> Value {
    let beginning = interface.trim_end_matches(|c: char| c.is_ascii_digit());
    json!({
        "InterfaceName": { "SrcName": "", "DstPrefix": beginning },
        "DisableGatewayService": true,
    })
}

/// The answer where there is nothing to say.
pub(super) fn done() -> Value {
    json!({})
}

/// The answer to [`Request::EndpointInfo`].
pub(super) fn endpoint_info() -> Value {
    json!({ "Value": {} })
}

/// The answer that tells an error.
pub(super) fn failed(error: &str) -> Value {
    json!({ "Err": error })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(method: &str, body: &Value) -> Result<Request, ProtocolError> {
        Request::parse(&format!("/{method}"), body.to_string().as_bytes())
    }

    #[test]
    fn a_network_is_read_as_docker_writes_it() {
        let body = json!({
            "NetworkID": "0f1e",
            "Options": {
                "com.docker.network.enable_ipv6": false,
                "com.docker.network.generic": { "parent": "eth1", "vlan": 100 },
            },
            "IPv4Data": [{
                "AddressSpace": "LocalDefault", "Pool": "10.9.0.0/24", "Gateway": "10.9.0.1/24",
                "AuxAddresses": { "DefaultGatewayIPv4": "10.9.0.1/24" },
            }],
            "IPv6Data": [],
        });
        let Request::CreateNetwork(network) = parse("NetworkDriver.CreateNetwork", &body).unwrap()
        else {
            panic!("another request")
        };
        assert_eq!(network.network.to_string(), "0f1e");
        let options = [("parent", "eth1"), ("vlan", "100")];
        let options = options.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(network.options().unwrap(), options.into());
        assert_eq!(network.gateways().collect::<Vec<_>>(), ["10.9.0.1/24"]);

        let mut internal = body.clone();
        internal["Options"][INTERNAL] = true.into();
        internal["IPv6Data"] = Value::Null;
        let Ok(Request::CreateNetwork(network)) = parse("NetworkDriver.CreateNetwork", &internal)
        else {
            panic!("another request")
        };
        assert_eq!(network.gateways().count(), 0);
    }

    #[test]
    fn an_endpoint_is_read_as_docker_writes_it() {
        let body = json!({
            "NetworkID": "0f1e", "EndpointID": "22aa",
            "Interface": { "Address": "10.9.0.5/24", "AddressIPv6": "", "MacAddress": "" },
            "Options": {
                "com.docker.network.endpoint.exposedports": [],
                "com.docker.network.endpoint.ifname": "red0",
                "allow": "239.1.1.1",
            },
        });
        let Ok(Request::CreateEndpoint(endpoint)) = parse("NetworkDriver.CreateEndpoint", &body)
        else {
            panic!("another request")
        };
        assert_eq!(endpoint.interface().address, "10.9.0.5/24");
        assert_eq!(endpoint.interface_name(), Some("red0"));
        assert_eq!(endpoint.foreign_options().collect::<Vec<_>>(), ["allow"]);
    }

    #[test]
    fn an_id_that_leads_elsewhere_is_refused() {
        for id in ["", "../x", "a/b", ".", "a\0", &"a".repeat(65)] {
            let body = json!({ "NetworkID": id });
            let error = parse("NetworkDriver.DeleteNetwork", &body).unwrap_err().to_string();
            assert!(error.starts_with("DeleteNetwork: an id has 1 to 64"), "{error}");
        }
        let body = json!({ "NetworkID": "a", "EndpointID": "b", "SandboxKey": "netns/x" });
        let error = parse("NetworkDriver.Join", &body).unwrap_err().to_string();
        assert_eq!(error, "Join: SandboxKey is no absolute path");
    }

    #[test]
    fn docker_finds_a_number_behind_the_beginning_of_the_name() {
        for (name, beginning) in [("mc0", "mc"), ("red", "red"), ("a1b22", "a1b")] {
            assert_eq!(joined(name)["InterfaceName"]["DstPrefix"], beginning);
        }
    }

    const METHODS: [&str; 6] = [
        "/NetworkDriver.CreateNetwork",
        "/NetworkDriver.DeleteNetwork",
        "/NetworkDriver.CreateEndpoint",
        "/NetworkDriver.DeleteEndpoint",
        "/NetworkDriver.Join",
        "/NetworkDriver.Leave",
    ];

    proptest! {
        #[test]
        fn no_body_makes_the_reader_panic(method in 0..METHODS.len(), body in any::<Vec<u8>>()) {
            let _ = Request::parse(METHODS[method], &body);
        }

        #[test]
        fn no_options_make_the_reader_panic(
            name in ".{0,20}", value in ".{0,20}", kind in 0..5usize, gateway in ".{0,20}",
        ) {
            let value = [json!(value), json!(1), json!([value]), json!(null), json!(true)][kind].clone();
            let body = json!({
                "NetworkID": "a",
                "Options": { GENERIC: { name.clone(): value }, name: gateway.clone() },
                "IPv4Data": [{ "Gateway": gateway }],
            });
            if let Ok(Request::CreateNetwork(network)) =
                parse("NetworkDriver.CreateNetwork", &body)
            {
                let _ = network.options();
                prop_assert_eq!(network.gateways().count(), 1);
            }
        }
    }
}
