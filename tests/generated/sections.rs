//! What the manual pages have beside what the command line's definition says.

/// The further sections of one page.
pub(super) struct Sections {
    /// What the command does, and the command.
    pub(super) examples: &'static [(&'static str, &'static str)],
    /// Of [`FILES`].
    pub(super) files: &'static [&'static str],
    /// Of [`ENVIRONMENT`], beside those of every command.
    pub(super) environment: &'static [&'static str],
    /// Status and meaning; empty where the command's own help has them.
    pub(super) exit: &'static [(&'static str, &'static str)],
    pub(super) see_also: &'static [&'static str],
}

/// Files and what they hold.
pub(super) const FILES: [(&str, &str); 12] = [
    ("/etc/mcrun/mcrun.toml", "The administrator's limits, see mcrun.toml(5)."),
    ("/run/mcrun", "What mcrun knows of running containers."),
    (
        "/run/mcrun/containers/ID/proxy.log",
        "Log of a container's proxy on a host without journal and syslog.",
    ),
    ("/etc/docker/daemon.json", "Configuration of dockerd: the runtime mcrun."),
    (
        "/etc/containers/oci/hooks.d/mcrun-*.json, /etc/containers/containers.conf.d/mcrun.conf",
        "Hooks of podman, and where it finds them.",
    ),
    ("/etc/containerd/config.toml", "Configuration of containerd: the runtime handler mcrun."),
    ("/etc/crio/crio.conf.d/99-mcrun.conf", "Configuration of CRI-O: the runtime handler mcrun."),
    ("/etc/cdi/mcrun.yaml", "The device mcrun.io/mcast=hook."),
    (
        "/run/mcrun/bundles/ID/output.log, output.log.1",
        "Output of a detached container that mcrun run started, in two files of at most some 5 MiB.",
    ),
    ("/etc/mcrun/networks/NAME.toml", "A named network."),
    (
        "/var/log/mcrun/events.jsonl, events.jsonl.1",
        "The events that mcrun keep has kept, in two files of at most 4 MiB.",
    ),
    ("/var/lib/mcrun/docker/networks/ID.json", "Options of a network that docker has."),
];

const CONFIG: &str = FILES[0].0;
const STATE: &str = FILES[1].0;
const LOG: &str = FILES[2].0;
const OUTPUT: &str = FILES[8].0;
const NETWORK: &str = FILES[9].0;
const EVENTS: &str = FILES[10].0;
const DOCKERS: &str = FILES[11].0;

/// Variables and what they do.
pub(super) const ENVIRONMENT: [(&str, &str); 7] = [
    ("MCRUN_STATE_DIR", "Directory of the state instead of /run/mcrun."),
    ("MCRUN_CONFIG_DIR", "Directory of mcrun.toml and networks instead of /etc/mcrun."),
    ("MCRUN_ENGINE", "Engine or OCI runtime if --engine names none."),
    (
        "DOCKER_HOST, CONTAINERS_CONF",
        "As all variables of the engine, they reach the engine unchanged.",
    ),
    ("MCRUN_LOG_DIR", "Directory of kept events instead of /var/log/mcrun."),
    ("MCRUN_LIB_DIR", "Directory of docker's networks instead of /var/lib/mcrun."),
    ("NO_COLOR", "If set and not empty, nothing is coloured."),
];

const ENGINE: &str = ENVIRONMENT[2].0;
const ENGINES_OWN: &str = ENVIRONMENT[3].0;
const LOG_DIR: &str = ENVIRONMENT[4].0;
const LIB_DIR: &str = ENVIRONMENT[5].0;
const NO_COLOR: &str = ENVIRONMENT[6].0;

const USUAL: &[(&str, &str)] =
    &[("0", "Success."), ("2", "Wrong usage."), ("125", "An error of mcrun.")];
const OF_CONTAINERS: &[(&str, &str)] = &[
    ("0", "Success for each container."),
    ("1", "A container is not there, or is not in the state that the command needs."),
    ("2", "Wrong usage."),
    ("125", "Another error of mcrun or of the runtime."),
];
const OF_A_CONTAINER: &[(&str, &str)] = &[
    ("0", "Success."),
    ("1", "The container is not there, or is not in the state that the command needs."),
    ("2", "Wrong usage."),
    ("125", "Another error of mcrun."),
];
const PARTLY: &[(&str, &str)] = &[
    ("0", "Success for each container."),
    ("1", "Something failed for a container; standard error says what."),
    ("2", "Wrong usage."),
    ("125", "An error of mcrun."),
];
const OF_NETWORKS: &[(&str, &str)] = &[
    ("0", "Success for each network."),
    ("1", "Something is wrong with a network; standard error says what."),
    ("2", "Wrong usage."),
    ("125", "An error of mcrun."),
];
const OF_A_NETWORK: &[(&str, &str)] = &[
    ("0", "Success."),
    ("1", "The network is not there."),
    ("2", "Wrong usage."),
    ("125", "An error of mcrun."),
];
const OF_THE_COMMAND: &[(&str, &str)] = &[
    ("the command's", "The command in the container ran to its end."),
    ("125", "An error of mcrun, of the engine or of the runtime."),
    ("126", "The command in the container cannot be started."),
    ("127", "The command in the container is not found."),
];
const OF_THE_ENGINE: &[(&str, &str)] = &[
    ("the engine's", "The engine was called."),
    ("125", "An error of mcrun, before the engine was called."),
];

/// The further sections of a page; none for a page that nobody has written them for.
pub(super) fn of(page: &str) -> Option<Sections> {
    Some(match page {
        "mcrun" => Sections {
            examples: &[
                ("See it work, in network namespaces of its own:", "mcrun demo"),
                (
                    "Run a container on the LAN of eth1 with docker:",
                    "mcrun run --engine docker --rm --mcast parent=eth1 alpine sh",
                ),
                ("See who has joined what:", "mcrun groups"),
            ],
            files: &[CONFIG, STATE, LOG],
            environment: &[ENGINE],
            exit: &[
                ("0", "Success."),
                ("1", "The container or the measurement is not as the command needs it."),
                ("2", "Wrong usage of a command other than run, create and start."),
                ("125", "An error of mcrun, of the engine or of the runtime."),
            ],
            see_also: &[
                "mcrun-run(1)",
                "mcrun-groups(1)",
                "mcrun.toml(5)",
                "mcrun-attachment(7)",
                "mcrun-hook(8)",
                "mcrun-cni(8)",
                "mcrun-dhcp(8)",
                "mcrun-netavark(8)",
                "mcrun-proxy(8)",
                "mcrun-runtime(8)",
            ],
        },
        "mcrun-run" => Sections {
            examples: &[
                (
                    "A container of docker on the LAN of eth1, with an address:",
                    "mcrun run --engine docker -it --rm --mcast parent=eth1,ip=192.0.2.20/24 alpine sh",
                ),
                (
                    "A directory as a container, in the background:",
                    "mcrun run -d --name receiver --rootfs rootfs --mcast parent=eth1 mcrun probe recv 239.1.2.3",
                ),
                (
                    "Two LANs, as SMPTE ST 2022-7 has them:",
                    "mcrun run --rootfs rootfs --mcast parent=red,name=red --mcast parent=blue,name=blue sh",
                ),
            ],
            files: &[CONFIG, STATE, LOG],
            environment: &[ENGINE, ENGINES_OWN],
            exit: OF_THE_COMMAND,
            see_also: &[
                "mcrun-create(1)",
                "mcrun-logs(1)",
                "mcrun-attach(1)",
                "mcrun-groups(1)",
                "mcrun-setup(1)",
                "mcrun-attachment(7)",
                "docker-run(1)",
                "podman-run(1)",
            ],
        },
        "mcrun-create" => Sections {
            examples: &[(
                "Create a container of docker that is attached when it is started:",
                "mcrun create --engine docker --name receiver --mcast parent=eth1 alpine sleep 60",
            )],
            files: &[CONFIG],
            environment: &[ENGINE, ENGINES_OWN],
            exit: OF_THE_ENGINE,
            see_also: &["mcrun-run(1)", "mcrun-start(1)", "mcrun-attachment(7)"],
        },
        "mcrun-start" => Sections {
            examples: &[(
                "Start a container again, attached:",
                "mcrun start --engine podman receiver",
            )],
            files: &[CONFIG, STATE],
            environment: &[ENGINE, ENGINES_OWN],
            exit: OF_THE_ENGINE,
            see_also: &["mcrun-create(1)", "mcrun-run(1)", "mcrun-setup(1)"],
        },
        "mcrun-attach" => Sections {
            examples: &[(
                "Give a running container a second LAN:",
                "mcrun attach receiver --mcast parent=eth2,name=blue",
            )],
            files: &[CONFIG, STATE, LOG],
            environment: &[],
            exit: OF_A_CONTAINER,
            see_also: &["mcrun-detach(1)", "mcrun-run(1)", "mcrun-attachment(7)"],
        },
        "mcrun-detach" => Sections {
            examples: &[
                ("Take one interface away:", "mcrun detach receiver mc1"),
                ("Take all away:", "mcrun detach receiver"),
            ],
            files: &[STATE],
            environment: &[],
            exit: OF_A_CONTAINER,
            see_also: &["mcrun-attach(1)", "mcrun-ps(1)"],
        },
        "mcrun-doctor" => Sections {
            examples: &[
                ("What is wrong with the host and its LANs:", "mcrun doctor"),
                ("Where a stream ends:", "mcrun doctor receiver 239.1.2.3"),
                (
                    "Before the first container, with the interface it is to use:",
                    "mcrun doctor --parent eth1",
                ),
                (
                    "Whether the switch forwards what is joined, and only that:",
                    "mcrun doctor --parent eth1 --send --send-from eth2",
                ),
            ],
            files: &[CONFIG, STATE, EVENTS],
            environment: &[LOG_DIR, NO_COLOR],
            exit: &[],
            see_also: &["mcrun-groups(1)", "mcrun-parents(1)", "mcrun-events(1)", "mcrun-probe(1)"],
        },
        "mcrun-events" => Sections {
            examples: &[
                (
                    "What happened last night:",
                    "mcrun events --since 2026-01-31T02:50:00Z --until 2026-01-31T03:10:00Z",
                ),
                (
                    "What happens to one container, for a program:",
                    "mcrun events --follow --json receiver",
                ),
            ],
            files: &[STATE, EVENTS],
            environment: &[LOG_DIR],
            exit: USUAL,
            see_also: &["mcrun-keep(1)", "mcrun-groups(1)", "mcrun-ps(1)", "journalctl(1)"],
        },
        "mcrun-metrics" => Sections {
            examples: &[
                (
                    "For the textfile collector of node_exporter:",
                    "mcrun metrics --output /var/lib/prometheus/node-exporter/mcrun.prom",
                ),
                ("For a Prometheus on this host:", "mcrun metrics --listen 9469"),
                ("For one on another host:", "mcrun metrics --listen 192.0.2.7:9469"),
            ],
            files: &[STATE],
            environment: &[],
            exit: PARTLY,
            see_also: &["mcrun-groups(1)", "mcrun-ps(1)", "mcrun-parents(1)", "prometheus(1)"],
        },
        "mcrun-exec" => Sections {
            examples: &[("A shell in a running container:", "mcrun exec -it receiver sh")],
            files: &[STATE],
            environment: &[],
            exit: OF_THE_COMMAND,
            see_also: &["mcrun-run(1)", "mcrun-ps(1)"],
        },
        "mcrun-logs" => Sections {
            examples: &[
                ("The last 20 lines, and what follows:", "mcrun logs -f -n 20 receiver"),
                ("All that is kept, with times:", "mcrun logs -t receiver"),
            ],
            files: &[OUTPUT],
            environment: &[],
            exit: OF_A_CONTAINER,
            see_also: &["mcrun-run(1)", "mcrun-ps(1)", "mcrun-rm(1)"],
        },
        "mcrun-stop" => Sections {
            examples: &[("Give a container three seconds to end:", "mcrun stop -t 3 receiver")],
            files: &[STATE],
            environment: &[],
            exit: OF_CONTAINERS,
            see_also: &["mcrun-kill(1)", "mcrun-rm(1)", "mcrun-run(1)"],
        },
        "mcrun-kill" => Sections {
            examples: &[("Have a program read its configuration:", "mcrun kill -s HUP receiver")],
            files: &[STATE],
            environment: &[],
            exit: OF_CONTAINERS,
            see_also: &["mcrun-stop(1)", "mcrun-rm(1)", "signal(7)"],
        },
        "mcrun-rm" => Sections {
            examples: &[("Remove a container, running or not:", "mcrun rm -f receiver")],
            files: &[STATE],
            environment: &[],
            exit: OF_CONTAINERS,
            see_also: &["mcrun-stop(1)", "mcrun-gc(1)", "mcrun-run(1)"],
        },
        "mcrun-ps" => Sections {
            examples: &[
                ("List the attached containers:", "mcrun ps"),
                ("Those of mcrun run that have stopped, too:", "mcrun ps -a"),
                ("The same for a program:", "mcrun ps --json"),
            ],
            files: &[STATE],
            environment: &[],
            exit: USUAL,
            see_also: &["mcrun-groups(1)", "mcrun-inspect(1)"],
        },
        "mcrun-groups" => Sections {
            examples: &[
                ("All memberships of all containers:", "mcrun groups"),
                ("Those of one container, for a program:", "mcrun groups --json receiver"),
            ],
            files: &[STATE],
            environment: &[],
            exit: OF_A_CONTAINER,
            see_also: &["mcrun-ps(1)", "mcrun-inspect(1)", "mcrun-attachment(7)"],
        },
        "mcrun-top" => Sections {
            examples: &[
                ("All groups of all containers, live:", "mcrun top"),
                ("Those of one container, each five seconds:", "mcrun top receiver --interval 5"),
            ],
            files: &[STATE],
            environment: &[NO_COLOR],
            exit: &[
                ("0", "A key or a signal has ended it."),
                ("1", "There is no such container, or no terminal."),
                ("2", "Wrong usage."),
                ("125", "An error of mcrun."),
            ],
            see_also: &["mcrun-groups(1)", "mcrun-watch(1)", "mcrun-doctor(1)"],
        },
        "mcrun-watch" => Sections {
            examples: &[
                ("A stream of a container, live:", "mcrun watch receiver 239.1.2.3"),
                (
                    "Ten measurements of a second for a program:",
                    "mcrun watch receiver 239.1.2.3 --json --count 10",
                ),
            ],
            files: &[STATE],
            environment: &[],
            exit: OF_A_CONTAINER,
            see_also: &["mcrun-groups(1)", "mcrun-probe-recv(1)"],
        },
        "mcrun-inspect" => Sections {
            examples: &[("All that is known of a container:", "mcrun inspect receiver")],
            files: &[STATE],
            environment: &[],
            exit: OF_A_CONTAINER,
            see_also: &["mcrun-ps(1)", "mcrun-groups(1)"],
        },
        "mcrun-parents" => Sections {
            examples: &[
                ("Find the interface to name as parent:", "mcrun parents"),
                ("The same for a program:", "mcrun parents --json"),
            ],
            files: &[STATE],
            environment: &[],
            exit: PARTLY,
            see_also: &["mcrun-ps(1)", "mcrun-attachment(7)"],
        },
        "mcrun-probe" => Sections {
            examples: &[
                ("Send a stream:", "mcrun probe send 239.1.2.3:5004 --interface eth1"),
                ("Receive and measure it:", "mcrun probe recv 239.1.2.3:5004 --duration 10s"),
            ],
            files: &[],
            environment: &[],
            exit: &[
                ("2", "Wrong usage."),
                ("others", "Those of mcrun-probe-send(1) and mcrun-probe-recv(1)."),
            ],
            see_also: &["mcrun-probe-recv(1)", "mcrun-probe-send(1)"],
        },
        "mcrun-probe-send" => Sections {
            examples: &[(
                "5000 packets a second for a minute:",
                "mcrun probe send 239.1.2.3:5004 --interface eth1 --rate 5000 --duration 1m",
            )],
            files: &[],
            environment: &[],
            exit: &[
                ("0", "All was sent."),
                ("2", "Wrong usage."),
                ("125", "The stream could not be sent."),
            ],
            see_also: &["mcrun-probe-recv(1)"],
        },
        "mcrun-probe-recv" => Sections {
            examples: &[
                (
                    "Fail if a packet is lost within ten seconds:",
                    "mcrun probe recv 239.1.2.3:5004 --duration 10s --max-loss 0",
                ),
                (
                    "What a container gets, from inside of it:",
                    "mcrun probe recv --container receiver 239.1.2.3:5004",
                ),
                (
                    "Join from one source:",
                    "mcrun probe recv 232.1.2.3:5004 --source 192.0.2.5 --interval 1s",
                ),
            ],
            files: &[],
            environment: &[],
            exit: &[],
            see_also: &["mcrun-probe-send(1)"],
        },
        "mcrun-demo" => Sections {
            examples: &[("With crun instead of runc:", "mcrun demo --engine crun")],
            files: &[],
            environment: &[ENGINE],
            exit: &[],
            see_also: &["mcrun(1)", "mcrun-probe(1)"],
        },
        "mcrun-config" => Sections {
            examples: &[
                ("Check a file before it is in force:", "mcrun config check new.toml"),
                ("See what is in force:", "mcrun config show"),
            ],
            files: &[CONFIG],
            environment: &[],
            exit: USUAL,
            see_also: &["mcrun.toml(5)", "mcrun-reload(1)"],
        },
        "mcrun-config-check" => Sections {
            examples: &[("Check a file before it is in force:", "mcrun config check new.toml")],
            files: &[CONFIG],
            environment: &[],
            exit: USUAL,
            see_also: &["mcrun.toml(5)", "mcrun-reload(1)"],
        },
        "mcrun-config-show" => Sections {
            examples: &[("See what is in force:", "mcrun config show")],
            files: &[CONFIG],
            environment: &[],
            exit: USUAL,
            see_also: &["mcrun.toml(5)", "mcrun-reload(1)"],
        },
        "mcrun-network" => Sections {
            examples: &[
                ("Make a network:", "mcrun network create media --mcast parent=eth1"),
                ("Run a container on it:", "mcrun run --engine docker --mcast net=media alpine sh"),
                ("See the networks:", "mcrun network ls"),
            ],
            files: &[NETWORK, CONFIG],
            environment: &[],
            exit: USUAL,
            see_also: &["mcrun-attachment(7)", "mcrun.toml(5)"],
        },
        "mcrun-network-create" => Sections {
            examples: &[(
                "Make a network with a subnet:",
                "mcrun network create media --mcast parent=eth1 --subnet 192.0.2.0/24",
            )],
            files: &[NETWORK],
            environment: &[],
            exit: USUAL,
            see_also: &["mcrun-attachment(7)", "mcrun-network-rm(1)"],
        },
        "mcrun-network-ls" => Sections {
            examples: &[("For a program:", "mcrun network ls --json")],
            files: &[NETWORK],
            environment: &[],
            exit: OF_NETWORKS,
            see_also: &["mcrun-network-inspect(1)"],
        },
        "mcrun-network-inspect" => Sections {
            examples: &[("See who is on a network:", "mcrun network inspect media")],
            files: &[NETWORK],
            environment: &[],
            exit: OF_A_NETWORK,
            see_also: &["mcrun-inspect(1)"],
        },
        "mcrun-network-leases" => Sections {
            examples: &[("See who has which address of a pool:", "mcrun network leases media")],
            files: &[NETWORK, STATE],
            environment: &[],
            exit: OF_NETWORKS,
            see_also: &["mcrun-network-inspect(1)", "mcrun-attachment(7)"],
        },
        "mcrun-network-rm" => Sections {
            examples: &[("Remove a network:", "mcrun network rm media")],
            files: &[NETWORK],
            environment: &[],
            exit: OF_NETWORKS,
            see_also: &["mcrun-network-create(1)"],
        },
        "mcrun-network-check" => Sections {
            examples: &[
                ("Check all networks:", "mcrun network check"),
                ("Check a file before it is in force:", "mcrun network check ./media.toml"),
            ],
            files: &[NETWORK],
            environment: &[],
            exit: OF_NETWORKS,
            see_also: &["mcrun-config-check(1)"],
        },
        "mcrun-shim" => Sections {
            examples: &[
                (
                    "Give the host a leg of its own on eth1, with an address of its own:",
                    "mcrun shim add eth1 --ip 192.0.2.19",
                ),
                ("Take it away:", "mcrun shim rm eth1"),
            ],
            files: &[STATE],
            environment: &[],
            exit: USUAL,
            see_also: &[
                "mcrun-shim-add(1)",
                "mcrun-shim-rm(1)",
                "mcrun-shim-ls(1)",
                "mcrun-host(1)",
            ],
        },
        "mcrun-shim-add" => Sections {
            examples: &[
                (
                    "With an address that nobody else on the LAN has:",
                    "mcrun shim add eth1 --ip 192.0.2.19",
                ),
                ("Of the LAN of containers with vlan=10:", "mcrun shim add eth1.10"),
            ],
            files: &[STATE],
            environment: &[],
            exit: USUAL,
            see_also: &["mcrun-shim(1)", "mcrun-reload(1)"],
        },
        "mcrun-shim-rm" => Sections {
            examples: &[("Take the host's leg on eth1 away:", "mcrun shim rm eth1")],
            files: &[STATE],
            environment: &[],
            exit: USUAL,
            see_also: &["mcrun-shim(1)", "mcrun-gc(1)"],
        },
        "mcrun-shim-ls" => Sections {
            examples: &[("The containers that the host reaches by them:", "mcrun shim ls --json")],
            files: &[STATE],
            environment: &[],
            exit: USUAL,
            see_also: &["mcrun-shim(1)", "mcrun-parents(1)"],
        },
        "mcrun-keep" => Sections {
            examples: &[("Hold for all containers, until a signal ends it:", "mcrun keep")],
            files: &[CONFIG, STATE, EVENTS],
            environment: &[LOG_DIR],
            exit: USUAL,
            see_also: &["mcrun-reload(1)", "mcrun-events(1)", "mcrun-proxy(8)"],
        },
        "mcrun-serve" => Sections {
            examples: &[("Be docker's network driver:", "mcrun serve docker")],
            files: &[CONFIG, STATE, DOCKERS],
            environment: &[LIB_DIR],
            exit: USUAL,
            see_also: &["mcrun-serve-docker(1)"],
        },
        "mcrun-serve-docker" => Sections {
            examples: &[
                (
                    "Until a signal ends it; systemctl enable --now mcrun-docker.socket does without:",
                    "mcrun serve docker",
                ),
                (
                    "Then, a network of the LAN of eth1:",
                    "docker network create -d mcrun -o parent=eth1 -o allow=239.1.0.0/16,239.2.0.0/16 --subnet 192.0.2.0/24 --ip-range 192.0.2.64/26 media",
                ),
                ("A container on it:", "docker run --network media --ip 192.0.2.70 IMAGE"),
            ],
            files: &[CONFIG, STATE, DOCKERS],
            environment: &[LIB_DIR],
            exit: USUAL,
            see_also: &["mcrun-attachment(7)", "mcrun.toml(5)", "mcrun-gc(1)"],
        },
        "mcrun-reload" => Sections {
            examples: &[("After a change of mcrun.toml, and after an upgrade:", "mcrun reload")],
            files: &[CONFIG, STATE],
            environment: &[],
            exit: PARTLY,
            see_also: &["mcrun.toml(5)", "mcrun-proxy(8)"],
        },
        "mcrun-setup" => Sections {
            examples: &[
                ("Tell the running dockerd:", "mcrun setup docker --reload"),
                ("See what would be written for containerd:", "mcrun setup containerd --print"),
                ("Take it back:", "mcrun setup containerd --remove"),
            ],
            files: &[FILES[3].0, FILES[4].0, FILES[5].0, FILES[6].0, FILES[7].0],
            environment: &[],
            exit: USUAL,
            see_also: &["mcrun-run(1)", "mcrun-runtime(8)", "mcrun-hook(8)", "oci-hooks(5)"],
        },
        "mcrun-host" => Sections {
            examples: &[
                ("What mcrun has changed on this host:", "mcrun host"),
                ("The same for a program:", "mcrun host --json"),
            ],
            files: &[STATE, CONFIG, EVENTS],
            environment: &[LOG_DIR],
            exit: USUAL,
            see_also: &["mcrun-gc(1)", "mcrun-ps(1)", "mcrun-doctor(1)"],
        },
        "mcrun-gc" => Sections {
            examples: &[("Remove what dead containers left:", "mcrun gc")],
            files: &[STATE],
            environment: &[],
            exit: PARTLY,
            see_also: &["mcrun-host(1)", "mcrun-ps(1)", "mcrun-rm(1)", "mcrun-hook(8)"],
        },
        _ => return None,
    })
}
