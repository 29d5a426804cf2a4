//! What cannot be done is refused in one line, and leaves nothing behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use crate::lab;
use crate::lab::{Background, Bundle, Lab, PARENT, Runtime, json, run};

/// Far more than undoing takes.
const SOON: Duration = Duration::from_secs(5);

/// Asserts a failure with one line on standard error, nothing on standard output, and each of these
/// words in the line.
fn assert_one_line(output: &Output, program: &str, words: &[&str]) {
    let text = String::from_utf8(output.stderr.clone()).expect("text");
    let context = format!("{}: {text:?}", output.status);
    assert!(!output.status.success(), "{context}");
    assert!(output.status.code().is_some(), "ended by a signal: {context}");
    assert_eq!(text.lines().count(), 1, "one line: {context}");
    assert!(text.starts_with(&format!("{program}: ")), "names the program: {context}");
    assert!(output.stdout.is_empty(), "{context}");
    assert!(!text.contains("panicked"), "{context}");
    for word in words {
        assert!(text.contains(word), "names {word:?}: {context}");
    }
}

/// A process that stands for a container, and the directory of its bundle.
struct Stage {
    lab: Lab,
    holder: Background,
    bundle: PathBuf,
}

impl Stage {
    fn new() -> Stage {
        let lab = Lab::new(2);
        let bundle = lab.directory().join("bundle");
        fs::create_dir(&bundle).expect("directory");
        fs::write(bundle.join("config.json"), r#"{"ociVersion":"1.0.2"}"#).expect("config.json");
        let holder = lab.namespace_holder();
        Stage { lab, holder, bundle }
    }

    fn state(&self, attachment: &str) -> String {
        self.lab.state(&self.lab.name("c"), self.holder.pid(), &self.bundle, Some(attachment))
    }

    /// Hands an attachment to the hook, which must refuse it.
    fn refused(&self, attachment: &str, words: &[&str]) {
        let output = self.lab.hook("createRuntime", &self.state(attachment));
        assert_one_line(&output, "mcrun-hook", words);
        self.assert_untouched();
    }

    fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.pid().to_string(), "--net", program]);
        command
    }

    /// Nothing on the host and nothing in the container's namespace.
    fn assert_untouched(&self) {
        self.lab.assert_clean(SOON);
        let links = json(self.inside("ip").args(["-j", "link"]));
        assert_eq!(links.as_array().expect("links").len(), 1, "only lo: {links}");
        assert_eq!(run(self.inside("nft").args(["list", "ruleset"])), "");
    }
}

/// What is asked for, and words that the refusal must have.
const WRONG: &[(&str, &[&str])] = &[
    // The form.
    ("nonsense", &["nonsense", "KEY=VALUE"]),
    ("parent=lan0,,", &["KEY=VALUE"]),
    ("parnet=lan0", &["parnet", "did you mean parent"]),
    ("parent=lan0,mod=vepa", &["mod", "did you mean mode"]),
    ("parent=lan0,xyzzy=1", &["xyzzy", "parent", "igmp"]),
    ("parent=lan0,parent=lan0", &["parent=lan0", "twice"]),
    // Each key.
    ("net=red", &["net=red"]),
    ("ip=10.99.0.11/24", &["parent"]),
    ("parent=", &["parent="]),
    ("parent=a/b", &["parent=a/b"]),
    ("parent=lan0,vlan=4095", &["vlan=4095", "1 to 4094"]),
    ("parent=lan0,driver=macvlam", &["macvlam", "did you mean macvlan"]),
    ("parent=lan0,driver=ipvlan,mode=bridge", &["bridge", "l2, l3, l3s"]),
    ("parent=lan0,driver=ipvlan,flag=l2", &["l2", "bridge, private, vepa"]),
    ("parent=lan0,driver=ipvlan,mac=02:00:00:00:00:05", &["mac=02:00:00:00:00:05", "ipvlan"]),
    ("parent=lan0,driver=ipvlan,max-pps=5", &["max-pps=5", "mode=l2"]),
    ("parent=lan0,driver=ipvlan,mode=l3,igmp=off", &["igmp=off", "igmp=proxy"]),
    ("parent=lan0,driver=relay,mode=l2", &["mode=l2", "driver=relay"]),
    ("parent=lan0,driver=relay,ip=10.99.0.11/24", &["ip=10.99.0.11/24", "driver=relay"]),
    ("parent=lan0,driver=relay,interface=lo", &["interface=lo", "reserved"]),
    ("parent=lan0,driver=relay,max-pps=0", &["max-pps=0"]),
    ("parent=lan0,driver=relay,max-byterate=1M", &["max-byterate=1M"]),
    ("parent=lan0,mode=brigde", &["brigde", "did you mean bridge"]),
    ("parent=lan0,flag=private", &["flag=private"]),
    ("parent=lan0,ip=10.99.0.300/24", &["ip=10.99.0.300/24"]),
    ("parent=lan0,ip=10.99.0.11", &["ip=10.99.0.11", "prefix"]),
    ("parent=lan0,ip=10.99.0.11/33", &["ip=10.99.0.11/33"]),
    ("parent=lan0,ip=239.1.1.1/24", &["ip=239.1.1.1/24", "multicast"]),
    ("parent=lan0,ip=pool", &["ip=pool"]),
    ("parent=lan0,ip=dhcp,ip=none", &["ip=dhcp", "ip=none"]),
    ("parent=lan0,ip=10.99.0.11/24,gw=everywhere", &["gw=everywhere"]),
    ("parent=lan0,ip=10.99.0.11/24,gw=192.0.2.1", &["gw=192.0.2.1"]),
    ("parent=lan0,ip=10.99.0.11/24,gw=10.99.0.1,metric=much", &["metric=much"]),
    ("parent=lan0,ip=10.99.0.11/24,route=192.0.2.0", &["route=192.0.2.0"]),
    ("parent=lan0,ip=10.99.0.11/24,route=192.0.2.1/24", &["route=192.0.2.1/24"]),
    ("parent=lan0,mac=02:00:00:00:00", &["mac=02:00:00:00:00"]),
    ("parent=lan0,mac=01:00:5e:00:00:01", &["mac=01:00:5e:00:00:01", "multicast"]),
    ("parent=lan0,mtu=12", &["mtu=12", "68"]),
    ("parent=lan0,mtu=9000", &["mtu=9000", "1500"]),
    ("parent=lan0,name=a/b", &["name=a/b"]),
    ("parent=lan0,name=sixteencharacter", &["name=sixteencharacter"]),
    ("parent=lan0,name=lo", &["name=lo"]),
    ("parent=lan0,name=same;parent=lan0,name=same", &["name=same"]),
    ("parent=lan0,interface=eth0", &["interface=eth0"]),
    ("parent=lan0,igmp=prox", &["prox", "did you mean proxy"]),
    ("parent=lan0,upstream=a/b", &["upstream=a/b"]),
    ("parent=lan0,upstream=nowhere", &["nowhere"]),
    ("parent=lan0,allow=10.0.0.0/8", &["allow=10.0.0.0/8"]),
    ("parent=lan0,deny=everything", &["deny=everything"]),
    ("parent=lan0,allow=2001:db8::1", &["allow=2001:db8::1", "ff00::/8"]),
    ("parent=lan0,allow=ff00::1", &["allow=ff00::1", "scope 0"]),
    ("parent=lan0,deny=ff0f::1", &["deny=ff0f::1", "scope f"]),
    ("parent=lan0,deny=ff01::fb", &["deny=ff01::fb", "scope 1"]),
    ("parent=lan0,allow=ff02::fb%lan0", &["allow=ff02::fb%lan0", "zone"]),
    ("parent=lan0,allow=ff3e::1@10.0.0.1", &["allow=ff3e::1@10.0.0.1", "families"]),
    ("parent=lan0,allow=232.1.1.1@fd00::1", &["allow=232.1.1.1@fd00::1", "families"]),
    ("parent=lan0,allow=mnds", &["allow=mnds", "mdns"]),
    ("parent=lan0,max-groups=0", &["max-groups=0"]),
    ("parent=lan0,max-sources=-1", &["max-sources=-1"]),
    ("parent=lan0,bcqueuelen=many", &["bcqueuelen=many"]),
    ("parent=lan0,bclim=-2", &["bclim=-2"]),
    // The host.
    ("parent=nowhere", &["nowhere"]),
    ("parent=down0", &["down0", "down"]),
    ("parent=lo", &["lo", "loopback"]),
    ("parent=ported0", &["ported0", "bridge"]),
    ("parent=lan0,ip=10.99.0.2/24", &["10.99.0.2", "lan0"]),
];

#[test]
fn each_wrong_attachment_is_refused_by_the_hook() {
    let stage = Stage::new();
    for link in ["down0", "ported0"] {
        stage.lab.ip("host", &format!("link add {link} type veth peer name {link}p"));
    }
    stage.lab.ip("host", "link add br9 type bridge");
    stage.lab.ip("host", "link set ported0 master br9 up");
    let stage = Stage { lab: stage.lab.settled(), ..stage };
    for (attachment, words) in WRONG {
        stage.refused(attachment, words);
    }
}

#[test]
fn a_mistyped_parent_is_answered_with_the_nearest_interface() {
    Stage::new().refused("parent=lan1", &["lan1", "did you mean lan0?"]);
}

#[test]
fn mcrun_run_refuses_a_wrong_attachment_before_it_starts_anything() {
    let lab = Lab::new(2);
    for (attachment, words) in [
        ("parnet=lan0", &["parnet", "did you mean parent"][..]),
        ("parent=lan0,mtu=12", &["mtu=12"]),
        ("parent=nowhere", &["nowhere"]),
        ("parent=lan0,ip=10.99.0.2/24", &["10.99.0.2"]),
    ] {
        let output = lab.try_start("c", &[attachment], &[]);
        assert_one_line(&output, "mcrun", words);
        assert_eq!(output.status.code(), Some(125));
        lab.assert_clean(SOON);
    }
}

#[test]
fn attachments_of_one_interface_name_are_refused_wherever_they_are_written() {
    const ONE: &str = "parent=lan0,name=same";
    let both = format!("{ONE};{ONE}");
    let words: &[&str] = &["name=same"];
    // The annotation, and the container's environment.
    let stage = Stage::new();
    stage.refused(&both, words);
    let config =
        format!(r#"{{"ociVersion":"1.0.2","process":{{"cwd":"/","env":["MCRUN_MCAST={both}"]}}}}"#);
    fs::write(stage.bundle.join("config.json"), config).expect("config.json");
    let Stage { lab, holder, bundle } = &stage;
    lab.configure("[attach]\nenvironment = true\n");
    let state = lab.state(&lab.name("c"), holder.pid(), bundle, None);
    assert_one_line(&lab.hook("createRuntime", &state), "mcrun-hook", words);
    stage.assert_untouched();
    // The flag, repeated and with both attachments in one value, without and with an engine.
    for flags in [&[ONE, ONE][..], &[both.as_str()]] {
        let output = lab.try_start("c", flags, &[]);
        assert_one_line(&output, "mcrun", words);
        assert_eq!(output.status.code(), Some(125));
        let mut command = lab.mcrun(["run", "--engine", "docker"]);
        for flag in flags {
            command.args(["--mcast", flag]);
        }
        let output = command.args(["image", "true"]).output().expect("mcrun starts");
        assert_one_line(&output, "mcrun", words);
        assert_eq!(output.status.code(), Some(125));
        stage.assert_untouched();
    }
}

#[test]
fn a_mac_address_of_another_container_is_refused() {
    let lab = Lab::new(2);
    let attachment = format!("parent={PARENT},mac=02:00:5e:10:00:01");
    lab.start_with("first", &[&attachment], &[]);
    let lab = lab.settled();
    let output = lab.try_start("second", &[&attachment], &[]);
    assert_one_line(&output, "mcrun", &["02:00:5e:10:00:01"]);
    lab.assert_clean(SOON);
}

#[test]
fn the_hosts_own_mac_address_is_refused() {
    let stage = Stage::new();
    let mac = stage.lab.host_mac().to_owned();
    stage.refused(&format!("parent={PARENT},mac={mac}"), &[&mac]);
}

#[test]
fn an_interface_name_taken_in_the_container_is_refused() {
    let stage = Stage::new();
    run(stage.inside("ip").args(["link", "add", "mc0", "type", "veth", "peer", "name", "peer"]));
    let before = run(stage.inside("ip").arg("link"));
    let output = stage.lab.hook("createRuntime", &stage.state(&format!("parent={PARENT}")));
    assert_one_line(&output, "mcrun-hook", &["mc0"]);
    stage.lab.assert_clean(SOON);
    assert_eq!(run(stage.inside("ip").arg("link")), before);
}

#[test]
fn the_second_attachments_failure_takes_the_first_back() {
    let stage = Stage::new();
    stage.refused(&format!("parent={PARENT},ip=10.99.0.11/24;parent=nowhere"), &["nowhere"]);
}

#[test]
fn a_network_namespace_shared_with_the_host_is_refused() {
    let lab = Lab::new(2);
    let mut bundle = Bundle::new(&lab, "shared");
    bundle.add_hooks(&lab);
    bundle.annotate(&format!("parent={PARENT}"));
    let namespaces = bundle.config["linux"]["namespaces"].as_array_mut().expect("namespaces");
    namespaces.retain(|namespace| namespace["type"] != "network");
    let output = bundle.try_start(&lab, Runtime::Runc, "shared");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{errors}");
    assert!(errors.contains("network namespace"), "{errors}");
    lab.assert_clean(SOON);
}

#[test]
fn a_state_that_is_none_is_refused() {
    let stage = Stage::new();
    let pid = stage.holder.pid();
    let bundle = stage.bundle.display();
    let annotation = format!(r#""annotations":{{"io.mcrun.mcast":"parent={PARENT}"}}"#);
    for state in [
        String::new(),
        "{".into(),
        "[]".into(),
        "null".into(),
        "{}".into(),
        format!(r#"{{"pid":{pid},"bundle":"{bundle}",{annotation}}}"#),
        format!(r#"{{"id":"","pid":{pid},"bundle":"{bundle}",{annotation}}}"#),
        format!(r#"{{"id":"../../c","pid":{pid},"bundle":"{bundle}",{annotation}}}"#),
        format!(r#"{{"id":"c","bundle":"{bundle}",{annotation}}}"#),
        format!(r#"{{"id":"c","pid":"many","bundle":"{bundle}",{annotation}}}"#),
        format!(r#"{{"id":"c","pid":-1,"bundle":"{bundle}",{annotation}}}"#),
        format!(r#"{{"id":"c","pid":999999999,"bundle":"{bundle}",{annotation}}}"#),
        format!(r#"{{"id":"c","pid":{pid},"annotations":"many"}}"#),
        "x".repeat(20 << 20),
    ] {
        let output = stage.lab.hook("createRuntime", &state);
        assert_one_line(&output, "mcrun-hook", &[]);
        stage.assert_untouched();
    }
    let output = stage.lab.hook("postpone", &stage.state(&format!("parent={PARENT}")));
    assert_one_line(&output, "mcrun-hook", &["poststop"]);
    stage.assert_untouched();
}

#[test]
fn a_bundle_that_has_vanished_or_is_broken_is_refused() {
    let stage = Stage::new();
    let id = stage.lab.name("c");
    let state = |bundle: &Path| stage.lab.state(&id, stage.holder.pid(), bundle, None);
    let gone = stage.lab.directory().join("gone");
    let output = stage.lab.hook("createRuntime", &state(&gone));
    assert_one_line(&output, "mcrun-hook", &[&gone.display().to_string()]);
    stage.assert_untouched();

    let config = stage.bundle.join("config.json");
    fs::write(&config, "{\"process\":").expect("written");
    let output = stage.lab.hook("createRuntime", &state(&stage.bundle));
    assert_one_line(&output, "mcrun-hook", &[&config.display().to_string()]);
    stage.assert_untouched();
}

/// Mounts a tmpfs with these options at the state directory, as the process that starts containers
/// sees it; the lab unmounts it.
fn mount_state_dir(lab: &Lab, options: &str) {
    let directory = lab.state_dir();
    fs::create_dir_all(&directory).expect("state directory");
    run(Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(directory));
}

#[test]
fn a_read_only_state_directory_is_refused() {
    let stage = Stage::new();
    mount_state_dir(&stage.lab, "ro,mode=700");
    let directory = stage.lab.state_dir().display().to_string();
    stage.refused(&format!("parent={PARENT},ip=10.99.0.11/24"), &[&directory, "ead-only"]);
    let output = stage.lab.try_start("c", &[&format!("parent={PARENT}")], &[]);
    assert_one_line(&output, "mcrun", &[&directory, "ead-only"]);
    stage.assert_untouched();
}

#[test]
fn a_full_disk_is_refused() {
    // No block and no inode is left; then some inodes are, but no block to write a record to.
    for options in ["size=4k,nr_inodes=2,mode=700", "size=4k,nr_inodes=100,mode=700"] {
        let stage = Stage::new();
        mount_state_dir(&stage.lab, options);
        fs::write(stage.lab.state_dir().join("ballast"), [0; 4096]).expect("the last block");
        stage.refused(&format!("parent={PARENT},ip=10.99.0.11/24"), &["o space left"]);
        let output = stage.lab.try_start("c", &[&format!("parent={PARENT}")], &[]);
        assert_one_line(&output, "mcrun", &["o space left"]);
        stage.assert_untouched();
    }
}

#[test]
fn a_missing_capability_is_named() {
    let stage = Stage::new();
    let mut command = stage.lab.enter("host", "setpriv");
    command
        .args(["--bounding-set", "-net_admin", "--inh-caps", "-net_admin"])
        .arg(env!("CARGO_BIN_EXE_mcrun-hook"));
    let state = stage.state(&format!("parent={PARENT},ip=10.99.0.11/24"));
    let output = stage.lab.hook_by(command, "createRuntime", &state);
    assert_one_line(&output, "mcrun-hook", &["CAP_NET_ADMIN"]);
    stage.assert_untouched();
}

/// As the hook of a rootless engine: root of a user namespace with all capabilities there, and a
/// container in a network namespace of that user namespace. `unshare` stands for the engine.
#[test]
fn a_rootless_engine_is_told_what_to_do() {
    let stage = Stage::new();
    let mut command = stage.lab.enter("host", "unshare");
    command.args(["--user", "--map-root-user", env!("CARGO_BIN_EXE_mcrun-hook")]);
    let state = stage.state(&format!("parent={PARENT},ip=10.99.0.11/24"));
    let output = stage.lab.hook_by(command, "createRuntime", &state);
    assert_one_line(&output, "mcrun-hook", &["rootless engine", "mcrun attach CONTAINER"]);
    stage.assert_untouched();
}

#[test]
fn a_missing_runtime_is_named() {
    let lab = Lab::new(2);
    let empty = lab.directory().join("empty");
    fs::create_dir(&empty).expect("directory");
    let mut command = lab.enter("host", "env");
    command
        .arg(format!("PATH={}", empty.display()))
        .arg(env!("CARGO_BIN_EXE_mcrun"))
        .args(["run", "-d", "--name", &lab.name("c"), "--mcast", "parent=lan0", "--rootfs"])
        .arg(lab.rootfs())
        .args(["sleep", "1000"]);
    let output = lab::output(&mut command);
    assert_one_line(&output, "mcrun", &["runc"]);
    assert_eq!(output.status.code(), Some(125));
    lab.assert_clean(SOON);
}

#[test]
fn nothing_asked_for_is_nothing_done() {
    let stage = Stage::new();
    let id = stage.lab.name("c");
    let state = stage.lab.state(&id, stage.holder.pid(), &stage.bundle, None);
    for hook in ["createRuntime", "prestart", "poststart", "poststop"] {
        let output = stage.lab.hook(hook, &state);
        assert!(output.status.success(), "{hook}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{hook}: {output:?}");
    }
    stage.assert_untouched();
    assert!(!stage.lab.state_dir().exists(), "not even a directory");
}
