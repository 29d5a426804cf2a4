//! The alert rules and the dashboard of contrib/, as far as they say something without a Prometheus.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::lab::run;

/// A file of contrib/.
pub(super) fn file(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("contrib").join(path)
}

/// The names of docs/metrics.md, which are those of the program (`cli::metrics::render`).
pub(super) fn exported() -> BTreeSet<String> {
    let page = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let text = fs::read_to_string(page).expect("the page");
    let names = text.lines().filter_map(|line| line.strip_prefix("| `mcrun_")?.split('`').next());
    let names: BTreeSet<_> = names.map(|name| format!("mcrun_{name}")).collect();
    assert!(names.len() > 20, "{names:?}");
    names
}

/// The names of mcrun's metrics in a text.
fn named(text: &str) -> BTreeSet<String> {
    let is_of_name = |c: char| c == '_' || c == ':' || c.is_ascii_alphanumeric();
    let words = text.split(|c| !is_of_name(c)).filter(|word| word.starts_with("mcrun_"));
    words.map(str::to_owned).collect()
}

fn dashboard() -> Value {
    let text = fs::read_to_string(file("grafana/mcrun.json")).expect("the dashboard");
    serde_json::from_str(&text).expect("JSON")
}

/// The expressions of all panels of the dashboard, and of its variables, with Grafana's variables
/// replaced as Grafana would.
pub(super) fn expressions() -> Vec<String> {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let mut all: Vec<_> =
        targets.map(|target| target["expr"].as_str().expect("an expression").to_owned()).collect();
    // label_values(METRIC, LABEL) asks for the series of a metric.
    for variable in dashboard["templating"]["list"].as_array().expect("variables") {
        let Some(query) = variable["query"]["query"].as_str() else { continue };
        let inner = query.strip_prefix("label_values(").and_then(|q| q.strip_suffix(')'));
        let (selector, _) = inner.and_then(|q| q.rsplit_once(", ")).expect("label_values");
        all.push(selector.to_owned());
    }
    let replaced = all.into_iter().map(|expression| {
        let values = [("$__rate_interval", "1m"), ("$instance", ".*"), ("$container", ".*")];
        let values = values.into_iter().chain([("$group", ".*")]);
        values.fold(expression, |text, (variable, value)| text.replace(variable, value))
    });
    let all: Vec<_> = replaced.collect();
    assert!(all.len() > 20, "expressions were found");
    assert!(all.iter().all(|expression| !expression.contains('$')), "{all:?}");
    all
}

#[test]
fn rules_and_dashboard_name_metrics_that_there_are() {
    let exported = exported();
    let rules = fs::read_to_string(file("prometheus/mcrun.rules.yml")).expect("the rules");
    let of_rules = rules.lines().filter(|line| !line.trim_start().starts_with('#'));
    let named_by_rules = named(&of_rules.collect::<Vec<_>>().join("\n"));
    let named_by_dashboard = named(&expressions().join("\n"));
    for names in [&named_by_rules, &named_by_dashboard] {
        assert!(names.len() > 8, "{names:?}");
        let unknown: Vec<_> = names.difference(&exported).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }
}

#[test]
fn panels_have_numbers_and_places_of_their_own() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().expect("panels");
    let (mut ids, mut places) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{panel:#}");
        let title = panel["title"].as_str().expect("a title");
        let at = |key: &str| panel["gridPos"][key].as_u64().expect("a place");
        assert!(at("x") + at("w") <= 24, "{title}");
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(places.insert((x, y)), "{title} covers another panel");
            }
        }
        let refs = panel["targets"].as_array().into_iter().flatten().map(|t| t["refId"].as_str());
        let refs: Vec<_> = refs.collect();
        assert_eq!(refs.iter().collect::<BTreeSet<_>>().len(), refs.len(), "{title}");
    }
}

#[test]
fn the_rules_are_rules_and_alert_when_they_should() {
    run(Command::new("promtool").args(["check", "rules"]).arg(file("prometheus/mcrun.rules.yml")));
    let tests = file("prometheus/mcrun.rules.test.yml");
    run(Command::new("promtool").args(["test", "rules"]).arg(&tests));
    // Each alert is in a test.
    let text = |name: &str| fs::read_to_string(file(name)).expect("text");
    let tests = text("prometheus/mcrun.rules.test.yml");
    for line in text("prometheus/mcrun.rules.yml").lines() {
        if let Some(name) = line.trim_start().strip_prefix("- alert: ") {
            assert!(tests.contains(name), "{name} has no test");
        }
    }
}
