//! A caller of plugins, as engines call them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use super::PLUGINS;
use crate::lab::{Lab, give};

/// One interface of one container, and the variables that name it.
pub(super) struct Call<'l> {
    pub(super) lab: &'l Lab,
    pub(super) id: String,
    pub(super) netns: String,
    pub(super) interface: &'static str,
    pub(super) arguments: String,
    pub(super) path: PathBuf,
}

impl<'l> Call<'l> {
    /// `eth0` of a container whose namespace is one of the lab's.
    pub(super) fn of(lab: &'l Lab, node: &str) -> Self {
        Call {
            lab,
            id: lab.name("pod"),
            netns: format!("/run/netns/{}", lab.namespace(node)),
            interface: "eth0",
            arguments: String::new(),
            path: PLUGINS.into(),
        }
    }

    /// The command of a plugin for a verb.
    pub(super) fn command(&self, program: &Path, verb: &str) -> Command {
        let mut command = self.lab.enter("host", program);
        command
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &self.id)
            .env("CNI_NETNS", &self.netns)
            .env("CNI_IFNAME", self.interface)
            .env("CNI_ARGS", &self.arguments)
            .env("CNI_PATH", &self.path);
        command
    }

    /// mcrun's plugin.
    pub(super) fn try_mcrun(&self, verb: &str, config: &Value) -> Output {
        give(self.command(&self.lab.program("mcrun-cni"), verb), &config.to_string())
    }

    /// The same, which succeeds. The result; null if there is none.
    pub(super) fn mcrun(&self, verb: &str, config: &Value) -> Value {
        result(verb, &self.try_mcrun(verb, config))
    }

    /// The same, which fails with this code. The message.
    pub(super) fn refused(&self, verb: &str, config: &Value, code: u64) -> String {
        refusal(&self.try_mcrun(verb, config), code)
    }

    /// Another plugin, which succeeds.
    pub(super) fn other(&self, plugin: &str, verb: &str, config: &Value) -> Value {
        let program = self.path.join(plugin);
        result(verb, &give(self.command(&program, verb), &config.to_string()))
    }
}

fn result(verb: &str, output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{verb}: {text} {}", String::from_utf8_lossy(&output.stderr));
    match text.trim() {
        "" => Value::Null,
        text => {
            serde_json::from_str(text).unwrap_or_else(|error| panic!("{verb}: {error}: {text}"))
        }
    }
}

/// The message of a failure with this code.
pub(super) fn refusal(output: &Output, code: u64) -> String {
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success(), "{text}");
    let error: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    assert_eq!(error["code"], code, "{error}");
    assert!(error["cniVersion"].is_string(), "{error}");
    let message = error["msg"].as_str().expect("a message");
    assert!(!message.is_empty() && !message.contains('\n'), "{error}");
    message.to_owned()
}

/// A configuration of this version for a network of this name, with further members.
pub(super) fn config(version: &str, name: &str, members: &Value) -> Value {
    let mut config = json!({"cniVersion": version, "name": name, "type": "mcrun-cni"});
    for (key, value) in members.as_object().expect("an object") {
        config[key] = value.clone();
    }
    config
}

/// The same after a result.
pub(super) fn after(config: &Value, previous: &Value) -> Value {
    let mut config = config.clone();
    config["prevResult"] = previous.clone();
    config
}

/// Addresses from 10.99.0.0/24, kept in the lab's directory.
pub(super) fn host_local(lab: &Lab) -> Value {
    json!({
        "type": "host-local", "dataDir": lab.directory().join("host-local"),
        "ranges": [[{"subnet": "10.99.0.0/24", "rangeStart": "10.99.0.40", "rangeEnd": "10.99.0.49",
                     "gateway": "10.99.0.1"}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    })
}

/// The addresses that host-local has given in a network.
pub(super) fn given(lab: &Lab, network: &str) -> Vec<String> {
    let directory = lab.directory().join("host-local").join(network);
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("10.")).collect()
}
