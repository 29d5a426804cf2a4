//! The pages and their parts.

use std::fs;
use std::path::{Path, PathBuf};

/// A Markdown file of the source tree.
#[derive(Debug)]
pub(super) struct Page {
    /// From the root of the source tree.
    pub(super) path: String,
    pub(super) text: String,
}

/// A fenced block of a page.
#[derive(Debug)]
pub(super) struct Block {
    /// Line of the opening fence, from 1.
    pub(super) line: usize,
    /// The language, and what else the fence says: `sh`, `sh sender`.
    pub(super) info: String,
    pub(super) text: String,
}

pub(super) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All Markdown files of the root directory and of docs/.
pub(super) fn pages() -> Vec<Page> {
    fn collect(directory: &Path, deep: bool, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).expect("directory") {
            let path = entry.expect("entry").path();
            if path.is_dir() && deep {
                collect(&path, deep, found);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    collect(root(), false, &mut found);
    collect(&root().join("docs"), true, &mut found);
    found.sort();
    found
        .into_iter()
        .map(|path| Page {
            text: fs::read_to_string(&path).expect("text"),
            path: path.strip_prefix(root()).expect("below the root").display().to_string(),
        })
        .collect()
}

pub(super) fn page(path: &str) -> Page {
    let text = fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    Page { path: path.to_owned(), text }
}

impl Page {
    /// Its fenced blocks. A block in a list is indented as its fence is.
    pub(super) fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut open: Option<(usize, Block)> = None;
        for (number, line) in self.text.lines().enumerate() {
            let text = line.trim_start();
            match (text.strip_prefix("```"), &mut open) {
                (Some(info), None) => {
                    let info = info.trim().to_owned();
                    let block = Block { line: number + 1, info, text: String::new() };
                    open = Some((line.len() - text.len(), block));
                }
                (Some(_), Some(_)) => blocks.extend(open.take().map(|(_, block)| block)),
                (None, Some((indent, block))) => {
                    block.text.push_str(line.get(*indent..).unwrap_or_default());
                    block.text.push('\n');
                }
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{}: a block without an end", self.path);
        blocks
    }

    /// The text without its fenced blocks.
    pub(super) fn prose(&self) -> String {
        let parts = self.text.split("```").step_by(2);
        parts.collect::<Vec<_>>().join("\n")
    }

    /// Targets of its links.
    pub(super) fn links(&self) -> Vec<String> {
        let prose = self.prose();
        let targets = prose.split("](").skip(1);
        targets.filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())).collect()
    }

    /// What links to its headings end in after `#`, as GitHub makes it.
    pub(super) fn anchors(&self) -> Vec<String> {
        let prose = self.prose();
        let headings = prose.lines().filter(|line| line.starts_with('#'));
        headings
            .map(|line| {
                let text = line.trim_start_matches('#').trim().to_lowercase();
                let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
                text.chars().filter(kept).map(|c| if c == ' ' { '-' } else { c }).collect()
            })
            .collect()
    }
}

impl Block {
    pub(super) fn is_command(&self) -> bool {
        self.info.split_whitespace().next() == Some("sh")
    }

    pub(super) fn first_line(&self) -> &str {
        self.text.lines().next().unwrap_or_default()
    }
}
