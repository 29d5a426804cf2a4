//! Plain runc and crun with hooks in config.json, as docs/engines.md shows.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::lab::{Bundle, Lab, PARENT, Runtime};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 5, 1, 1);

/// The whole way: attached, joined, received, listed, and gone.
fn works(lab: &Lab, bundle: &Bundle, runtime: Runtime) {
    let capture = lab.capture();
    let container = bundle.start(lab, runtime, "c");
    lab.assert_stream_arrives(&container, GROUP);
    lab.wait_left(&container, GROUP);
    lab.assert_one_igmp_host(&capture.finish());

    let shown = lab.ps(&container).expect("mcrun ps knows the container");
    assert_eq!(shown["pid"], container.pid, "{shown}");
    assert_eq!(shown["interfaces"][0]["name"], "mc0", "{shown}");
    assert_eq!(shown["interfaces"][0]["parent"], PARENT, "{shown}");
    assert_eq!(shown["interfaces"][0]["addresses"][0], "10.99.0.11/24", "{shown}");
    assert_eq!(shown["proxy"]["state"], "running", "{shown}");

    lab.delete(&container);
    lab.assert_clean(Duration::from_secs(1));
}

#[test]
fn runc_with_the_annotation() {
    let lab = Lab::new(2);
    let mut bundle = Bundle::new(&lab, "c");
    bundle.add_hooks(&lab);
    bundle.annotate("parent=lan0,ip=10.99.0.11/24");
    works(&lab, &bundle, Runtime::Runc);
}

#[test]
fn runc_with_the_variable() {
    let lab = Lab::new(3);
    let mut bundle = Bundle::new(&lab, "c");
    bundle.add_hooks(&lab);
    bundle.set_variable("parent=lan0,ip=10.99.0.11/24");
    lab.configure("[attach]\nip = [\"10.99.0.0/24\"]\nenvironment = true\n");
    works(&lab, &bundle, Runtime::Runc);
}

#[test]
fn crun_with_the_annotation() {
    let lab = Lab::new(3);
    let mut bundle = Bundle::new(&lab, "c");
    bundle.add_hooks(&lab);
    bundle.annotate("parent=lan0,ip=10.99.0.11/24");
    works(&lab, &bundle, Runtime::Crun);
}

#[test]
fn crun_with_the_variable() {
    let lab = Lab::new(2);
    let mut bundle = Bundle::new(&lab, "c");
    bundle.add_hooks(&lab);
    bundle.set_variable("parent=lan0,ip=10.99.0.11/24");
    lab.configure("[attach]\nip = [\"10.99.0.0/24\"]\nenvironment = true\n");
    works(&lab, &bundle, Runtime::Crun);
}

#[test]
fn runc_with_a_prestart_hook() {
    let lab = Lab::new(2);
    let mut bundle = Bundle::new(&lab, "c");
    bundle.add_hooks(&lab);
    let hooks = bundle.config["hooks"].as_object_mut().expect("hooks");
    let mut hook = hooks.remove("createRuntime").expect("createRuntime");
    hook[0]["args"][1] = "prestart".into();
    hooks.insert("prestart".into(), hook);
    bundle.annotate("parent=lan0,ip=10.99.0.11/24");
    works(&lab, &bundle, Runtime::Runc);
}

#[test]
fn a_container_that_asks_for_nothing_is_left_alone() {
    let lab = Lab::new(2);
    let mut bundle = Bundle::new(&lab, "c");
    bundle.add_hooks(&lab);
    let container = bundle.start(&lab, Runtime::Runc, "c");
    lab.assert_clean(Duration::from_secs(1));
    assert_eq!(container.ip("link").as_array().expect("links").len(), 1, "only lo");
    assert!(!lab.state_dir().exists());
}
