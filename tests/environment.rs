//! An image cannot attach itself: when the variable `MCRUN_MCAST` of a container counts.

use std::process::Command;
use std::time::Duration;

use crate::lab::{Bundle, Dockerd, IMAGE, Lab, Runtime, run};

const ATTACHMENT: &str = "parent=lan0,ip=10.99.0.66/24";

/// An image that asks for an attachment by its own variable.
const IMAGE_THAT_ASKS: &str = "lab-that-asks";

fn make_image_that_asks(lab: &Lab, docker: &Dockerd) {
    let id = run(&mut docker.command(lab, ["create", IMAGE, "true"]));
    let change = format!("ENV MCRUN_MCAST={ATTACHMENT}");
    let id = id.trim();
    run(&mut docker.command(lab, ["commit", "--change", &change, id, IMAGE_THAT_ASKS]));
    run(&mut docker.command(lab, ["rm", id]));
}

/// The interfaces that a container has, by what `ip` prints in it.
fn interfaces(command: &mut Command) -> Vec<String> {
    let printed = run(command);
    let names = printed.lines().filter_map(|line| line.split([':', '@']).nth(1));
    names.map(|name| name.trim().to_owned()).collect()
}

const SHOW: [&str; 3] = ["ip", "-o", "link"];

#[test]
fn an_image_attaches_nothing_where_mcrun_is_dockers_default_runtime() {
    let mut lab = Lab::new(2);
    let mut docker = Dockerd::start(&mut lab);
    make_image_that_asks(&lab, &docker);
    docker.make_mcrun_the_default(&mut lab);
    for options in [&["--network", "none"][..], &["--runtime", "mcrun", "--network", "none"]] {
        let mut command = docker.command(&lab, ["run", "--rm"]);
        let names = interfaces(command.args(options).arg(IMAGE_THAT_ASKS).args(SHOW));
        assert_eq!(names, ["lo"], "{options:?}");
    }
    lab.assert_clean(Duration::from_secs(2));
}

#[test]
fn an_image_attaches_nothing_where_docker_has_annotations() {
    let mut lab = Lab::new(2);
    let docker = Dockerd::start(&mut lab);
    make_image_that_asks(&lab, &docker);
    // As mcrun setup docker writes it for a newer docker, and as an earlier mcrun has left it.
    let facts = lab.config_dir().join("engines.toml");
    let text = std::fs::read_to_string(&facts).expect("engines.toml");
    let newer: String = text
        .lines()
        .map(|line| match line.starts_with("version") {
            true => "version = \"28.5.2\"\n".to_owned(),
            false => format!("{line}\n"),
        })
        .collect();
    std::fs::write(&facts, newer).expect("engines.toml");
    for step in ["newer", "unknown"] {
        let mut command = docker.command(&lab, ["run", "--rm", "--runtime", "mcrun"]);
        let names = interfaces(command.args(["--network", "none", IMAGE_THAT_ASKS]).args(SHOW));
        assert_eq!(names, ["lo"], "{step}");
        let _ = std::fs::remove_file(&facts);
    }
    // The administrator's word.
    lab.configure("[attach]\nip = [\"10.99.0.0/24\"]\nenvironment = true\n");
    let mut command = docker.command(&lab, ["run", "--rm", "--runtime", "mcrun"]);
    let names = interfaces(command.args(["--network", "none", IMAGE_THAT_ASKS]).args(SHOW));
    assert_eq!(names, ["lo", "mc0"]);
    lab.assert_clean(Duration::from_secs(2));
}

#[test]
fn a_variable_that_does_not_count_is_told_of_in_one_line() {
    let lab = Lab::new(2);
    let mut bundle = Bundle::new(&lab, "c");
    bundle.add_hooks(&lab);
    bundle.set_variable(ATTACHMENT);
    bundle.write();
    let holder = lab.namespace_holder();
    let state = lab.state(&lab.name("c"), holder.pid(), &bundle.path, None);
    let told = lab.hook("createRuntime", &state);
    assert!(told.status.success(), "{told:?}");
    let line = String::from_utf8_lossy(&told.stderr);
    assert_eq!(
        line,
        "mcrun-hook: the variable MCRUN_MCAST does not count, since an image can set variables: the \
         container is not attached; ask by the annotation io.mcrun.mcast, for docker before 24 run \
         mcrun setup docker once more, or set environment = true in [attach] of mcrun.toml\n"
    );
    assert!(!lab.state_dir().exists() || run(&mut lab.mcrun(["ps", "--json"])).trim() == "[]");
    // runc and crun start the container, without an attachment.
    for runtime in [Runtime::Runc, Runtime::Crun] {
        let started = bundle.try_start(&lab, runtime, &format!("{runtime:?}").to_lowercase());
        assert!(started.status.success(), "{started:?}");
    }
    assert_eq!(run(&mut lab.mcrun(["ps", "--json"])).trim(), "[]");
}
