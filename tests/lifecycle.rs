//! However a container, its proxy or its runtime ends: nothing stays.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::lab;
use crate::lab::{
    Background, Bundle, Container, Lab, PARENT, PATIENCE, Runtime, SOURCES, alive, has_joined,
    json, kill, run, wait_until,
};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 4, 1, 1);

/// Within what everything must be gone. It takes milliseconds; the limit is for machines with much else to
/// do, and is below the time after which the keeper looks by itself.
const LIMIT: Duration = Duration::from_secs(5);

/// Asserts that everything is gone within the limit, counted from now.
fn assert_gone(lab: &Lab, what: &str) {
    let taken = lab.assert_clean(LIMIT);
    println!("after {what} everything was gone in {taken:?}");
}

/// What the containers run: a receiver, so that there is a membership to leave.
fn command() -> [String; 6] {
    ["mcrun", "probe", "recv", &GROUP.to_string(), "--duration", "10m"].map(String::from)
}

/// Waits until the host has joined the container's group and has told the switch.
fn wait_received(lab: &Lab, container: &Container) {
    wait_until("the container joins", PATIENCE, || has_joined(container.pid, GROUP).then_some(()));
    wait_until("the host joins", PATIENCE, || lab.host_joins().contains(&GROUP).then_some(()));
    wait_until("the switch forwards", PATIENCE, || {
        lab.forwarded().contains(&GROUP.to_string()).then_some(())
    });
}

fn by_hand(lab: &Lab, name: &str, address: &str) -> Bundle {
    let mut bundle = Bundle::new(lab, name);
    bundle.add_hooks(lab);
    bundle.annotate(&format!("parent={PARENT},ip={address}/24"));
    bundle.config["process"]["args"] = serde_json::json!(command());
    bundle
}

#[test]
fn kill_9_of_the_containers_init_leaves_nothing() {
    let lab = Lab::new(2);
    let arguments = command();
    let arguments = arguments.each_ref().map(String::as_str);
    let capture = lab.capture();
    let container =
        lab.start_command("c", &["parent=lan0,ip=10.99.0.11/24"], &["--rm"], &arguments);
    wait_received(&lab, &container);
    kill(container.pid);
    assert_gone(&lab, "kill -9 of the init of mcrun run -d");
    lab.assert_one_igmp_host(&capture.finish());
}

/// By a runtime on its own, which does not notice: nobody calls poststop.
fn kill_9_of_the_init(runtime: Runtime) {
    let lab = Lab::new(2);
    let capture = lab.capture();
    let container = by_hand(&lab, "c", "10.99.0.11").start(&lab, runtime, "c");
    wait_received(&lab, &container);
    kill(container.pid);
    assert_gone(&lab, "kill -9 of the init of a detached container");
    lab.assert_one_igmp_host(&capture.finish());
}

#[test]
fn kill_9_of_the_init_leaves_nothing_under_runc() {
    kill_9_of_the_init(Runtime::Runc);
}

#[test]
fn kill_9_of_the_init_leaves_nothing_under_crun() {
    kill_9_of_the_init(Runtime::Crun);
}

fn delete_force(runtime: Runtime) {
    let lab = Lab::new(2);
    let capture = lab.capture();
    let container = by_hand(&lab, "c", "10.99.0.11").start(&lab, runtime, "c");
    wait_received(&lab, &container);
    lab.delete(&container);
    assert_gone(&lab, "delete --force");
    lab.assert_one_igmp_host(&capture.finish());
}

#[test]
fn runc_delete_force_leaves_nothing() {
    delete_force(Runtime::Runc);
}

#[test]
fn crun_delete_force_leaves_nothing() {
    delete_force(Runtime::Crun);
}

#[test]
fn mcrun_rm_force_and_mcrun_stop_leave_nothing() {
    let lab = Lab::new(2);
    for end in [&["rm", "--force"][..], &["stop", "--time", "0"], &["kill"]] {
        let container = lab.start_with(end[0], &[&format!("parent={PARENT}")], &["--rm"]);
        run(lab.mcrun(end).arg(&container.name));
        assert_gone(&lab, &format!("mcrun {}", end.join(" ")));
    }
}

#[test]
fn kill_9_of_the_runtime_during_create_leaves_nothing() {
    let lab = Lab::new(2);
    let mut bundle = by_hand(&lab, "c", "10.99.0.11");
    // The runtime hangs in a hook that comes after ours.
    let hang = serde_json::json!({ "path": "/bin/sleep", "args": ["sleep", "1000"] });
    bundle.config["hooks"]["createRuntime"].as_array_mut().expect("hooks").push(hang);
    bundle.write();
    let mut command = Runtime::Runc.command(&lab, ["run", "--bundle"]);
    let mut runtime = Background::start(command.arg(&bundle.path).arg(lab.name("c")));
    let hanging = wait_until("the second hook runs", PATIENCE, || {
        let processes = lab.host_processes();
        processes.into_iter().find(|(_, line)| line == "sleep 1000").map(|(pid, _)| pid)
    });
    assert!(
        lab.host_processes().iter().any(|(_, line)| line.contains("mcrun-proxy")),
        "a proxy runs: {:?}",
        lab.host_processes()
    );
    runtime.signal(libc::SIGKILL);
    runtime.wait(PATIENCE);
    kill(hanging);
    assert_gone(&lab, "kill -9 of runc in the middle of create");
}

#[test]
fn kill_9_of_the_runtime_in_the_foreground_leaves_nothing_once_the_container_ends() {
    let lab = Lab::new(2);
    let bundle = by_hand(&lab, "c", "10.99.0.11");
    bundle.write();
    let name = lab.name("c");
    let mut command = Runtime::Runc.command(&lab, ["run", "--bundle"]);
    let mut runtime = Background::start(command.arg(&bundle.path).arg(&name));
    let pid = wait_until("the container runs", PATIENCE, || {
        let answer = json(&mut lab.mcrun(["ps", "--json"]));
        let state = Runtime::Runc.command(&lab, ["state", &name]).output().ok()?;
        let running = String::from_utf8_lossy(&state.stdout).contains("\"running\"");
        answer[0]["pid"].as_i64().filter(|_| running)
    });
    let pid = i32::try_from(pid).expect("fits");
    runtime.signal(libc::SIGKILL);
    runtime.wait(PATIENCE);
    if alive(pid) {
        let answer = json(&mut lab.mcrun(["ps", "--json"]));
        assert_eq!(answer[0]["proxy"]["state"], "running", "served without a runtime: {answer}");
        kill(pid);
    }
    assert_gone(&lab, "kill -9 of runc run and of the container");
}

#[test]
fn kill_9_of_mcrun_run_in_the_foreground_leaves_nothing_once_the_container_ends() {
    let lab = Lab::new(2);
    let name = lab.name("c");
    let mut command = lab.mcrun(["run", "--name", &name, "--mcast", "parent=lan0", "--rootfs"]);
    let mut wrapper = Background::start(command.arg(lab.rootfs()).args(["sleep", "1000"]));
    let pid = wait_until("the container runs", PATIENCE, || {
        let answer = json(&mut lab.mcrun(["ps", "--json"]));
        let pid = i32::try_from(answer[0]["pid"].as_i64()?).ok()?;
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        line.starts_with(b"sleep").then_some(pid)
    });
    wrapper.signal(libc::SIGKILL);
    wrapper.wait(PATIENCE);
    kill(pid);
    assert_gone(&lab, "kill -9 of mcrun run and of the container");
}

#[test]
fn ctrl_c_ends_mcrun_run_and_leaves_nothing() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let lab = Lab::new(2);
        let name = lab.name("c");
        // A shell that waits has SIGINT and SIGTERM in its hands, unlike a sleep that is process 1.
        let script = "trap 'exit 7' INT TERM; echo ready; while :; do sleep 1 & wait $!; done";
        let mut command = lab.mcrun(["run", "--name", &name, "--rm", "--mcast", "parent=lan0"]);
        command.arg("--rootfs").arg(lab.rootfs()).args(["sh", "-c", script]);
        let log = lab.directory().join("output");
        command.stdout(fs::File::create(&log).expect("file"));
        let mut wrapper = Background::start(&mut command);
        wait_until("the shell is ready", PATIENCE, || {
            fs::read_to_string(&log).ok()?.contains("ready").then_some(())
        });
        wrapper.signal(signal);
        assert_eq!(wrapper.wait(PATIENCE).code(), Some(7), "the container's status");
        assert_gone(&lab, "a signal to mcrun run");
    }
}

#[test]
fn kill_9_of_the_proxy_gives_the_container_back_to_native_igmp() {
    let lab = Lab::new(2);
    let container = lab.start("c", "10.99.0.11");
    let _stream = lab.send(GROUP, SOURCES[0], 200);
    let receiver = lab.receive(&container, GROUP, None, Duration::from_secs(8));
    lab.wait_joined(&container, GROUP);
    let proxy = lab.proxy_pid(&container);
    let rules = || run(container.enter("nft").args(["list", "ruleset"]));
    assert!(rules().contains("igmp"), "the proxy's rules: {}", rules());

    kill(proxy);
    let start = Instant::now();
    wait_until("process, rules and joins are gone", LIMIT, || {
        (!alive(proxy) && rules().is_empty() && !lab.host_joins().contains(&GROUP)).then_some(())
    });
    println!("after kill -9 of the proxy all of it was gone in {:?}", start.elapsed());

    // From here on the container answers for itself.
    let mac = container.ip("link show mc0")[0]["address"].as_str().expect("a MAC").to_owned();
    let capture = lab.capture();
    lab.query();
    wait_until("the container's own report is on the wire", PATIENCE, || {
        let reports =
            |frame: &lab::IgmpFrame| frame.mac == mac && frame.message.groups().contains(&GROUP);
        capture.igmp_so_far().iter().any(reports).then_some(())
    });
    wait_until("the switch forwards", PATIENCE, || {
        lab.forwarded().contains(&GROUP.to_string()).then_some(())
    });
    assert!(receiver.finish().packets > 0);
    let state = lab.ps(&container).expect("mcrun ps knows the container");
    assert_ne!(state["proxy"]["state"], "running", "{state}");

    lab.delete(&container);
    assert_gone(&lab, "rm of a container whose proxy was killed");
}

#[test]
fn gc_collects_what_a_killed_proxy_could_not() {
    let lab = Lab::new(2);
    let container = by_hand(&lab, "c", "10.99.0.11").start(&lab, Runtime::Runc, "c");
    kill(lab.proxy_pid(&container));
    kill(container.pid);
    wait_until("the init is gone", PATIENCE, || (!alive(container.pid)).then_some(()));
    run(&mut lab.mcrun(["gc"]));
    assert_gone(&lab, "mcrun gc");
}

/// A bundle that says nothing of namespaces and variables.
fn empty_bundle(lab: &Lab) -> PathBuf {
    let bundle = lab.directory().join("bundle");
    fs::create_dir(&bundle).expect("directory");
    fs::write(bundle.join("config.json"), r#"{"ociVersion":"1.0.2"}"#).expect("config.json");
    bundle
}

#[test]
fn the_end_of_another_container_of_the_same_id_takes_nothing_away() {
    let lab = Lab::new(2);
    let holder = lab.namespace_holder();
    let id = lab.name("c");
    let attachment = Some("parent=lan0,ip=10.99.0.11/24");
    let bundle = empty_bundle(&lab);
    let own = lab.state(&id, holder.pid(), &bundle, attachment);
    // As containerd's namespaces and runc's roots have it: one id, another bundle.
    let other = lab.state(&id, 0, &bundle.join("other"), attachment);
    let attached = || {
        let listed = json(&mut lab.mcrun(["ps", "--json"]));
        listed.as_array().expect("containers").iter().any(|c| c["container"] == id.as_str())
    };
    for (stage, state, expected) in
        [("createRuntime", &own, true), ("poststop", &other, true), ("poststop", &own, false)]
    {
        let output = lab.hook(stage, state);
        assert!(output.status.success(), "{stage}: {output:?}");
        assert_eq!(attached(), expected, "{stage}");
    }
    drop(holder);
    lab.assert_clean(LIMIT);
}

#[test]
fn a_hook_called_twice_with_one_id_attaches_once() {
    let lab = Lab::new(2);
    let holder = lab.namespace_holder();
    let id = lab.name("c");
    let state =
        lab.state(&id, holder.pid(), &empty_bundle(&lab), Some("parent=lan0,ip=10.99.0.11/24"));
    let links = || {
        let links = json(std::process::Command::new("nsenter").args([
            "--target",
            &holder.pid().to_string(),
            "--net",
            "ip",
            "-j",
            "link",
        ]));
        links.as_array().expect("links").len()
    };
    let proxies = || {
        let processes = lab.host_processes();
        processes.into_iter().filter(|(_, line)| line.contains("mcrun-proxy")).count()
    };
    let hook = |stage: &str| {
        let output = lab.hook(stage, &state);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stage}: {errors}");
        assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{stage}: {errors}");
    };
    hook("createRuntime");
    assert_eq!((links(), proxies()), (2, 1));
    for stage in ["createRuntime", "prestart"] {
        hook(stage);
        assert_eq!((links(), proxies()), (2, 1), "{stage} again");
    }
    for time in ["once", "twice"] {
        hook("poststop");
        lab.assert_clean(LIMIT);
        assert_eq!(links(), 1, "poststop {time}");
    }
    // An id may come again, for another container.
    hook("createRuntime");
    assert_eq!((links(), proxies()), (2, 1));
    hook("poststop");
    assert_gone(&lab, "poststop");
}

#[test]
fn poststop_of_an_unknown_id_is_no_error() {
    let lab = Lab::new(2);
    for pid in [0, 999_999_999] {
        let state = lab.state(&lab.name("unknown"), pid, lab.directory(), Some("parent=lan0"));
        let output = lab.hook("poststop", &state);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    lab.assert_clean(LIMIT);
}

#[test]
fn poststop_works_with_the_namespace_and_the_bundle_gone() {
    let lab = Lab::new(2);
    let holder = lab.namespace_holder();
    let id = lab.name("c");
    let bundle = empty_bundle(&lab);
    let state = lab.state(&id, holder.pid(), &bundle, Some("parent=lan0,ip=10.99.0.11/24"));
    let output = lab.hook("createRuntime", &state);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    drop(holder);
    fs::remove_dir_all(&bundle).expect("removed");
    // Without a pid, without PATH, from the root directory: as engines call it.
    let mut command = std::process::Command::new("/usr/bin/nsenter");
    command
        .arg(format!("--net=/run/netns/{}", lab.namespace("host")))
        .arg(env!("CARGO_BIN_EXE_mcrun-hook"))
        .env_clear()
        .env("MCRUN_STATE_DIR", lab.state_dir())
        .env("MCRUN_CONFIG_DIR", lab.config_dir())
        .current_dir("/");
    let state = format!(r#"{{"ociVersion":"1.0.2","id":"{id}","status":"stopped"}}"#);
    let output = lab.hook_by(command, "poststop", &state);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_gone(&lab, "poststop with the namespace gone");
}

#[test]
fn fifty_containers_start_at_once_and_end_at_once() {
    const COUNT: usize = 50;
    let lab = Lab::new(2);
    let bundles: Vec<Bundle> = (0..COUNT)
        .map(|i| {
            let mut bundle = by_hand(&lab, &format!("c{i}"), &format!("10.99.0.{}", 100 + i));
            // Each joins a group of its own and one of all.
            let command = format!("mcrun probe recv 239.4.2.{i} {GROUP} --duration 10m");
            bundle.config["process"]["args"] = serde_json::json!(["sh", "-c", command]);
            bundle.write();
            bundle
        })
        .collect();

    let begin = Instant::now();
    let starting: Vec<Background> = bundles
        .iter()
        .enumerate()
        .map(|(i, bundle)| {
            let mut command = Runtime::Runc.command(&lab, ["run", "--detach", "--bundle"]);
            command.arg(&bundle.path).arg(lab.name(&format!("c{i}")));
            command.stdout(std::process::Stdio::null());
            command.stderr(fs::File::create(bundle.path.join("stderr")).expect("file"));
            Background::start(&mut command)
        })
        .collect();
    for (mut process, bundle) in starting.into_iter().zip(&bundles) {
        let status = process.wait(Duration::from_secs(120));
        let errors = fs::read_to_string(bundle.path.join("stderr")).expect("file");
        assert!(status.success(), "{status}: {errors}");
    }
    println!("{COUNT} containers started in {:?}", begin.elapsed());
    let answer = json(&mut lab.mcrun(["ps", "--json"]));
    let containers = answer.as_array().expect("an array");
    assert_eq!(containers.len(), COUNT);
    wait_until("the host has joined all groups", Duration::from_secs(60), || {
        (lab.host_joins().len() == COUNT + 1).then_some(())
    });

    for container in containers {
        kill(container["pid"].as_i64().expect("a pid").try_into().expect("fits"));
    }
    // On a machine with one core for every fifty things to end: not the limit of one container.
    let taken = lab.assert_clean(Duration::from_secs(10));
    println!("{COUNT} containers killed: all was gone in {taken:?}");
    for i in 0..COUNT {
        let name = lab.name(&format!("c{i}"));
        run(&mut Runtime::Runc.command(&lab, ["delete", "--force", &name]));
    }
    lab.assert_clean(LIMIT);
}

#[test]
fn a_container_of_an_earlier_version_is_shown_reloaded_and_removed() {
    let lab = Lab::new(3);
    let container = lab.start("one", "10.99.0.11");
    // A receiver that a process holds, so that there is something to take over.
    let member = container.member();
    member.change(GROUP, &lab::Change::Join);
    lab.wait_joined(&container, GROUP);
    // Records without these were written before.
    let file = lab.state_dir().join("containers").join(&container.id).join("record.json");
    let text = fs::read(&file).expect("the record");
    let mut record: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    let fields = record.as_object_mut().expect("an object");
    assert!(fields.remove("mark").is_some() && fields.remove("notifications").is_some());
    fs::write(&file, record.to_string()).expect("the record");
    assert!(lab.ps(&container).is_some());
    let before = lab.proxy_pid(&container);
    lab.configure("[groups]\nmax-groups = 7\n");
    assert_eq!(run(&mut lab.mcrun(["reload"])).trim(), container.id);
    assert_ne!(lab.proxy_pid(&container), before);
    lab.wait_joined(&container, GROUP);
    lab.delete(&container);
    assert_gone(&lab, "mcrun rm --force of a container of an earlier version");
}
