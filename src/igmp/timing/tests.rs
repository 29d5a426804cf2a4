use crate::igmp::timing::*;

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn line_1_1_defaults_and_what_is_refused() {
    let timing = Timing::default();
    assert_eq!(timing.robustness(), 2);
    assert_eq!(timing.query_interval(), seconds(125));
    assert_eq!(timing.query_response_interval(), seconds(10));
    assert_eq!(Timing::new(2, seconds(125), seconds(10), seconds(1)), Ok(timing));
    let refused = |rv, qi, qri, lmqi| Timing::new(rv, qi, qri, lmqi).unwrap_err().to_string();
    assert_eq!(
        refused(0, seconds(125), seconds(10), seconds(1)),
        "robustness 0; it must be 1 to 7"
    );
    assert!(refused(8, seconds(125), seconds(10), seconds(1)).contains("robustness 8"));
    assert!(refused(2, seconds(10), seconds(10), seconds(1)).contains("below the query interval"));
    assert!(refused(2, seconds(0), seconds(0), seconds(1)).contains("query interval 0ns"));
    assert!(refused(2, seconds(31745), seconds(1), seconds(1)).contains("query interval"));
    assert!(refused(2, seconds(31744), seconds(3175), seconds(1)).contains("response interval"));
    assert!(refused(2, seconds(125), seconds(10), seconds(0)).contains("last member"));
}

#[test]
fn line_1_2_group_membership_interval() {
    assert_eq!(Timing::default().group_membership_interval(), seconds(270));
}

#[test]
fn line_1_3_other_querier_present_and_startup() {
    let timing = Timing::default();
    assert_eq!(timing.other_querier_present_interval(), seconds(255));
    assert_eq!(timing.startup_query_interval(), Duration::from_millis(31250));
    assert_eq!(timing.startup_query_count(), 2);
}

#[test]
fn line_1_4_last_member_times() {
    let timing = Timing::default();
    assert_eq!(timing.last_member_query_interval(), seconds(1));
    assert_eq!(timing.last_member_query_count(), 2);
    assert_eq!(timing.last_member_query_time(), seconds(2));
}

#[test]
fn line_1_5_older_host_present() {
    assert_eq!(Timing::default().older_host_present_interval(), seconds(260));
}
