//! Services of compose on a network of mcrun's driver: more of them and fewer, started again, taken down.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;

use crate::lab::{Container, DockerDriver, Dockerd, Engine, IMAGE, Lab, PATIENCE, run, wait_until};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 8, 11, 1);

struct Project<'l> {
    lab: &'l Lab,
    engine: &'l Engine<'l>,
    file: PathBuf,
    name: String,
}

impl<'l> Project<'l> {
    fn new(lab: &'l Lab, engine: &'l Engine<'l>) -> Self {
        let driver = lab.name(DockerDriver::NAME);
        let text = format!(
            "version: \"2.4\"\n\
             services:\n  receiver:\n    image: {IMAGE}\n    command: sleep 1000\n    \
             stop_grace_period: 0s\n    networks: [default, media]\n\
             networks:\n  media:\n    driver: {driver}\n    driver_opts:\n      \
             parent: lan0\n      allow: 239.8.0.0/16\n    ipam:\n      config:\n        \
             - subnet: 10.99.0.0/24\n          ip_range: 10.99.0.64/26\n          gateway: 10.99.0.1\n"
        );
        let file = lab.directory().join("compose.yaml");
        fs::write(&file, text).expect("compose.yaml");
        Project { lab, engine, file, name: lab.name("project") }
    }

    /// `docker-compose ARGUMENTS`, which succeeds.
    fn compose(&self, arguments: &[&str]) {
        let mut command: Command = self.lab.enter("host", "docker-compose");
        command.envs(self.engine.environment().iter().cloned());
        command.arg("--project-name").arg(&self.name).arg("--file").arg(&self.file);
        run(command.args(arguments));
    }

    /// The running containers, when there are so many and all are attached.
    fn containers(&self, count: usize) -> Vec<Container> {
        let label = format!("label=com.docker.compose.project={}", self.name);
        let list = ["ps", "--quiet", "--no-trunc", "--filter", &label];
        wait_until(&format!("{count} containers are attached"), PATIENCE, || {
            let ids = run(&mut self.engine.command(&list));
            let ids: Vec<_> = ids.split_whitespace().collect();
            let all = ids.iter().map(|id| self.engine.container_of_any_name(id));
            let attached = all.filter(|container| {
                let entry = self.lab.ps(container);
                entry.is_some_and(|entry| entry["interfaces"][0]["addresses"][0].is_string())
            });
            let attached: Vec<_> = attached.collect();
            (ids.len() == count && attached.len() == count).then_some(attached)
        })
    }

    /// Asserts that a stream arrives in each, and that each has an address of its own.
    fn assert_served(&self, containers: &[Container]) -> BTreeSet<String> {
        let addresses = containers.iter().map(|container| {
            let entry = self.lab.ps(container).expect("attached");
            let address = entry["interfaces"][0]["addresses"][0].as_str().expect("text").to_owned();
            assert!(address.starts_with("10.99.0."), "{entry}");
            address
        });
        let addresses: BTreeSet<_> = addresses.collect();
        assert_eq!(addresses.len(), containers.len(), "{addresses:?}");
        for container in containers {
            self.lab.assert_stream_arrives(container, GROUP);
        }
        addresses
    }
}

#[test]
fn services_are_scaled_restarted_and_taken_down_and_leave_nothing() {
    let mut lab = Lab::new(2);
    let _driver = DockerDriver::start(&lab);
    let daemon = Dockerd::start(&mut lab);
    let engine = Engine::docker(&lab, &daemon);
    let project = Project::new(&lab, &engine);
    let capture = lab.capture();
    project.compose(&["up", "-d", "--scale", "receiver=3"]);
    let addresses = project.assert_served(&project.containers(3));

    project.compose(&["restart", "-t", "0"]);
    let again = project.assert_served(&project.containers(3));
    assert_eq!(again.len(), addresses.len());

    project.compose(&["up", "-d", "--scale", "receiver=1"]);
    project.assert_served(&project.containers(1));
    project.compose(&["up", "-d", "--scale", "receiver=2"]);
    project.assert_served(&project.containers(2));

    project.compose(&["down", "-t", "0"]);
    wait_until("no container is attached", PATIENCE, || {
        let shown = crate::lab::json(&mut lab.mcrun(["ps", "--json"]));
        (shown.as_array().map(Vec::len) == Some(0)).then_some(())
    });
    assert!(!run(&mut engine.command(&["network", "ls"])).contains(&project.name));
    let kept = lab.directory().join("lib/docker/networks");
    assert_eq!(fs::read_dir(kept).expect("the directory").count(), 0);
    assert_eq!(run(&mut lab.mcrun(["gc"])), "");
    lab.assert_clean(PATIENCE);
    lab.assert_one_igmp_host(&capture.finish());
}
