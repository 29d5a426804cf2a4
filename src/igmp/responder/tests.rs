use super::*;

const G: [Ipv4Addr; 3] =
    [Ipv4Addr::new(239, 1, 1, 1), Ipv4Addr::new(239, 1, 1, 2), Ipv4Addr::new(232, 1, 1, 1)];
const S: [Ipv4Addr; 3] =
    [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 3)];
const MAX_RESP: Duration = Duration::from_secs(8);

fn memberships() -> Memberships {
    let on_link = Ipv4Addr::new(224, 0, 0, 251);
    [
        (G[0], SourceFilter::any()),
        (G[1], SourceFilter::exclude([S[0]])),
        (G[2], SourceFilter::include([S[1], S[2]])),
        (on_link, SourceFilter::any()),
    ]
    .into()
}

fn query(version: Version, group: Option<Ipv4Addr>, sources: &[Ipv4Addr]) -> Query {
    Query { version, group, sources: sources.to_vec(), ..Query::general(MAX_RESP) }
}

fn rec(kind: RecordType, group: Ipv4Addr, sources: &[Ipv4Addr]) -> GroupRecord {
    GroupRecord { kind, group, sources: sources.to_vec() }
}

/// Runs until nothing is due, and returns what was sent and when.
fn sent(responder: &mut Responder, start: Instant) -> Vec<(Duration, Message)> {
    let mut sent = Vec::new();
    while let Some(at) = responder.poll_timeout() {
        responder.handle_timeout(at, &memberships(), |m| sent.push((at - start, m.clone())));
    }
    sent
}

fn all() -> Message {
    Message::ReportV3(vec![
        rec(RecordType::IsIn, G[2], &[S[1], S[2]]),
        rec(RecordType::IsEx, G[0], &[]),
        rec(RecordType::IsEx, G[1], &[S[0]]),
    ])
}

#[test]
fn a_general_query_in_v3_is_answered_by_one_report_of_all_groups() {
    let now = Instant::now();
    let mut responder = Responder::new(now);
    let general = query(Version::V3, None, &[]);
    responder.receive_query(now, &general, &memberships(), || 0.5);
    responder.receive_query(now, &general, &memberships(), || 0.25);
    // RFC 9776 §5.2, rule 1: what the general answer tells soon is not told twice.
    responder.receive_query(now, &query(Version::V3, Some(G[0]), &[]), &memberships(), || 0.9);
    assert_eq!(sent(&mut responder, now), [(MAX_RESP / 32 * 7, all())]);
}

#[test]
fn a_specific_query_is_answered_for_what_it_asks() {
    let now = Instant::now();
    let answer = |group: Ipv4Addr, asked: &[&[Ipv4Addr]]| {
        let mut responder = Responder::new(now);
        for sources in asked {
            let query = query(Version::V3, Some(group), sources);
            responder.receive_query(now, &query, &memberships(), || 0.1);
        }
        let sent = sent(&mut responder, now).into_iter().map(|(_, message)| message);
        sent.collect::<Vec<_>>()
    };
    let one = |record| vec![Message::ReportV3(vec![record])];
    assert_eq!(answer(G[1], &[&[]]), one(rec(RecordType::IsEx, G[1], &[S[0]])));
    assert_eq!(answer(G[2], &[&[]]), one(rec(RecordType::IsIn, G[2], &[S[1], S[2]])));
    assert_eq!(answer(G[2], &[&[S[0], S[1]]]), one(rec(RecordType::IsIn, G[2], &[S[1]])));
    assert_eq!(answer(G[1], &[&[S[0], S[1]]]), one(rec(RecordType::IsIn, G[1], &[S[1]])));
    assert_eq!(answer(G[2], &[&[S[1]], &[S[2]]]), one(rec(RecordType::IsIn, G[2], &[S[1], S[2]])));
    assert_eq!(answer(G[1], &[&[S[1]], &[]]), one(rec(RecordType::IsEx, G[1], &[S[0]])));
    assert_eq!(answer(G[2], &[&[S[0]]]), []);
    for not_joined in [Ipv4Addr::new(239, 9, 9, 9), Ipv4Addr::new(224, 0, 0, 251)] {
        assert_eq!(answer(not_joined, &[&[]]), []);
    }
}

#[test]
fn an_older_querier_is_answered_in_its_version_while_it_is_present() {
    let now = Instant::now();
    let mut responder = Responder::new(now);
    let mut fraction = 0.0;
    let mut random = || {
        fraction += 0.25;
        fraction
    };
    let mut receive = |responder: &mut Responder, now, version, group| {
        responder.receive_query(now, &query(version, group, &[]), &memberships(), &mut random);
    };
    receive(&mut responder, now, Version::V2, None);
    let groups: Vec<_> =
        sent(&mut responder, now).into_iter().map(|(_, message)| message).collect();
    let reports = [G[2], G[0], G[1]].map(|group| Message::ReportV2 { group });
    assert_eq!(groups, reports, "at a time of their own each");
    receive(&mut responder, now, Version::V3, Some(G[1]));
    let second = sent(&mut responder, now);
    assert_eq!(second[0].1, Message::ReportV2 { group: G[1] });
    let later = now + OLDER_QUERIER_PRESENT;
    receive(&mut responder, later, Version::V3, None);
    assert_eq!(sent(&mut responder, later)[0].1, all());
    receive(&mut responder, later, Version::V1, Some(G[0]));
    assert_eq!(sent(&mut responder, later)[0].1, Message::ReportV1 { group: G[0] });
}

#[test]
fn answers_are_limited() {
    let now = Instant::now();
    let mut responder = Responder::new(now);
    let mut count = 0;
    for _ in 0..10 * BURST {
        let specific = query(Version::V3, Some(G[0]), &[]);
        responder.receive_query(now, &specific, &memberships(), || 0.0);
        responder.handle_timeout(now, &memberships(), |_| count += 1);
    }
    assert_eq!(count, BURST);
}
