//! The mark of links of the host that mcrun makes: their alias. It names the state directory whose
//! records tell of the link, so that an mcrun with another state directory leaves the link alone.

use std::path::{Path, PathBuf};

use crate::net::messages::Link;
use crate::primitives::printable;

/// Begins each mark. Earlier versions wrote nothing else.
const BEGINNING: &str = "mcrun";
/// The state directory that counts as that of links which earlier versions have made.
const DEFAULT: &str = "/run/mcrun";
/// Characters of a path in a mark: an alias has at most 255 bytes (`IFALIASZ` in linux/if.h).
const LONGEST: usize = 240;

/// A mark. Removing it from a link makes the link the administrator's: mcrun does not delete it any
/// more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    alias: String,
    is_default: bool,
}

impl Mark {
    /// That of a state directory, by whatever way the path leads there.
    pub fn of(directory: &Path) -> Self {
        let path = real_path(directory);
        let shown = printable(&path.to_string_lossy(), usize::MAX);
        // The end tells long paths apart.
        let from = shown.len().saturating_sub(LONGEST);
        let end = (from..=shown.len()).find_map(|at| shown.get(at..)).unwrap_or_default();
        Mark { alias: format!("{BEGINNING} {end}"), is_default: path == Path::new(DEFAULT) }
    }

    /// The alias of what is made.
    pub fn alias(&self) -> &str {
        &self.alias
    }

    /// Whether a link has this mark, or that of an earlier version, where this is the usual state
    /// directory.
    pub fn is_on(&self, link: &Link) -> bool {
        let alias = link.alias.as_deref();
        alias == Some(&self.alias) || (self.is_default && alias == Some(BEGINNING))
    }

    /// The same for a link that a record names: an earlier version's mark names no directory.
    pub fn is_on_recorded(&self, link: &Link) -> bool {
        self.is_on(link) || link.alias.as_deref() == Some(BEGINNING)
    }
}

/// Whether a link has a mark, whatever the state directory.
pub fn is_marked(link: &Link) -> bool {
    let behind = link.alias.as_deref().and_then(|alias| alias.strip_prefix(BEGINNING));
    behind.is_some_and(|path| path.is_empty() || path.starts_with(" /"))
}

/// The path of a directory without symbolic links, also where the last component is not there.
fn real_path(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    if let Ok(real) = absolute.canonicalize() {
        return real;
    }
    match (absolute.parent().and_then(|parent| parent.canonicalize().ok()), absolute.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => absolute,
    }
}

impl Default for Mark {
    fn default() -> Self {
        Mark { alias: format!("{BEGINNING} {DEFAULT}"), is_default: true }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn link(alias: &str) -> Link {
        Link { alias: Some(alias.into()), ..Link::default() }
    }

    #[test]
    fn a_mark_is_one_state_directorys_and_that_of_earlier_versions_the_usual_ones() {
        let base = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(base.path()).unwrap();
        fs::create_dir(real.join("state")).unwrap();
        symlink("state", real.join("by-link")).unwrap();
        let own = Mark::of(&real.join("state"));
        assert_eq!(own.alias(), format!("mcrun {}/state", real.display()));
        assert_eq!(Mark::of(&real.join("by-link")), own);
        assert_ne!(Mark::of(&real.join("new")), own);
        let usual = Mark::of(Path::new("/run/mcrun"));
        let (old, none) = (link("mcrun"), Link::default());
        for (mark, alias, expected) in [
            (&own, &link(own.alias()), [true, true, true]),
            (&own, &link(usual.alias()), [false, false, true]),
            (&own, &old, [false, true, true]),
            (&usual, &old, [true, true, true]),
            (&usual, &link("mcrun /run/mcrun"), [true, true, true]),
            (&own, &link("mcrun's uplink"), [false; 3]),
            (&own, &none, [false; 3]),
        ] {
            let found = [mark.is_on(alias), mark.is_on_recorded(alias), is_marked(alias)];
            assert_eq!(found, expected, "{mark:?} {alias:?}");
        }
    }

    #[test]
    fn a_long_path_fits_and_is_told_from_another_by_its_end() {
        let long = |end: &str| Mark::of(Path::new(&format!("/{}/{end}", "\u{e4}/".repeat(300))));
        assert!(long("a").alias().len() < 256, "{}", long("a").alias());
        assert!(long("a").alias().ends_with("/a"));
        assert_ne!(long("a"), long("b"));
    }
}
