//! Crates of a few lines with something wrong in them: the rules find it.

use super::imports::{Files, Tree};
use super::rules;
use super::tables::Tables;

/// A page with these rows for modules, and the folders `config` and `control` for `proxy`.
fn page(modules: &[(&str, &str)]) -> Tables {
    let mut text = "\n## The modules\n\n| module | holds | may use |\n|---|---|---|\n".to_owned();
    for (name, may_use) in modules {
        text += &format!("| `{name}` | things | {may_use} |\n");
    }
    text += "\nInside `proxy`:\n\n| folder | holds | may use |\n|---|---|---|\n\
             | `config` | a task | |\n| `control` | a socket | all of the above |\n\n## Glossary\n";
    Tables::parse(&text)
}

/// Modules `a`, `b` and `proxy`, and these files instead of theirs or beside them.
fn tree(files: &[(&str, &str)]) -> Tree {
    let plain = [
        ("src/lib.rs", "pub mod a;\npub mod b;\npub mod proxy;"),
        ("src/a/mod.rs", "pub struct A;"),
        ("src/b.rs", "pub struct B;\npub fn make() -> B { B }"),
        ("src/proxy/mod.rs", "pub mod config;\npub mod control;"),
        ("src/proxy/config.rs", "pub struct Config;"),
        ("src/proxy/control.rs", "use super::config::Config;"),
    ];
    let all = plain.iter().chain(files);
    let files: Files = all.map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    Tree::read(&files)
}

/// What the rules say of a crate, for a page where `b` may use `a`.
fn told(files: &[(&str, &str)]) -> Vec<String> {
    let page = page(&[("a", "nothing"), ("b", "`a`"), ("proxy", "`a` `b`")]);
    rules::violations(&page, &tree(files)).iter().map(ToString::to_string).collect()
}

#[test]
fn a_crate_that_keeps_to_the_page_has_no_violation() {
    assert_eq!(told(&[("src/b.rs", "use crate::a::A;\npub struct B;")]), [""; 0]);
}

#[test]
fn an_arrow_that_the_table_does_not_allow_is_told_with_file_line_import_and_row() {
    let told = told(&[("src/a/mod.rs", "\nuse crate::b::{self, B};")]);
    assert_eq!(
        told,
        ["src/a/mod.rs uses `b`, and the row of `a` does not allow it\n    \
          src/a/mod.rs:2: crate::b\n    src/a/mod.rs:2: crate::b::B\n    \
          | `a` | things | nothing |"]
    );
}

#[test]
fn an_arrow_is_found_in_whatever_way_it_is_written() {
    for text in [
        "fn f() -> crate::b::B { todo!() }",
        "fn f() { let _ = crate::b::make(); }",
        "fn f() { println!(\"{:?}\", crate::b::make()); }",
        "mod inner { use super::super::b; }",
        "use super::b::B as Other;",
        "#[serde(with = \"crate::b\")] struct S;",
        "#[cfg(not(test))] use crate::b::B;",
        "use crate::b::*;",
    ] {
        let told = told(&[("src/a/mod.rs", text)]);
        assert!(told.len() == 1 && told[0].contains("src/a/mod.rs uses `b`"), "{text}: {told:?}");
    }
}

#[test]
fn tests_and_comments_are_left_out() {
    let text = "//! crate::b\n/// [`crate::b`]\n#[cfg(test)] use crate::b;\n\
                #[cfg(test)] mod tests;\n#[cfg(test)] mod inner { use crate::b::B; }\n\
                pub struct A;\nimpl A { #[cfg(test)] fn f() -> crate::b::B { crate::b::make() } }\n";
    let tests = "use crate::b::B;";
    let told = told(&[("src/a/mod.rs", text), ("src/a/tests.rs", tests)]);
    assert_eq!(told, [""; 0]);
}

#[test]
fn a_circle_of_modules_is_told_as_well_as_the_table_that_allows_it() {
    let files =
        [("src/a/mod.rs", "use crate::b::B;\npub struct A;"), ("src/b.rs", "use crate::a::A;")];
    let page = page(&[("a", "`b`"), ("b", "`a`"), ("proxy", "nothing")]);
    let told = rules::violations(&page, &tree(&files));
    let told: Vec<String> = told.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "the table allows a circle of `a`, `b`\n    | `a` | things | `b` |\n    \
             | `b` | things | `a` |",
            "a circle of modules: a -> b\n    src/a/mod.rs:1: crate::b::B -> b\n    \
             src/b.rs:1: crate::a::A -> a",
        ]
    );
}

#[test]
fn a_circle_of_files_is_told_also_where_it_goes_by_a_re_export() {
    let told = told(&[
        ("src/a/mod.rs", "mod x;\nmod y;\npub use y::Y;"),
        ("src/a/x.rs", "use crate::a::Y;\npub struct X;"),
        ("src/a/y.rs", "pub struct Y(super::x::X);"),
    ]);
    assert_eq!(
        told,
        ["a circle of files: src/a/x.rs -> src/a/y.rs\n    \
          src/a/x.rs:1: crate::a::Y -> src/a/y.rs\n    \
          src/a/y.rs:1: crate::a::x::X -> src/a/x.rs"]
    );
}

#[test]
fn a_file_may_be_a_part_of_its_parent_unless_that_only_shows_what_others_may_use() {
    let files = [
        ("src/a/mod.rs", "mod x;\npub struct A(x::X);"),
        ("src/a/x.rs", "impl super::A {}\npub struct X;"),
    ];
    assert_eq!(told(&files), [""; 0]);
    let told = told(&[
        ("src/proxy/mod.rs", "mod config;\nmod control;\npub struct Proxy(config::Config);"),
        ("src/proxy/config.rs", "pub struct Config(Box<crate::proxy::Proxy>);"),
    ]);
    let circle = "a circle of files: src/proxy/config.rs -> src/proxy/mod.rs\n";
    assert!(told.len() == 1 && told[0].starts_with(circle), "{told:?}");
}

#[test]
fn a_module_without_a_row_and_a_row_without_a_module_are_told() {
    let page = page(&[("a", "nothing"), ("c", "`a` `d`"), ("proxy", "nothing")]);
    let told = rules::violations(&page, &tree(&[]));
    let told: Vec<&str> = told.iter().map(|violation| violation.name.as_str()).collect();
    assert_eq!(
        told,
        [
            "module `b` has no row",
            "module `c` has a row, and no source file",
            "the row of `c` allows `d`, which has no row",
        ]
    );
}

#[test]
fn the_folders_of_proxy_have_a_table_of_their_own() {
    let told = told(&[
        ("src/proxy/config.rs", "use crate::proxy::control::run;"),
        ("src/proxy/control.rs", "pub fn run() {}"),
        ("src/proxy/extra/mod.rs", ""),
    ]);
    assert_eq!(
        told,
        [
            "part of `proxy` `extra` has no row\n    add it to the table",
            "src/proxy/config.rs uses `control`, and the row of `config` does not allow it\n    \
             src/proxy/config.rs:1: crate::proxy::control::run\n    | `config` | a task | |",
        ]
    );
}
