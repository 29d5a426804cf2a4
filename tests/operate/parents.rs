//! `mcrun parents`.

use serde_json::{Value, json};

use crate::lab::{self, Lab, PATIENCE, SWITCH, run, wait_until};

/// One row of `mcrun parents --json`.
fn parent(lab: &Lab, name: &str) -> Option<Value> {
    let rows = lab::json(&mut lab.mcrun(["parents", "--json"]));
    rows.as_array().expect("an array").iter().find(|row| row["parent"] == name).cloned()
}

#[test]
fn parents_are_shown_with_their_limits_users_and_querier() {
    let lab = Lab::new(3);
    lab.ip("host", "link add docker0 type bridge");
    lab.ip("host", "link add port0 type veth peer name peer0");
    lab.ip("host", "link set port0 master docker0");
    let free = parent(&lab, "lan0").expect("it is listed");
    assert_eq!(free["users"], json!([]), "{free}");
    assert_eq!(free["limits"], json!([]), "{free}");
    assert_eq!(free["addresses"][0], "10.99.0.2/24", "{free}");
    assert_eq!((&free["up"], &free["carrier"]), (&json!(true), &json!(true)), "{free}");
    assert!(free["listening_s"].is_null() && free["querier"].is_null(), "{free}");
    assert_eq!(parent(&lab, "lo"), None);
    assert_eq!(parent(&lab, "port0"), None, "the bridge is the parent");
    let bridge = parent(&lab, "docker0").expect("it is listed");
    assert_eq!(bridge["kind"], "bridge");
    let limits = bridge["limits"].to_string();
    assert!(limits.contains("down: ") && limits.contains("leads to no LAN"), "{limits}");

    let container = lab.start("c", "10.99.0.11");
    lab.query();
    let used = wait_until("the querier is known", PATIENCE, || {
        parent(&lab, "lan0").filter(|row| row["querier"]["address"] == SWITCH.to_string())
    });
    let user = json!({
        "container": container.id, "name": container.name, "interface": "mc0",
    });
    assert_eq!(used["users"], json!([user]), "{used}");
    let text = run(&mut lab.mcrun(["parents"]));
    let line = text.lines().find(|line| line.starts_with("lan0 ")).expect("a line");
    assert!(
        line.contains("10.99.0.2/24") && line.contains(&format!("1      {SWITCH} v3")),
        "{text}"
    );
    lab.delete(&container);
    assert_eq!(parent(&lab, "lan0").expect("it is listed")["users"], json!([]));
}
