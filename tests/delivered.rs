//! The files in hooks/ have the shape that those who read them expect, and fit together.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value};

fn text(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("hooks").join(name);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Block mappings and sequences, quoted and plain scalars, and flow sequences as JSON has them: the
/// part of YAML 1.2 that these files keep to. Panics at anything else.
fn yaml(text: &str) -> Value {
    let lines: Vec<(usize, String)> = text
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'))
        .map(|line| (line.len() - line.trim_start().len(), line.trim().to_owned()))
        .collect();
    let mut rest = &lines[..];
    let value = block(&mut rest);
    assert!(rest.is_empty(), "left over: {rest:?}");
    value
}

fn block(rest: &mut &[(usize, String)]) -> Value {
    let indent = rest[0].0;
    if rest[0].1.starts_with("- ") {
        let mut list = Vec::new();
        while rest.first().is_some_and(|(i, line)| *i == indent && line.starts_with("- ")) {
            // The item's first key stands two columns after the dash, as its other keys do.
            let mut item = vec![(indent + 2, rest[0].1[2..].to_owned())];
            let after = &rest[1..];
            let length = after.iter().take_while(|(i, _)| *i > indent).count();
            item.extend(after[..length].iter().cloned());
            *rest = &after[length..];
            let mut item = &item[..];
            list.push(block(&mut item));
            assert!(item.is_empty(), "left over: {item:?}");
        }
        return list.into();
    }
    let mut map = Map::new();
    while rest.first().is_some_and(|(i, _)| *i == indent) {
        let (key, value) = rest[0].1.split_once(':').unwrap_or_else(|| panic!("{:?}", rest[0]));
        *rest = &rest[1..];
        let value = match value.trim() {
            "" => block(rest),
            value => scalar(value),
        };
        assert!(map.insert(key.to_owned(), value).is_none(), "{key} twice");
    }
    assert!(rest.first().is_none_or(|(i, _)| *i < indent), "{:?}", rest[0]);
    map.into()
}

fn scalar(value: &str) -> Value {
    if value.starts_with(['"', '[']) {
        return serde_json::from_str(value).unwrap_or_else(|e| panic!("{value}: {e}"));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "./-:_".contains(c);
    assert!(value.chars().all(plain), "{value}: quote it");
    value.into()
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<_> =
        value.as_object().expect("an object").keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

/// specs-go/config.go of the Container Device Interface 0.5.0; unknown keys are refused there.
#[test]
fn the_cdi_spec() {
    let spec = yaml(&text("cdi/mcrun.yaml"));
    assert_eq!(keys(&spec), ["cdiVersion", "devices", "kind"]);
    assert_eq!(spec["cdiVersion"], "0.5.0");
    let (vendor, class) = spec["kind"].as_str().and_then(|k| k.split_once('/')).expect("a kind");
    assert!(!vendor.is_empty());
    // Dots in a class came with 0.6.0.
    assert!(class.chars().all(|c| c.is_ascii_alphanumeric()), "{class}");
    let devices = spec["devices"].as_array().expect("devices");
    assert_eq!(devices.len(), 1);
    assert_eq!(keys(&devices[0]), ["containerEdits", "name"]);
    assert_eq!(keys(&devices[0]["containerEdits"]), ["hooks"]);
    let hooks = devices[0]["containerEdits"]["hooks"].as_array().expect("hooks");
    for (hook, stage) in hooks.iter().zip(["createRuntime", "poststop"]) {
        assert_eq!(keys(hook), ["args", "hookName", "path"]);
        assert_eq!((&hook["hookName"], &hook["args"][1]), (&stage.into(), &stage.into()));
        assert_eq!(hook["path"], "/usr/local/bin/mcrun-hook");
    }
    assert_eq!(hooks.len(), 2);
}

/// node.k8s.io/v1 RuntimeClass and v1 Pod of the Kubernetes API.
#[test]
fn the_manifests_for_kubernetes() {
    let class = yaml(&text("kubernetes/runtimeclass.yaml"));
    assert_eq!(keys(&class), ["apiVersion", "handler", "kind", "metadata", "scheduling"]);
    assert_eq!(
        (&class["apiVersion"], &class["kind"]),
        (&"node.k8s.io/v1".into(), &"RuntimeClass".into())
    );
    assert_eq!(keys(&class["scheduling"]), ["nodeSelector"]);
    assert!(
        class["scheduling"]["nodeSelector"]
            .as_object()
            .expect("labels")
            .values()
            .all(Value::is_string)
    );

    let pod = yaml(&text("kubernetes/pod.yaml"));
    assert_eq!(keys(&pod), ["apiVersion", "kind", "metadata", "spec"]);
    assert_eq!((&pod["apiVersion"], &pod["kind"]), (&"v1".into(), &"Pod".into()));
    assert_eq!(pod["spec"]["runtimeClassName"], class["metadata"]["name"]);
    let container = &pod["spec"]["containers"][0];
    assert_eq!(keys(container), ["image", "name"]);
    let wish = pod["metadata"]["annotations"]["io.mcrun.mcast"].as_str().expect("an annotation");
    mcrun::attachment::parse_list(wish).expect("an attachment");
}

#[test]
fn the_handler_is_the_one_that_is_set_up() {
    let handler = yaml(&text("kubernetes/runtimeclass.yaml"))["handler"].clone();
    let handler = handler.as_str().expect("a name");
    let containerd: toml::Table = toml::from_str(&text("containerd/config.toml")).expect("TOML");
    let plugin = &containerd["plugins"]["io.containerd.grpc.v1.cri"];
    assert!(plugin["containerd"]["runtimes"].get(handler).is_some());
    let crio: toml::Table = toml::from_str(&text("crio/99-mcrun.conf")).expect("TOML");
    let crio = &crio["crio"]["runtime"];
    assert_eq!(crio["runtimes"][handler]["runtime_type"].as_str(), Some("oci"));
    assert_eq!(crio["drop_infra_ctr"].as_bool(), Some(false), "a pod has a sandbox");
}
