//! What mcrun is built from: licences that go with MIT OR Apache-2.0, and crates.io as the only
//! source.

use std::process::Command;

use serde_json::Value;

/// SPDX identifiers that may be linked into mcrun.
const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo metadata starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    metadata["packages"].as_array().expect("a list of packages").clone()
}

/// Whether the SPDX expression can be met by allowed licences alone.
///
/// Recursive descent over `OR` below `AND` below parentheses (SPDX 2.3, annex D); `/` is what
/// old crates wrote for `OR`.
fn allowed(expression: &str) -> Result<bool, String> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = &tokens[..];
    let verdict = any_of(&mut rest)?;
    if rest.is_empty() { Ok(verdict) } else { Err(format!("{rest:?} left over")) }
}

fn any_of(tokens: &mut &[&str]) -> Result<bool, String> {
    let mut verdict = all_of(tokens)?;
    while let Some((&"OR", rest)) = tokens.split_first() {
        *tokens = rest;
        verdict |= all_of(tokens)?;
    }
    Ok(verdict)
}

fn all_of(tokens: &mut &[&str]) -> Result<bool, String> {
    let mut verdict = licence(tokens)?;
    while let Some((&"AND", rest)) = tokens.split_first() {
        *tokens = rest;
        verdict &= licence(tokens)?;
    }
    Ok(verdict)
}

fn licence(tokens: &mut &[&str]) -> Result<bool, String> {
    match **tokens {
        ["(", ref rest @ ..] => {
            *tokens = rest;
            let verdict = any_of(tokens)?;
            let Some((&")", rest)) = tokens.split_first() else {
                return Err("no closing parenthesis".into());
            };
            *tokens = rest;
            Ok(verdict)
        }
        [name, "WITH", exception, ref rest @ ..] => {
            *tokens = rest;
            Ok(ALLOWED.contains(&format!("{name} WITH {exception}").as_str()))
        }
        [name, ref rest @ ..] if !matches!(name, "AND" | "OR" | "WITH" | ")") => {
            *tokens = rest;
            Ok(ALLOWED.contains(&name))
        }
        _ => Err(format!("a licence expected at {tokens:?}")),
    }
}

#[test]
fn every_dependency_has_a_licence_that_goes_with_ours() {
    let mut wrong = Vec::new();
    for package in packages() {
        let name = package["name"].as_str().expect("a name");
        match package["license"].as_str().map(allowed) {
            Some(Ok(true)) => {}
            other => wrong.push(format!("{name}: {:?} ({other:?})", package["license"])),
        }
    }
    assert!(wrong.is_empty(), "licences to look at:\n{}", wrong.join("\n"));
}

#[test]
fn every_dependency_comes_from_crates_io() {
    let packages = packages();
    assert!(packages.len() > 1, "cargo metadata lists the dependencies");
    for package in packages {
        match package["source"].as_str() {
            Some(source) => assert_eq!(source, CRATES_IO, "{}", package["name"]),
            None => assert_eq!(package["name"], "mcrun", "only mcrun is a path package"),
        }
    }
}

#[test]
fn the_licence_check_refuses_copyleft_and_nonsense() {
    for good in [
        "MIT",
        "MIT/Apache-2.0",
        "GPL-3.0 OR MIT",
        "(MIT OR Apache-2.0) AND Unicode-3.0",
        "Apache-2.0 WITH LLVM-exception OR GPL-2.0",
    ] {
        assert_eq!(allowed(good), Ok(true), "{good}");
    }
    for bad in ["GPL-3.0-only", "MIT AND GPL-2.0", "(MIT OR ISC) AND LGPL-2.1", "Proprietary"] {
        assert_eq!(allowed(bad), Ok(false), "{bad}");
    }
    for nonsense in ["", "MIT OR", "(MIT", "MIT ISC", "AND"] {
        assert!(allowed(nonsense).is_err(), "{nonsense}");
    }
}
