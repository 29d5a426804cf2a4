//! Arbitrary text as attachments: nothing panics, errors are one line, and what is accepted can be
//! planned and kept in a record.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mcrun::attachment::{Attachment, AdminConfig, MAX_ATTACHMENTS, parse_list};
use mcrun::link::facts::Facts;
use mcrun::link::plan::plan;

fuzz_target!(|text: &str| {
    match parse_list(text) {
        Ok(attachments) => {
            assert!(attachments.len() <= MAX_ATTACHMENTS);
            let json = serde_json::to_string(&attachments).expect("a record is JSON");
            let again: Vec<Attachment> = serde_json::from_str(&json).expect("and is read again");
            assert_eq!(again, attachments);
            for attachment in &attachments {
                let (_, refusals) = AdminConfig::default().restrict(attachment);
                refusals.iter().for_each(|refusal| one_line(refusal));
            }
            // No link exists in these facts, so that each is refused, in one line.
            if let Err(error) = plan(&attachments, &Facts::default()) {
                one_line(&error.to_string());
            }
        }
        Err(error) => one_line(&error.to_string()),
    }
});

fn one_line(message: &str) {
    assert!(!message.is_empty() && !message.contains('\n'), "{message:?}");
}
