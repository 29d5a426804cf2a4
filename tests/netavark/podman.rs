//! podman's networks with the driver `mcrun`. podman has had drivers of others since 4.5.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;

use crate::cni::assert_has_both;
use crate::lab::{Engine, IMAGE, Lab, PATIENCE, hooks_dir, json, kill, output, run, wait_until};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 8, 4, 2);

/// podman that finds the driver. What cleans up after a container does not have the environment of who
/// started it.
fn engine(lab: &Lab) -> Engine<'_> {
    let hooks = hooks_dir(lab);
    let engine = Engine::podman(lab, "runc", &[&hooks]);
    let base = lab.directory().join("podman");
    let plugins = base.join("netavark");
    fs::create_dir_all(&plugins).expect("directory");
    let driver = plugins.join("mcrun");
    let script = format!(
        "#!/bin/sh\nexport MCRUN_STATE_DIR={} MCRUN_CONFIG_DIR={}\nexec {} \"$@\"\n",
        lab.state_dir().display(),
        lab.config_dir().display(),
        lab.program("mcrun-netavark").display()
    );
    fs::write(&driver, script).expect("driver");
    fs::set_permissions(&driver, fs::Permissions::from_mode(0o755)).expect("mode");
    let file = base.join("containers.conf");
    let text = fs::read_to_string(&file).expect("containers.conf");
    let backend = format!(
        "[network]\nnetwork_backend = \"netavark\"\nnetavark_plugin_dirs = [{plugins:?}]\n"
    );
    fs::write(&file, text.replace("[network]\n", &backend)).expect("containers.conf");
    engine
}

/// Whether podman is too old for drivers of others: 4.3 is Debian 12's.
fn is_too_old(engine: &Engine<'_>) -> bool {
    let version = run(&mut engine.command(&["version", "--format", "{{.Client.Version}}"]));
    let mut numbers = version.trim().split('.').map(|number| number.parse::<u32>());
    let (major, minor) = (numbers.next(), numbers.next());
    let number = |part: Option<Result<u32, _>>| part.and_then(Result::ok).expect("a version");
    (number(major), number(minor)) < (4, 5)
}

#[test]
fn a_container_of_podman_is_on_a_network_with_the_driver_mcrun() {
    let lab = Lab::new(2);
    let engine = engine(&lab);
    let create = [
        "network",
        "create",
        "-d",
        "mcrun",
        "-o",
        "parent=lan0",
        "-o",
        "allow=239.8.0.0/16,239.9.0.0/16",
        "--subnet",
        "10.99.0.0/24",
        "--gateway",
        "10.99.0.1",
        "media",
    ];
    if is_too_old(&engine) {
        let refused = output(&mut engine.command(&create));
        let errors = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && errors.contains("mcrun"), "{errors}");
        return;
    }
    run(&mut engine.command(&create));
    let wrong = ["network", "create", "-d", "mcrun", "-o", "parent=lan9", "wrong"];
    let refused = output(&mut engine.command(&wrong));
    let errors = String::from_utf8_lossy(&refused.stderr);
    assert!(errors.contains("did you mean lan0?"), "{errors}");

    let capture = lab.capture();
    let name = lab.name("c");
    let on_it = "media:ip=10.99.0.11,interface_name=red";
    let start = ["run", "-d", "--network", on_it, "--name", &name, IMAGE, "sleep", "1000"];
    run(&mut engine.command(&start));
    let container = engine.container("c");
    lab.assert_stream_arrives(&container, GROUP);
    let entry = lab.ps(&container).expect("attached");
    assert_eq!(entry["name"], *name, "{entry}");
    assert_eq!(entry["interfaces"][0]["name"], "red", "{entry}");
    assert_eq!(entry["interfaces"][0]["addresses"][0], "10.99.0.11/24", "{entry}");
    let shown = json(&mut engine.command(&["inspect", &name]));
    let network = &shown[0]["NetworkSettings"]["Networks"]["media"];
    assert_eq!(network["IPAddress"], "10.99.0.11", "{network}");
    assert_eq!(network["MacAddress"], entry["interfaces"][0]["mac"], "{network}");

    // Started again, it is attached again; connected to another network, to that too.
    run(&mut engine.command(&["restart", "--time", "0", &name]));
    let container = engine.container("c");
    lab.assert_stream_arrives(&container, GROUP);
    run(&mut engine.command(&["network", "create", "-d", "mcrun", "-o", "parent=lan0", "second"]));
    run(&mut engine.command(&["network", "connect", "second", &name]));
    let entry = lab.ps(&container).expect("attached");
    assert_eq!(entry["interfaces"].as_array().map(Vec::len), Some(2), "{entry}");
    run(&mut engine.command(&["network", "disconnect", "second", &name]));
    let entry = lab.ps(&container).expect("attached");
    assert_eq!(entry["interfaces"].as_array().map(Vec::len), Some(1), "{entry}");
    lab.assert_stream_arrives(&container, GROUP);

    run(&mut engine.command(&["rm", "--force", "--time", "0", &name]));
    lab.assert_clean(PATIENCE);

    // What the container asks for itself is beside its network.
    let own = ["--annotation", "io.mcrun.mcast=parent=lan0,ip=10.99.0.12/24"];
    let mut command = engine.command(&["run", "-d", "--restart", "on-failure:1", "--name", &name]);
    run(command.args(["--network", on_it]).args(own).args([IMAGE, "sleep", "1000"]));
    let container = engine.container("c");
    assert_has_both(&lab, &container, ["red", "mc0"]);
    kill(container.pid);
    let container = wait_until("podman starts it again", PATIENCE, || {
        let now = engine.container("c");
        (now.pid > 0 && now.pid != container.pid).then_some(now)
    });
    assert_has_both(&lab, &container, ["red", "mc0"]);
    run(&mut engine.command(&["restart", "--time", "0", &name]));
    let container = engine.container("c");
    assert_has_both(&lab, &container, ["red", "mc0"]);
    lab.assert_stream_arrives(&container, GROUP);
    run(&mut engine.command(&["rm", "--force", "--time", "0", &name]));
    lab.assert_clean(PATIENCE);
    for network in ["media", "second"] {
        run(&mut engine.command(&["network", "rm", network]));
    }
    lab.assert_one_igmp_host(&capture.finish());
}
