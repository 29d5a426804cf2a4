//! `mcrun metrics`: what Prometheus is told.

mod contrib;
mod http;
mod prometheus;
mod service;

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::counting;
use crate::lab::{Background, Container, Lab, PATIENCE, kill, output, run, wait_until};

/// The values by series.
type Values = BTreeMap<String, f64>;

/// What the text says; panics unless promtool has nothing against it.
fn read(lab: &Lab, text: &str) -> Values {
    let file = lab.directory().join("checked.prom");
    fs::write(&file, text).expect("written");
    let file = fs::File::open(&file).expect("readable");
    let checked = Command::new("promtool").args(["check", "metrics"]).stdin(file).output();
    let checked = checked.expect("promtool starts: make test installs it");
    assert!(checked.status.success(), "{checked:?}\n{text}");
    assert!(checked.stdout.is_empty() && checked.stderr.is_empty(), "{checked:?}");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let pairs = lines.map(|line| line.rsplit_once(' ').expect("a value"));
    pairs.map(|(series, value)| (series.to_owned(), value.parse().expect("a number"))).collect()
}

fn metrics(lab: &Lab) -> Values {
    read(lab, &run(&mut lab.mcrun(["metrics"])))
}

/// The value of a series of one container, of which only some labels are named here; panics unless
/// there is one such series.
fn value(values: &Values, container: &Container, series: &str) -> f64 {
    let found = find(values, container, series);
    assert_eq!(found.len(), 1, "{series}: {values:#?}");
    found[0]
}

fn find(values: &Values, container: &Container, series: &str) -> Vec<f64> {
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let labels = labels.strip_suffix('}').expect("labels");
    let own = format!("container=\"{}\"", container.name);
    let wanted: Vec<_> = labels.split(',').filter(|l| !l.is_empty()).chain([&*own]).collect();
    let is_wanted = |series: &str| {
        series.starts_with(&format!("{name}{{"))
            && wanted.iter().all(|label| series.contains(label))
    };
    values.iter().filter(|(series, _)| is_wanted(series)).map(|(_, value)| *value).collect()
}

fn seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

#[test]
fn seven_packets_taken_out_and_two_swapped_are_seven_lost_and_two_reordered() {
    let lab = Lab::new(3);
    let container = lab.start("c", "10.99.0.11");
    let receiver = counting::joined(&lab, &container, "mc0", counting::GROUP);
    let before = metrics(&lab);
    assert_eq!(value(&before, &container, "mcrun_group_packets_total"), 0.0);
    assert!(find(&before, &container, "mcrun_group_last_packet_timestamp_seconds").is_empty());
    assert!(find(&before, &container, "mcrun_group_rtp_lost_packets").is_empty());

    let begin = seconds();
    let numbers = counting::seven_out_and_two_swapped();
    let received = counting::stream(&lab, &receiver, numbers.into_iter());
    let now = metrics(&lab);
    let of = |series: &str| value(&now, &container, series);
    let group = format!("{{interface=\"mc0\",parent=\"lan0\",group=\"{}\"}}", counting::GROUP);
    let of_group = |name: &str| of(&format!("{name}{group}"));
    assert_eq!(of_group("mcrun_group_rtp_lost_packets"), 7.0);
    assert_eq!(of_group("mcrun_group_rtp_reordered_packets_total"), 2.0);
    assert_eq!(of_group("mcrun_group_rtp_duplicated_packets_total"), 0.0);
    // The packet behind the stream is no RTP.
    assert_eq!(of_group("mcrun_group_packets_total"), received as f64 + 1.0);
    let bytes = received * counting::SIZE as u64 + 3;
    assert_eq!(of_group("mcrun_group_bytes_total"), bytes as f64);
    let last = of_group("mcrun_group_last_packet_timestamp_seconds");
    assert!(begin - 1.0 < last && last < seconds() + 1.0, "{last}");
    assert_eq!(of("mcrun_group_membership{status=\"joined\"}"), 1.0);

    for (status, number) in [("joined", 1.0), ("denied", 0.0), ("limited", 0.0), ("failed", 0.0)] {
        assert_eq!(of(&format!("mcrun_memberships{{status=\"{status}\"}}")), number, "{status}");
    }
    assert_eq!((of("mcrun_proxy_up"), of("mcrun_proxy_held")), (1.0, 0.0));
    assert_eq!(of("mcrun_proxy_deaths_total"), 0.0);
    assert_eq!(of("mcrun_interface_info{driver=\"macvlan\",upstream=\"lan0\"}"), 1.0);
    assert_eq!((now["mcrun_containers"], now["mcrun_keeper_up"]), (1.0, 0.0));

    let version = "mcrun_querier_version{upstream=\"lan0\"}";
    lab.query();
    let now = wait_until("a querier is heard", PATIENCE, || {
        Some(metrics(&lab)).filter(|values| values.contains_key(version))
    });
    assert_eq!(now[version], 3.0);
    assert_eq!(now["mcrun_querier_present{upstream=\"lan0\"}"], 1.0);
    let query = now["mcrun_querier_last_query_timestamp_seconds{upstream=\"lan0\"}"];
    assert!(query > begin - 60.0 && query <= seconds(), "{query}");
}

#[test]
fn a_relay_a_limit_and_a_dead_proxy_are_told() {
    let lab = Lab::new(2);
    lab.add_bridge();
    let relayed = lab.start_with("r", &["parent=lan0,driver=relay,max-groups=1"], &[]);
    lab.plug(&relayed, 10);
    let [one, other] = [Ipv4Addr::new(239, 79, 1, 1), Ipv4Addr::new(239, 79, 1, 2)];
    let inside = relayed.socket_on("eth0", counting::PORT);
    inside.join(one);
    lab.wait_joined(&relayed, one);
    lab.wait_forwarded(one);
    inside.join(other);
    let limited = "mcrun_memberships{status=\"limited\"}";
    wait_until("the second group is limited", PATIENCE, || {
        (find(&metrics(&lab), &relayed, limited) == [1.0]).then_some(())
    });
    let sender = lab.socket("src", crate::lab::SOURCES[0], 0);
    for _ in 0..9 {
        sender.send(b"data", (one, counting::PORT));
    }
    sender.send(b"end", (one, counting::PORT));
    assert_eq!(inside.receive_until("end").len(), 9);
    let now = metrics(&lab);
    let of = |series: &str| value(&now, &relayed, series);
    let group = format!("group=\"{one}\"");
    assert_eq!(of(&format!("mcrun_group_relay_packets_total{{result=\"relayed\",{group}}}")), 10.0);
    assert_eq!(of("mcrun_relay_packets_total{direction=\"in\",result=\"relayed\"}"), 10.0);
    assert_eq!(of("mcrun_relay_packets_total{direction=\"out\",result=\"relayed\"}"), 0.0);
    assert_eq!(of(&format!("mcrun_group_membership{{group=\"{other}\",status=\"limited\"}}")), 1.0);

    let limited = read(&lab, &run(&mut lab.mcrun(["metrics", "--max-groups", "1"])));
    assert_eq!(limited["mcrun_metrics_groups_omitted"], 1.0);
    assert_eq!(find(&limited, &relayed, "mcrun_group_membership").len(), 1);

    let proxy = lab.proxy_pid(&relayed);
    kill(proxy);
    wait_until("the proxy is dead", PATIENCE, || (!crate::lab::alive(proxy)).then_some(()));
    let now = metrics(&lab);
    assert_eq!(value(&now, &relayed, "mcrun_proxy_up"), 0.0);
    assert!(find(&now, &relayed, "mcrun_memberships").is_empty());
}

/// The names in a directory.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory").flatten();
    let mut names: Vec<_> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_file_is_replaced_whole_or_not_at_all() {
    let lab = Lab::new(3);
    let container = lab.start("c", "10.99.0.11");
    let directory = lab.directory().join("textfile");
    fs::create_dir(&directory).expect("directory");
    let file = directory.join("mcrun.prom");
    let path = file.to_str().expect("text");
    assert_eq!(run(&mut lab.mcrun(["metrics", "--output", path])), "");
    let values = read(&lab, &fs::read_to_string(&file).expect("readable"));
    assert_eq!(value(&values, &container, "mcrun_proxy_up"), 1.0);
    assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o7777, 0o644);
    assert_eq!(names(&directory), ["mcrun.prom"]);

    // Files may not be longer than 512 bytes: the writer is killed in the middle, or told so.
    fs::write(&file, "mcrun_old 1\n").expect("written");
    let limited = |shell: &str| {
        let mcrun = lab.mcrun(["metrics", "--output", path]);
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{shell} ulimit -f 1; ulimit -c 0; exec \"$@\""), "sh"]);
        command.arg(mcrun.get_program()).args(mcrun.get_args());
        command.envs(mcrun.get_envs().filter_map(|(name, value)| Some((name, value?))));
        output(&mut command)
    };
    let refused = limited("trap '' XFSZ;");
    assert_eq!(refused.status.code(), Some(125), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.starts_with(&format!("mcrun: cannot write {path}: File too large")), "{said}");
    assert_eq!((said.lines().count(), names(&directory)), (1, vec!["mcrun.prom".to_owned()]));
    let killed = limited("");
    assert_eq!(killed.status.signal(), Some(libc::SIGXFSZ), "{killed:?}");
    assert_eq!(fs::read_to_string(&file).expect("readable"), "mcrun_old 1\n");
    // node_exporter reads nothing but *.prom.
    let seen: Vec<_> = names(&directory).into_iter().filter(|n| n.ends_with(".prom")).collect();
    assert_eq!(seen, ["mcrun.prom"]);
    // What the killed one has left goes with the next.
    assert_eq!(names(&directory).len(), 2);
    assert_eq!(run(&mut lab.mcrun(["metrics", "--output", path])), "");
    assert_eq!(names(&directory), ["mcrun.prom"]);

    let nowhere = output(&mut lab.mcrun(["metrics", "--output", "/nowhere/mcrun.prom"]));
    let said = String::from_utf8_lossy(&nowhere.stderr).into_owned();
    assert_eq!(nowhere.status.code(), Some(125));
    assert_eq!(
        said,
        "mcrun: cannot write /nowhere/mcrun.prom: No such file or directory (os error 2)\n"
    );
}

/// `mcrun metrics --listen`, on the container host.
struct Exporter {
    process: Background,
    port: u16,
}

impl Exporter {
    fn start(lab: &Lab) -> Exporter {
        Exporter::of(lab, &mut lab.mcrun(["metrics", "--listen", "0"]))
    }

    /// Waits until it says where it listens.
    fn of(lab: &Lab, command: &mut Command) -> Exporter {
        let file = lab.directory().join("exporter.log");
        let log = fs::File::create(&file).expect("a file");
        let process = Background::start(command.stdout(Stdio::null()).stderr(log));
        let port = wait_until("it listens", PATIENCE, || {
            let text = fs::read_to_string(&file).expect("readable");
            let rest = text.split_once("mcrun metrics: http://127.0.0.1:")?.1;
            rest.split_once("/metrics\n")?.0.parse().ok()
        });
        Exporter { process, port }
    }
}
