//! The README shows what is shipped.

const README: &str = include_str!("../README.md");
const FRAGMENT: &str = include_str!("../hooks/config.json");

#[test]
fn the_runc_fragment_is_the_installed_one() {
    assert!(
        README.contains(&format!("```json\n{}```\n", FRAGMENT)),
        "README and hooks/config.json"
    );
}

#[test]
fn every_relative_link_leads_to_a_file() {
    let links: Vec<&str> = README
        .split("](")
        .skip(1)
        .map(|rest| rest.split(')').next().expect("split yields a first part"))
        .filter(|link| !link.contains("://") && !link.starts_with('#'))
        .collect();
    assert!(!links.is_empty());
    for link in links {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(link);
        assert!(path.exists(), "{link}");
    }
}
