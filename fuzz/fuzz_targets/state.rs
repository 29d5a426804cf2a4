//! Arbitrary bytes as what a runtime hands to a hook: nothing panics, errors are one line, and an
//! accepted id can name a directory.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use mcrun::oci::ContainerState;

fuzz_target!(|data: &[u8]| {
    match ContainerState::parse(data) {
        Ok(state) => {
            let id = Path::new(state.id.as_str());
            assert_eq!(Path::new("/base").join(id).parent(), Some(Path::new("/base")));
            assert!(state.id.as_str().len() <= 128 && !state.id.as_str().starts_with('.'));
            assert!(state.pid.is_none_or(|pid| pid > 0));
        }
        Err(error) => {
            let message = error.to_string();
            assert!(!message.is_empty() && !message.contains('\n'), "{message:?}");
        }
    }
});
