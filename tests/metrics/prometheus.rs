//! A Prometheus that asks mcrun metrics, has the alert rules, and is asked what the dashboard asks.

use std::fmt::Write;
use std::fs;
use std::net::Ipv6Addr;
use std::process::Stdio;

use serde_json::Value;

use crate::counting;
use crate::lab::{Background, Family as _, Lab, PATIENCE, run, wait_until};
use crate::metrics::contrib::{exported, expressions, file};
use crate::metrics::http::ask;
use crate::metrics::{Exporter, read, value};

/// In the namespace of the container host, where nobody else listens.
const PORT: u16 = 9090;

/// A Prometheus on the container host. It ends with this value.
struct Prometheus<'l> {
    lab: &'l Lab,
    _process: Background,
}

impl<'l> Prometheus<'l> {
    fn start(lab: &'l Lab, exporter: &Exporter) -> Self {
        let directory = lab.directory().join("prometheus");
        fs::create_dir(&directory).expect("directory");
        let config = format!(
            "global:\n  scrape_interval: 1s\n  scrape_timeout: 1s\n  evaluation_interval: 1s\n\
             rule_files:\n  - {}\n\
             scrape_configs:\n  - job_name: mcrun\n    static_configs:\n      \
             - targets: ['127.0.0.1:{}']\n",
            file("prometheus/mcrun.rules.yml").display(),
            exporter.port
        );
        let (config_file, log) = (directory.join("prometheus.yml"), directory.join("log"));
        fs::write(&config_file, config).expect("written");
        let mut command = lab.enter("host", "prometheus");
        command.arg(format!("--config.file={}", config_file.display()));
        command.arg(format!("--storage.tsdb.path={}", directory.join("data").display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{PORT}"));
        command.stdout(Stdio::null());
        command.stderr(fs::File::create(&log).expect("a file"));
        let prometheus = Prometheus { lab, _process: Background::start(&mut command) };
        wait_until("Prometheus listens", PATIENCE, || {
            let text = fs::read_to_string(&log).expect("the log");
            text.contains("Server is ready to receive web requests").then_some(())
        });
        prometheus
    }

    /// What its HTTP API answers.
    fn api(&self, path: &str) -> Value {
        let request = format!("GET /api/v1/{path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        let (head, body) = ask(self.lab, PORT, &request);
        let answer: Value = serde_json::from_str(&body).unwrap_or_else(|e| panic!("{e}: {head}"));
        assert_eq!(answer["status"], "success", "{path}: {answer:#}");
        answer["data"].clone()
    }

    /// The result of an expression.
    fn query(&self, expression: &str) -> Vec<Value> {
        let mut encoded = String::new();
        for byte in expression.bytes() {
            write!(encoded, "%{byte:02x}").expect("written");
        }
        let data = self.api(&format!("query?query={encoded}"));
        data["result"].as_array().expect("a list").clone()
    }
}

#[test]
fn prometheus_scrapes_has_the_rules_and_answers_the_dashboard() {
    let lab = Ipv6Addr::lab(2);
    let both = "parent=lan0,ip=10.99.0.11/24,ip=fd00:99::11/64";
    let container = lab.start_with("c", &[both], &[]);
    let receiver = counting::joined(&lab, &container, "mc0", counting::GROUP);
    let numbers = counting::seven_out_and_two_swapped();
    counting::stream(&lab, &receiver, numbers.into_iter());
    lab.query();
    let exporter = Exporter::start(&lab);
    let prometheus = Prometheus::start(&lab, &exporter);

    let lost = format!("mcrun_group_rtp_lost_packets{{group=\"{}\"}}", counting::GROUP);
    let found = wait_until("it has scraped", PATIENCE, || prometheus.query(&lost).pop());
    assert_eq!(found["value"][1], "7", "{found:#}");
    assert_eq!(found["metric"]["container"], container.name);
    assert_eq!(found["metric"]["job"], "mcrun");
    let up = prometheus.query("up{job=\"mcrun\"}");
    assert_eq!(up[0]["value"][1], "1", "{up:#?}");

    // Prometheus has understood types and help.
    let metadata = prometheus.api("metadata");
    for (name, about) in metadata.as_object().expect("an object") {
        assert!(!name.starts_with("mcrun_") || exported().contains(name), "{name}");
        let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
        if name.starts_with("mcrun_") {
            assert_eq!(about[0]["type"], kind, "{name}");
        }
    }
    assert!(metadata.get("mcrun_group_packets_total").is_some(), "{metadata:#}");

    let rules = wait_until("the rules are evaluated", PATIENCE, || {
        let groups = prometheus.api("rules");
        let rules = groups["groups"][0]["rules"].as_array().expect("rules").clone();
        rules.iter().all(|rule| rule["health"] != "unknown").then_some(rules)
    });
    let text = fs::read_to_string(file("prometheus/mcrun.rules.yml")).expect("the rules");
    assert_eq!(rules.len(), text.matches("- alert: ").count());
    for rule in &rules {
        assert_eq!(rule["health"], "ok", "{rule:#}");
    }
    // Nothing is wrong, except that no stream flows any more: that takes minutes to be an alert.
    let firing: Vec<_> = rules.iter().filter(|rule| rule["state"] == "firing").collect();
    assert!(firing.is_empty(), "{firing:#?}");

    // A rate needs two scrapes.
    let may_be_empty = ["relay", "mcrun_alarm", "status!=\"joined\""];
    wait_until("the dashboard is answered", PATIENCE, || {
        let is_answered = |expression: &String| {
            let result = prometheus.query(expression);
            !result.is_empty() || may_be_empty.iter().any(|word| expression.contains(word))
        };
        expressions().iter().all(is_answered).then_some(())
    });
}

/// The text reaches Prometheus by way of node_exporter too, with what HELP and TYPE say.
#[test]
fn node_exporter_tells_what_is_in_the_file() {
    const PORT: u16 = 9100;
    let lab = Lab::new(3);
    let container = lab.start("c", "10.99.0.11");
    let directory = lab.directory().join("textfile");
    fs::create_dir(&directory).expect("directory");
    let file = directory.join("mcrun.prom");
    run(lab.mcrun(["metrics", "--output"]).arg(&file));
    let written = read(&lab, &fs::read_to_string(&file).expect("readable"));
    let log = lab.directory().join("node_exporter.log");
    let mut command = lab.enter("host", "prometheus-node-exporter");
    command.args(["--collector.disable-defaults", "--collector.textfile"]);
    command.arg(format!("--collector.textfile.directory={}", directory.display()));
    command.arg(format!("--web.listen-address=127.0.0.1:{PORT}"));
    command.stdout(Stdio::null()).stderr(fs::File::create(&log).expect("a file"));
    let _exporter = Background::start(&mut command);
    wait_until("it listens", PATIENCE, || {
        let text = fs::read_to_string(&log).expect("the log");
        text.contains("TLS is disabled").then_some(())
    });
    let request = "GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n";
    let (head, told) = ask(&lab, PORT, request);
    assert!(head.contains(" 200 ok"), "{head}");
    assert!(told.contains("node_textfile_scrape_error 0\n"), "{told}");
    for line in fs::read_to_string(&file).expect("readable").lines() {
        if line.starts_with("# ") {
            assert!(told.contains(line), "{line}");
        }
    }
    let own = told.lines().filter(|line| line.starts_with("mcrun_")).count();
    assert_eq!(own, written.len());
    assert_eq!(value(&written, &container, "mcrun_proxy_up"), 1.0);
}
