//! What waits to be sent to one client: lines, and a bound on their bytes.

/// Bytes that have not been sent. Lines go in, bytes go out.
#[derive(Debug, Default)]
pub(super) struct SendQueue {
    bytes: Vec<u8>,
    /// Bytes at the beginning of `bytes` that have been sent.
    sent: usize,
    /// Most bytes that may wait when an event is added.
    limit: usize,
}

impl SendQueue {
    /// A queue that begins with an answer, of any length, and takes events while no more than
    /// `limit` bytes besides the answer wait.
    pub(super) fn new(answer: Vec<u8>, limit: usize) -> Self {
        let limit = answer.len() + limit;
        SendQueue { bytes: answer, sent: 0, limit }
    }

    /// What is to be sent next.
    pub(super) fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// So many bytes of [`unsent`](Self::unsent) have been sent.
    pub(super) fn advance(&mut self, sent: usize) {
        self.sent += sent;
        if self.sent >= self.bytes.len() {
            // A client may wait for months, and the answer was long.
            self.bytes = Vec::new();
            self.sent = 0;
        }
    }

    /// Adds a line, with its line end; `false` if there is no room for it.
    pub(super) fn push_event(&mut self, line: &[u8]) -> bool {
        let waiting = self.unsent().len();
        if waiting + line.len() > self.limit {
            return false;
        }
        if self.sent > self.limit {
            self.bytes.drain(..self.sent - 1);
            self.sent = 1;
        }
        self.bytes.extend_from_slice(line);
        true
    }

    /// Drops every line of which no byte has been sent, and returns their number.
    pub(super) fn drop_unsent_lines(&mut self) -> u64 {
        let begun = self.sent > 0 && self.bytes[self.sent - 1] != b'\n';
        let rest = match begun {
            true => self.unsent().iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1),
            false => 0,
        };
        let dropped = self.bytes.split_off(self.sent + rest);
        dropped.iter().filter(|byte| **byte == b'\n').count() as u64
    }

    /// Adds the last line, whatever waits.
    pub(super) fn push_last(&mut self, line: &[u8]) {
        self.bytes.extend_from_slice(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends so many bytes, and gives what is left.
    fn send(queue: &mut SendQueue, bytes: usize) -> String {
        queue.advance(bytes);
        String::from_utf8(queue.unsent().to_vec()).unwrap()
    }

    #[test]
    fn lines_come_out_in_order() {
        let mut queue = SendQueue::new(b"answer\n".to_vec(), 8);
        assert!(queue.push_event(b"one\n"));
        assert!(queue.push_event(b"two\n"));
        assert_eq!(send(&mut queue, 9), "e\ntwo\n");
        assert_eq!(send(&mut queue, 6), "");
        assert!(queue.push_event(b"three\n"));
        assert_eq!(send(&mut queue, 0), "three\n");
    }

    #[test]
    fn a_line_beyond_the_limit_is_refused_however_long_the_answer_was() {
        let mut queue = SendQueue::new(vec![b'a'; 100], 8);
        assert!(queue.push_event(b"one\n"));
        assert!(queue.push_event(b"two\n"));
        assert!(!queue.push_event(b"three\n"));
    }

    #[test]
    fn a_line_that_is_partly_sent_stays_whole() {
        let mut queue = SendQueue::new(b"answer\n".to_vec(), 100);
        for line in ["one\n", "two\n", "three\n"] {
            assert!(queue.push_event(line.as_bytes()));
        }
        queue.advance("answer\no".len());
        assert_eq!(queue.drop_unsent_lines(), 2);
        queue.push_last(b"last\n");
        assert_eq!(send(&mut queue, 0), "ne\nlast\n");

        let mut queue = SendQueue::new(b"answer\n".to_vec(), 100);
        assert!(queue.push_event(b"one\n"));
        queue.advance("answer\n".len());
        assert_eq!(queue.drop_unsent_lines(), 1);
        assert_eq!(send(&mut queue, 0), "");
    }

    #[test]
    fn sent_bytes_do_not_pile_up() {
        let mut queue = SendQueue::new(b"a\n".to_vec(), 10);
        for _ in 0..1000 {
            assert!(queue.push_event(b"1234\n"));
            // Never all of it.
            queue.advance(queue.unsent().len() - 1);
        }
        assert!(queue.bytes.len() < 40, "{}", queue.bytes.len());
    }
}
