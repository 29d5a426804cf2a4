//! ARCHITECTURE.md says which module may use which: the imports of the sources keep to that, and no
//! import leads back to where it came from.

mod graph;
mod imports;
mod planted;
mod rules;
mod tables;

use std::fs;
use std::path::Path;

use imports::{Files, Tree};
use tables::Tables;

/// All source files of the crate.
fn sources(directory: &Path, name: &str, files: &mut Files) {
    for entry in fs::read_dir(directory).expect("a source directory") {
        let entry = entry.expect("a directory entry");
        let name = format!("{name}/{}", entry.file_name().to_str().expect("UTF-8"));
        if entry.file_type().expect("a type").is_dir() {
            sources(&entry.path(), &name, files);
        } else if name.ends_with(".rs") {
            files.insert(name, fs::read_to_string(entry.path()).expect("UTF-8"));
        }
    }
}

#[test]
fn the_sources_keep_to_the_tables() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Files::new();
    sources(&root.join("src"), "src", &mut files);
    // They belong to no module: each calls the library once.
    files.retain(|name, _| !name.starts_with("src/bin/"));
    let tree = Tree::read(&files);
    // An empty tree would keep to anything.
    assert!(tree.imports.len() > 500, "{} imports were read", tree.imports.len());
    let text = fs::read_to_string(root.join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let wrong = rules::violations(&Tables::parse(&text), &tree);
    let texts: Vec<String> = wrong.iter().map(ToString::to_string).collect();
    assert!(wrong.is_empty(), "{} against ARCHITECTURE.md:\n\n{}", wrong.len(), texts.join("\n\n"));
}
