//! Services of compose on a network of mcrun's driver: more of them and fewer, started again, taken down.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::lab::{
    Background, Container, DockerDriver, Dockerd, Engine, IMAGE, Lab, PATIENCE, output, run,
    wait_until,
};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 8, 11, 1);
/// What the services of the README join.
const README_GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 3);
/// What one of them leaves while the other one receives.
const SHARED: Ipv4Addr = Ipv4Addr::new(239, 8, 11, 2);

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
        Project::of_file(lab, engine, &text)
    }

    /// The file of the README with two services, on the lab's parent, with its image and addresses.
    fn of_the_readme(lab: &'l Lab, engine: &'l Engine<'l>) -> Self {
        let page = include_str!("../README.md");
        let blocks = page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
        let [file] = blocks.filter(|block| block.contains("\nnetworks:")).collect::<Vec<_>>()[..]
        else {
            panic!("one file with networks")
        };
        let driver = format!("driver: {}", lab.name(DockerDriver::NAME));
        let mut text = file.to_owned();
        for (theirs, ours) in [
            ("image: alpine", &format!("image: {IMAGE}")[..]),
            ("driver: mcrun", &driver),
            ("parent: eth1", "parent: lan0"),
            ("192.0.2.", "10.99.0."),
            ("\"8080:80\"", "\"18091:80\""),
            // The image has mcrun, and the services are to run on.
            ("    volumes:\n      - /usr/local/bin/mcrun:/bin/mcrun:ro\n", ""),
            ("--duration 5s", "--duration 600s"),
        ] {
            assert!(text.contains(theirs), "{theirs} in\n{text}");
            text = text.replace(theirs, ours);
        }
        Project::of_file(lab, engine, &text)
    }

    fn of_file(lab: &'l Lab, engine: &'l Engine<'l>, text: &str) -> Self {
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

    /// The container of a service among these.
    fn service(&self, containers: &[Container], service: &str) -> Container {
        let format = "{{index .Config.Labels \"com.docker.compose.service\"}}";
        let found = containers.iter().find(|c| self.engine.inspect(&c.id, format) == service);
        self.engine.container_of_any_name(&found.expect("it runs").id)
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

    /// Takes the project down. Nothing is left of it.
    fn assert_goes(&self) {
        self.compose(&["down", "-t", "0"]);
        wait_until("no container is attached", PATIENCE, || {
            let shown = crate::lab::json(&mut self.lab.mcrun(["ps", "--json"]));
            (shown.as_array().map(Vec::len) == Some(0)).then_some(())
        });
        assert!(!run(&mut self.engine.command(&["network", "ls"])).contains(&self.name));
        let kept = self.lab.directory().join("lib/docker/networks");
        assert_eq!(fs::read_dir(kept).expect("the directory").count(), 0);
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

    project.assert_goes();
    assert_eq!(run(&mut lab.mcrun(["gc"])), "");
    lab.assert_clean(PATIENCE);
    lab.assert_one_igmp_host(&capture.finish());
}

#[test]
fn the_services_of_the_readme_receive_publish_and_lose_nothing_by_each_other() {
    let mut lab = Lab::new(2);
    let _driver = DockerDriver::start(&lab);
    let daemon = Dockerd::start(&mut lab);
    let engine = Engine::docker(&lab, &daemon);
    let project = Project::of_the_readme(&lab, &engine);
    let capture = lab.capture();
    project.compose(&["up", "-d"]);
    for is_again in [false, true] {
        if is_again {
            project.compose(&["restart", "-t", "0"]);
        }
        let containers = project.containers(2);
        let receiver = project.service(&containers, "receiver");
        let recorder = project.service(&containers, "recorder");
        let addresses = project.assert_served(&containers);
        assert!(addresses.contains("10.99.0.70/24"), "{addresses:?}");
        // What the services join by themselves, by their names.
        for (container, service) in [(&receiver, "receiver"), (&recorder, "recorder")] {
            lab.wait_joined(container, README_GROUP);
            let groups = lab.groups(container);
            let name = groups[0]["name"].as_str().expect("a name");
            assert!(name.contains(service), "{service}: {name}");
        }
        lab.wait_forwarded(README_GROUP);
        // One that leaves costs the other nothing, at a port with immediate leave.
        for (stays, leaves) in [(&recorder, &receiver), (&receiver, &recorder)] {
            let stream = lab.stream(stays, SHARED, 1000);
            let leaver = lab.receive(leaves, SHARED, None, Duration::from_secs(1));
            lab.wait_joined(leaves, SHARED);
            assert!(leaver.finish().packets > 0);
            lab.wait_left(leaves, SHARED);
            lab.assert_stream_arrives(leaves, GROUP);
            stream.assert_whole();
        }
        let serve = "while :; do echo published | busybox nc -l -p 80; done";
        let _server = Background::start(&mut engine.exec(&receiver, &["sh", "-c", serve]));
        wait_until("the published port answers", PATIENCE, || {
            let ask = "echo | busybox nc -w 1 127.0.0.1 18091";
            let answer = output(lab.enter("host", "sh").args(["-c", ask]));
            String::from_utf8_lossy(&answer.stdout).contains("published").then_some(())
        });
    }
    project.assert_goes();
    assert_eq!(run(&mut lab.mcrun(["gc"])), "");
    lab.assert_clean(PATIENCE);
    lab.assert_one_igmp_host(&capture.finish());
}
