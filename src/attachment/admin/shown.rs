//! What is in force of mcrun.toml: each setting, and whether the file says it.

use std::path::Path;

use serde_json::Value;

use crate::attachment::admin::file::{FILE_KEYS, Read, sections};
use crate::attachment::admin::limits::LIMITS;
use crate::attachment::admin::{AdminError, file, text};

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its section.
    pub section: &'static str,
    /// Its key.
    pub key: &'static str,
    /// The value in force, as the file would have it; null where there is no limit.
    pub value: Value,
    /// The line of the file that says it, from 1; none for a default.
    pub line: Option<usize>,
}

/// The settings in force, in the order of the sections, and whether there is a file.
///
/// # Errors
/// When the file is there and cannot be read or understood.
pub fn settings(path: &Path) -> Result<(Vec<Setting>, bool), AdminError> {
    let (read, exists) = match text(path)? {
        Some(text) => (file::read(&text, None), true),
        None => (Read::default(), false),
    };
    if let Some(problem) = read.problems.first() {
        let message = format!("line {}: {}", problem.line, problem.message);
        return Err(AdminError::Syntax { path: path.to_owned(), message });
    }
    let setting = |section: &'static str, key: &'static str, value: Value| {
        let line = read.lines.get(&(section.to_owned(), key.to_owned())).copied();
        Setting { section, key, value, line }
    };
    let mut settings = Vec::new();
    for section in sections() {
        if section == "attach" {
            settings.extend(
                LIMITS.iter().map(|limit| {
                    setting(section, limit.name, limit.allowed(&read.config).as_json())
                }),
            );
        }
        let keys = FILE_KEYS.iter().filter(|key| key.section == section);
        settings.extend(keys.map(|key| setting(section, key.name, (key.shown)(&read.config))));
    }
    Ok((settings, exists))
}
