use std::io::BufRead;
use std::io::BufReader;

use super::*;
use crate::notice::Notice;
use crate::proxy::control::protocol::empty_answer;
use crate::sys::fd_passing::receive_with_fds;

/// A server, and the ends of its clients.
struct Bench {
    _dir: tempfile::TempDir,
    server: ControlServer,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        Bench { server: ControlServer::new(listener), now: Instant::now(), _dir: dir }
    }

    /// A client that is connected; `None` for its id where it was turned away.
    fn connect(&mut self) -> (Option<u32>, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        (self.server.add(ours, self.now).map(|(id, _)| id), theirs)
    }

    fn request(&mut self, line: &str) -> (u32, UnixStream, Option<(ControlRequest, Format)>) {
        let (id, mut client) = self.connect();
        let id = id.unwrap();
        client.write_all(line.as_bytes()).unwrap();
        let request = self.server.handle_ready(id);
        (id, client, request)
    }

    fn subscribe(&mut self) -> (u32, BufReader<UnixStream>) {
        let (id, client, request) = self.request(&ControlRequest::Subscribe.to_line());
        assert_eq!(request, Some((ControlRequest::Subscribe, Format::Json)));
        self.server.subscribe(id, b"{\"version\":1}\n".to_vec());
        (id, BufReader::new(client))
    }

    fn publish(&mut self, time_ms: u64) {
        let event = Event::Notice(Notice::InterfaceGone { interface: "mc0".into() });
        self.server.publish(self.now, &TimedEvent { time_ms, event });
    }
}

fn all(mut client: UnixStream) -> String {
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    text
}

fn line(client: &mut BufReader<UnixStream>) -> String {
    let mut line = String::new();
    client.read_line(&mut line).unwrap();
    line
}

fn event(client: &mut BufReader<UnixStream>) -> TimedEvent {
    serde_json::from_str(&line(client)).unwrap()
}

#[test]
fn a_request_in_pieces_is_answered_and_the_connection_ends() {
    let mut bench = Bench::new();
    let (id, mut client) = bench.connect();
    let id = id.unwrap();
    for piece in ["sta", "tu"] {
        client.write_all(piece.as_bytes()).unwrap();
        assert_eq!(bench.server.handle_ready(id), None);
    }
    client.write_all(b"s\n").unwrap();
    assert_eq!(bench.server.handle_ready(id), Some((ControlRequest::Status, Format::Word)));
    assert_eq!(bench.server.handle_ready(id), None, "until it is answered");
    bench.server.answer(id, empty_answer(Format::Word));
    assert_eq!(all(client), "{}");
}

#[test]
fn a_client_without_an_end_and_one_that_ends_are_closed() {
    let mut bench = Bench::new();
    let (_, client, request) = bench.request(&"x".repeat(64));
    assert_eq!((request, all(client).as_str()), (None, ""));
    let (id, mut client, request) = bench.request(&format!("{{{}", " ".repeat(1023)));
    assert_eq!(request, None);
    assert_eq!(client.read(&mut [0]).unwrap_or(0), 0);
    assert_eq!(bench.server.handle_ready(id), None);
    let (id, client, _) = bench.request("stat");
    drop(client);
    assert_eq!(bench.server.handle_ready(id), None);
    assert!(bench.server.clients.is_empty());
}

#[test]
fn a_ninth_client_is_turned_away_and_a_silent_one_closed_in_time() {
    let mut bench = Bench::new();
    let clients: Vec<_> = (0..MAX_CLIENTS).map(|_| bench.connect()).collect();
    assert!(clients.iter().all(|(id, _)| id.is_some()));
    let (id, ninth) = bench.connect();
    assert_eq!((id, all(ninth).as_str()), (None, ""));
    let limit = bench.server.poll_timeout().unwrap();
    assert_eq!(limit, bench.now + CLIENT_TIME_LIMIT);
    bench.server.handle_timeout(limit - Duration::from_millis(1));
    assert_eq!(bench.server.clients.len(), MAX_CLIENTS);
    bench.server.handle_timeout(limit);
    assert!(bench.server.clients.is_empty() && bench.server.poll_timeout().is_none());
}

#[test]
fn an_answer_that_does_not_fit_is_sent_as_the_client_reads() {
    let mut bench = Bench::new();
    let (id, client, _) = bench.request("status\n");
    let answer = vec![b'a'; 4 << 20];
    bench.server.answer(id, answer.clone());
    assert_eq!(bench.server.clients.len(), 1);
    let reader = std::thread::spawn(move || all(client));
    while !bench.server.clients.is_empty() {
        assert_eq!(bench.server.handle_ready(id), None);
        std::thread::yield_now();
    }
    assert_eq!(reader.join().unwrap().len(), answer.len());
}

#[test]
fn descriptors_come_with_the_first_byte() {
    let mut bench = Bench::new();
    let (id, client, _) = bench.request("namespace\n");
    let (reader, writer) = nix::unistd::pipe().unwrap();
    let sent = bench.server.answer_with_descriptors(id, b"n".to_vec(), &[writer.as_fd()]);
    drop(writer);
    assert!(sent);
    let (length, mut descriptors) = receive_with_fds(&client, &mut [0; 8], 1).unwrap();
    assert_eq!(length, 1);
    nix::unistd::write(descriptors.pop().unwrap(), b"x").unwrap();
    assert_eq!(nix::unistd::read(&reader, &mut [0; 4]).unwrap(), 1);
    assert_eq!(all(client), "");

    let (id, client, _) = bench.request("handover\n");
    drop(client);
    assert!(!bench.server.answer_with_descriptors(id, b"n[]".to_vec(), &[reader.as_fd()]));
    assert!(bench.server.clients.is_empty());
}

#[test]
fn subscribers_get_each_event_and_have_no_time_limit() {
    let mut bench = Bench::new();
    let (_, mut first) = bench.subscribe();
    assert!(bench.server.has_subscribers());
    bench.publish(1);
    let (_, mut second) = bench.subscribe();
    bench.publish(2);
    assert_eq!(bench.server.poll_timeout(), None);
    assert_eq!(line(&mut first), "{\"version\":1}\n");
    assert_eq!([event(&mut first).time_ms, event(&mut first).time_ms], [1, 2]);
    assert_eq!(line(&mut second), "{\"version\":1}\n");
    assert_eq!(event(&mut second).time_ms, 2);
}

#[test]
fn a_subscriber_that_does_not_read_is_told_how_much_it_lost() {
    let mut bench = Bench::new();
    let (id, mut client) = bench.subscribe();
    let mut published = 0;
    while bench.server.has_subscribers() {
        published += 1;
        bench.publish(published);
        assert!(published < 100_000, "the queue has no bound");
    }
    let queued = bench.server.clients[0].queue.unsent().len();
    assert!(queued < 1000, "{queued} bytes stay for a client that does not read");
    let deadline = bench.now + CLIENT_TIME_LIMIT;
    assert_eq!(bench.server.poll_timeout(), Some(deadline));

    assert_eq!(line(&mut client), "{\"version\":1}\n");
    let mut received = 0;
    let lost = loop {
        assert_eq!(bench.server.handle_ready(id), None);
        let TimedEvent { time_ms, event } = event(&mut client);
        if let Event::Lost { events } = event {
            break events;
        }
        received += 1;
        assert_eq!(time_ms, received);
    };
    assert_eq!(received + lost, published);
    assert_eq!(line(&mut client), "", "the connection is closed behind the last line");
}

#[test]
fn the_number_of_subscribers_is_bounded_and_leaves_room_for_clients() {
    let mut bench = Bench::new();
    let subscribers: Vec<_> = (0..MAX_SUBSCRIBERS).map(|_| bench.subscribe()).collect();
    let (id, client, _) = bench.request(&ControlRequest::Subscribe.to_line());
    bench.server.subscribe(id, Vec::new());
    let refusal = all(client);
    assert!(refusal.contains("\"code\":\"too-many-subscribers\""), "{refusal}");
    let clients: Vec<_> = (0..MAX_CLIENTS).map(|_| bench.connect()).collect();
    assert!(clients.iter().all(|(id, _)| id.is_some()));
    assert_eq!(bench.server.clients.len(), MAX_SUBSCRIBERS + MAX_CLIENTS);
    for (id, subscriber) in subscribers {
        drop(subscriber);
        bench.server.handle_ready(id);
    }
    assert!(!bench.server.has_subscribers());
}

#[test]
fn a_subscriber_that_talks_is_closed() {
    let mut bench = Bench::new();
    let (id, client) = bench.subscribe();
    client.get_ref().write_all(b"status\n").unwrap();
    bench.server.handle_ready(id);
    assert!(!bench.server.has_subscribers());
}
