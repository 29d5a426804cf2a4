//! Requests and answers of the control socket as text: `docs/control-protocol.md`.
//!
//! Two formats exist. In version 1 a request is one line of JSON, and so is the answer. In the
//! format before it a request is one word, and the answer is not a line: programs from before
//! version 1 still use it, and the client falls back to it when a proxy does not know version 1.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::proxy::control::status::ProxyStatus;

/// The version of the protocol that this program speaks.
pub(crate) const VERSION: u32 = 1;
/// Longest request of one word in bytes, line end included.
pub(crate) const MAX_WORD: usize = 64;
/// Longest request as JSON in bytes, line end included.
pub(crate) const MAX_LINE: usize = 1024;

/// What a client asks a proxy for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ControlRequest {
    /// The [`ProxyStatus`].
    Status,
    /// Query the container for all memberships. A proxy that still waits to take over relays from
    /// another one starts to relay.
    Requery,
    /// A descriptor of the container's network namespace. Its links can be deleted there when the
    /// container's processes have ended.
    Namespace,
    /// Take over the relays of the proxy that this one replaces, by a `handover` request to it.
    Takeover,
    /// The sockets and the state of the relays. This proxy relays nothing from then on.
    Handover,
    /// What counts the streams that arrive. It goes on to count for both proxies.
    Count,
    /// Descriptors of all that must outlive the proxy, and the status; then what is added, as it is
    /// added. On the same connection the client may ask for the status again and again.
    Hold,
    /// The status, and then each [`Event`](crate::proxy::control::event::Event) as it happens.
    Subscribe,
}

/// What a keeper writes on the connection of a `hold` to ask whether the proxy answers. The answer
/// has the status only if the proxy has done anything since the last one. A proxy that does not
/// know this question takes every line for one for the status.
pub(crate) const ALIVE_QUESTION: &str = "alive\n";

/// A question of a keeper on the connection of its `hold`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HoldQuestion {
    /// Whether the proxy answers: [`ALIVE_QUESTION`].
    Alive,
    /// Any other line: the status.
    Status,
}

impl ControlRequest {
    /// The word of this request, which is its name in JSON too.
    pub(crate) fn word(self) -> &'static str {
        match self {
            ControlRequest::Status => "status",
            ControlRequest::Requery => "requery",
            ControlRequest::Namespace => "namespace",
            ControlRequest::Takeover => "takeover",
            ControlRequest::Handover => "handover",
            ControlRequest::Count => "count",
            ControlRequest::Hold => "hold",
            ControlRequest::Subscribe => "subscribe",
        }
    }

    /// The request as a line of version 1. It is shorter than [`MAX_WORD`]: a proxy from before
    /// version 1 takes it for an unknown word and says so.
    pub(crate) fn to_line(self) -> String {
        format!("{{\"version\":{VERSION},\"request\":\"{}\"}}\n", self.word())
    }

    /// The request in the format before version 1; `None` if that has no such request.
    pub(crate) fn to_word_line(self) -> Option<String> {
        use ControlRequest::{Count, Hold, Subscribe};
        let is_new = matches!(self, Subscribe | Hold | Count);
        (!is_new).then(|| format!("{}\n", self.word()))
    }
}

/// The format of a request, and so of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// One word, from before version 1.
    Word,
    /// One line of JSON.
    Json,
}

/// What the bytes received from a client amount to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// The line is not complete.
    Incomplete,
    /// The line is too long: the connection is closed without an answer.
    TooLong,
    /// A request.
    Request(ControlRequest, Format),
    /// A line that is not a request; this is the answer.
    Refused(Vec<u8>),
}

/// Reads the request at the beginning of the bytes received so far. What follows the first line is
/// ignored.
pub(crate) fn parse_request(received: &[u8]) -> Received {
    let json = received.first() == Some(&b'{');
    let limit = if json { MAX_LINE } else { MAX_WORD };
    let Some(end) = received.iter().take(limit).position(|byte| *byte == b'\n') else {
        return if received.len() < limit { Received::Incomplete } else { Received::TooLong };
    };
    let line = &received[..end];
    if json { parse_json(line) } else { parse_word(line) }
}

fn parse_word(line: &[u8]) -> Received {
    let request = match line {
        b"status" => ControlRequest::Status,
        b"requery" => ControlRequest::Requery,
        b"takeover" => ControlRequest::Takeover,
        b"handover" => ControlRequest::Handover,
        b"namespace" => ControlRequest::Namespace,
        line => {
            let line: String = String::from_utf8_lossy(line).chars().take(32).collect();
            let text = format!(
                "{UNKNOWN_WORD} {line:?}; there are status, requery, namespace, takeover and handover"
            );
            return Received::Refused(
                serde_json::json!({ "error": text }).to_string().into_bytes(),
            );
        }
    };
    Received::Request(request, Format::Word)
}

fn parse_json(line: &[u8]) -> Received {
    #[derive(Deserialize)]
    struct Envelope {
        version: u32,
        request: String,
    }
    let refuse = |code, message: String| Received::Refused(error_answer(code, &message));
    let Envelope { version, request } = match serde_json::from_slice(line) {
        Ok(envelope) => envelope,
        Err(error) => {
            let message = format!(
                "the request is not an object with a number `version` and a string `request`: {error}"
            );
            return refuse(ErrorCode::MalformedRequest, message);
        }
    };
    if version != VERSION {
        let message = format!("the request has version {version}; this proxy knows {VERSION}");
        return refuse(ErrorCode::UnsupportedVersion, message);
    }
    match serde_json::from_value(request.as_str().into()) {
        Ok(request) => Received::Request(request, Format::Json),
        Err(_) => {
            let request: String = request.chars().take(32).collect();
            let message = format!(
                "unknown request {request:?}; there are status, requery, namespace, takeover, handover, \
                 count, hold and subscribe"
            );
            refuse(ErrorCode::UnknownRequest, message)
        }
    }
}

/// How a proxy from before version 1 begins to answer a request that it does not know.
const UNKNOWN_WORD: &str = "unknown request";

/// Stable names of the reasons why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ErrorCode {
    /// The line is not an object with a version and a request.
    MalformedRequest,
    /// The version of the request is not known.
    UnsupportedVersion,
    /// The request is not known.
    UnknownRequest,
    /// As many clients as are allowed have subscribed.
    TooManySubscribers,
}

/// An answer of version 1: one line, with what the request gives beside the version.
#[derive(Serialize)]
struct AnswerLine<P> {
    version: u32,
    #[serde(flatten)]
    payload: P,
}

/// What `status` gives, and the first line of `subscribe`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StatusPayload<S> {
    pub(crate) status: S,
}

/// What `requery` and `takeover` give: nothing.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct EmptyPayload {}

/// What `namespace` gives; the descriptor comes with the first byte of the line (`SCM_RIGHTS`).
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct NamespacePayload {
    /// Number of descriptors: 1.
    pub(crate) descriptors: usize,
}

/// What `handover` gives; the descriptors come with the first byte of the line (`SCM_RIGHTS`).
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HandoverPayload<R> {
    /// Number of descriptors: at most 253.
    pub(crate) descriptors: usize,
    /// What the relays leave, in the order of their descriptors.
    pub(crate) relays: Vec<R>,
}

/// What `count` gives; the descriptors come with the first byte of the line (`SCM_RIGHTS`): the table,
/// the program, and a packet socket for each link.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CountPayload {
    /// Number of descriptors; 0: nothing is counted.
    pub(crate) descriptors: usize,
    /// [`LAYOUT`](crate::stream_count::LAYOUT) of the table.
    pub(crate) layout: u32,
    /// Names of the links in the container, in the order of their sockets.
    pub(crate) links: Vec<String>,
}

/// The answer to `count`.
pub(crate) fn count_answer(payload: &CountPayload) -> Vec<u8> {
    answer_line(payload)
}

/// What a descriptor of a [`HoldPayload`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum HeldKind {
    /// The owner of the rules in the container's namespace: they last as long as it is open.
    Rules,
    /// A socket with memberships on the LAN, or a spare one.
    Join,
    /// A socket of a relay.
    Relay,
    /// Of what counts: see [`CountPayload`].
    Count,
    /// Of a later version.
    #[serde(other)]
    Unknown,
}

/// What `hold` gives, and each line that follows. Descriptors come with the first byte of a line
/// (`SCM_RIGHTS`).
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HoldPayload<S, R> {
    /// The lines before this one count no more.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) begins: bool,
    /// With this line the client has all that there is now.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) is_complete: bool,
    /// What the descriptors of the line are, in their order.
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub(crate) held: Vec<HeldKind>,
    /// The relays, in the order of their descriptors. Those of an earlier line count no more.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub(crate) relays: Option<Vec<R>>,
    /// What counts, in the order of the descriptors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) count: Option<CountPayload>,
    /// The status now.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<S>,
}

impl<S, R> Default for HoldPayload<S, R> {
    fn default() -> Self {
        HoldPayload {
            begins: false,
            is_complete: false,
            held: Vec::new(),
            relays: None,
            count: None,
            status: None,
        }
    }
}

fn none<T>() -> Option<T> {
    None
}

fn is_false(value: &bool) -> bool {
    !value
}

/// A line of `hold`.
pub(crate) fn hold_line<S: Serialize, R: Serialize>(payload: &HoldPayload<S, R>) -> Vec<u8> {
    answer_line(payload)
}

/// The answer to `status`.
pub(crate) fn status_answer(status: &ProxyStatus, format: Format) -> Vec<u8> {
    match format {
        Format::Word => to_json(status),
        Format::Json => answer_line(StatusPayload { status }),
    }
}

/// The answer to `requery` and `takeover`.
pub(crate) fn empty_answer(format: Format) -> Vec<u8> {
    match format {
        Format::Word => b"{}".to_vec(),
        Format::Json => answer_line(EmptyPayload {}),
    }
}

/// The answer to `namespace`, to be sent with one descriptor.
pub(crate) fn namespace_answer(format: Format) -> Vec<u8> {
    match format {
        Format::Word => vec![DESCRIPTOR_BYTE],
        Format::Json => answer_line(NamespacePayload { descriptors: 1 }),
    }
}

/// The answer to `handover`, to be sent with so many descriptors.
pub(crate) fn handover_answer<R: Serialize>(
    relays: Vec<R>,
    descriptors: usize,
    format: Format,
) -> Vec<u8> {
    match format {
        Format::Word => [vec![DESCRIPTOR_BYTE], to_json(&relays)].concat(),
        Format::Json => answer_line(HandoverPayload { descriptors, relays }),
    }
}

/// The byte that carries the descriptors before version 1.
const DESCRIPTOR_BYTE: u8 = b'n';

/// The answer of version 1 to a request that is refused.
pub(crate) fn error_answer(code: ErrorCode, message: &str) -> Vec<u8> {
    #[derive(Serialize)]
    struct ErrorPayload<'a> {
        error: ErrorObject<'a>,
    }
    #[derive(Serialize)]
    struct ErrorObject<'a> {
        code: ErrorCode,
        message: &'a str,
    }
    answer_line(ErrorPayload { error: ErrorObject { code, message } })
}

fn answer_line(payload: impl Serialize) -> Vec<u8> {
    let mut line = to_json(&AnswerLine { version: VERSION, payload });
    line.push(b'\n');
    line
}

/// Strings, numbers and lists, which JSON takes without an error.
fn to_json(value: &impl Serialize) -> Vec<u8> {
    let mut text = Vec::with_capacity(USUAL_LENGTH);
    match serde_json::to_writer(&mut text, value) {
        Ok(()) => text,
        Err(_) => Vec::new(),
    }
}

/// Bytes of a usual status. A text that grows from nothing leaves pieces of all sizes in the heap.
const USUAL_LENGTH: usize = 4096;

/// Why an answer is not what was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AnswerError {
    /// The proxy is from before version 1: it may know the request as a word.
    #[error("the proxy does not speak version {VERSION} of the control protocol")]
    NotVersioned,
    /// The proxy refused the request, for this reason.
    #[error("the proxy refused the request: {0}")]
    Refused(String),
    /// The answer has another form.
    #[error("the proxy's answer is not understood: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// Reads an answer of version 1. Bytes after the first line are ignored.
pub(crate) fn parse_answer<P: DeserializeOwned>(answer: &[u8]) -> Result<P, AnswerError> {
    #[derive(Deserialize)]
    struct Head {
        error: Option<ErrorField>,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum ErrorField {
        Object { message: String },
        Text(String),
    }
    let line = answer.split(|byte| *byte == b'\n').next().unwrap_or_default();
    match serde_json::from_slice::<Head>(line)?.error {
        None => Ok(serde_json::from_slice(line)?),
        Some(ErrorField::Object { message }) => Err(AnswerError::Refused(message)),
        Some(ErrorField::Text(text)) if text.starts_with(UNKNOWN_WORD) => {
            Err(AnswerError::NotVersioned)
        }
        Some(ErrorField::Text(text)) => Err(AnswerError::Refused(text)),
    }
}

/// The JSON behind the byte that carries descriptors before version 1.
///
/// # Errors
/// [`AnswerError::Malformed`].
pub(crate) fn parse_word_handover<R: DeserializeOwned>(
    answer: &[u8],
) -> Result<Vec<R>, AnswerError> {
    Ok(serde_json::from_slice(answer.get(1..).unwrap_or_default())?)
}

#[cfg(test)]
mod tests;
