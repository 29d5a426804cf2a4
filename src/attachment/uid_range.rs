//! The range of user ids from which proxies get theirs.

use std::str::FromStr;

use serde::Deserialize;

/// User ids from `first` to `last`, both included. In mcrun.toml: `"FIRST-LAST"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct UidRange {
    first: u32,
    last: u32,
}

impl UidRange {
    /// Number of ids; at least 1.
    pub fn size(self) -> u32 {
        // The last id is below u32::MAX, so this cannot overflow.
        self.last - self.first + 1
    }

    /// All ids once, in ascending order from the one at `position` (modulo the size) on, and from
    /// the first after the last.
    pub fn from_position(self, position: u64) -> impl Iterator<Item = u32> {
        let start = (position % u64::from(self.size())) as u32;
        (start..self.size()).chain(0..start).map(move |offset| self.first + offset)
    }
}

/// The range that systemd takes dynamic users from and distributions give to no account
/// (`DynamicUser=` in systemd.exec(5)).
impl Default for UidRange {
    fn default() -> Self {
        UidRange { first: 61184, last: 65519 }
    }
}

impl std::fmt::Display for UidRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl FromStr for UidRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('-').and_then(|(first, last)| {
            Some((first.parse::<u32>().ok()?, last.parse::<u32>().ok()?))
        });
        match parsed {
            // The kernel takes u32::MAX for "no change" (setresuid(2)).
            Some((first, last)) if 0 < first && first <= last && last < u32::MAX => {
                Ok(UidRange { first, last })
            }
            _ => Err(format!(
                "{text:?}: a range is FIRST-LAST, such as {}, and 0 is not part of it",
                UidRange::default()
            )),
        }
    }
}

impl TryFrom<String> for UidRange {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_two_numbers_and_never_root() {
        let range: UidRange = "200000-200003".parse().unwrap();
        assert_eq!((range.size(), range.to_string()), (4, "200000-200003".into()));
        assert_eq!("7-7".parse::<UidRange>().unwrap().size(), 1);
        for text in ["", "7", "7-", "-7", "0-7", "8-7", "1-4294967295", "1-2-3", "a-b"] {
            let error = text.parse::<UidRange>().unwrap_err();
            assert!(error.contains("FIRST-LAST"), "{error}");
        }
    }

    #[test]
    fn every_id_is_tried_once_from_any_position() {
        let range: UidRange = "10-13".parse().unwrap();
        for (position, expected) in
            [(0, [10, 11, 12, 13]), (2, [12, 13, 10, 11]), (7, [13, 10, 11, 12])]
        {
            assert_eq!(range.from_position(position).collect::<Vec<_>>(), expected);
        }
        assert_eq!(UidRange::default().from_position(u64::MAX).count(), 4336);
    }
}
