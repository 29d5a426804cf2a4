//! Names of containers.

use std::io::Read;

use crate::standalone::StandaloneError;

/// Beginning of the ids that mcrun generates.
pub const GENERATED_PREFIX: &str = "mcrun-";

/// Longest name in bytes: it is the host name too, unless one is given (`HOST_NAME_MAX`).
const MAX: usize = 64;

/// Checks a name by runc's rule for ids (letters, digits and `_+-.`), and by docker's that it
/// begins with a letter or digit.
///
/// # Errors
/// When it breaks the rule.
pub(super) fn check(name: &str) -> Result<(), StandaloneError> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-' | '.');
    let first = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !first || name.len() > MAX || !name.chars().all(good) {
        return Err(StandaloneError::new(format_args!(
            "--name {name:?}: a name is 1 to {MAX} of the characters a-z, A-Z, 0-9, '_', '+', '-' \
             and '.', and begins with a letter or digit"
        )));
    }
    Ok(())
}

/// A new id: `mcrun-` and 12 random hexadecimal digits.
///
/// # Errors
/// When the kernel's random numbers are not to be had.
pub(super) fn generate() -> Result<String, StandaloneError> {
    let mut bytes = [0; 6];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| StandaloneError::new(format_args!("cannot read /dev/urandom: {error}")))?;
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{GENERATED_PREFIX}{digits}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "A-b_c+d.e", "0", &"x".repeat(64)] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "-a", "_a", "a/b", "a b", "ä", "a\n", &"x".repeat(65)] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
        assert!(check(&generate().unwrap()).is_ok());
        assert_ne!(generate().unwrap(), generate().unwrap());
    }
}
