//! The driver over HTTP/1.1 on a Unix socket.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::docker_network::driver::Driver;
use crate::docker_network::listener::Listener;
use crate::docker_network::protocol;
use crate::docker_network::protocol::{ProtocolError, Request};

/// Connections at once. docker makes one for each request.
const MOST_CONNECTIONS: usize = 64;
/// Requests that are worked on at once; others wait.
const MOST_REQUESTS: usize = 16;
/// Bytes of the head of a request at most.
const HEAD_SIZE: usize = 16 << 10;
/// Bytes of the body of a request at most.
const BODY_SIZE: usize = 256 << 10;
/// Time in which a client has to send its request.
const REQUEST_TIME: Duration = Duration::from_secs(5);
/// Time of a connection in all: longer than the longest attachment.
const CONNECTION_TIME: Duration = Duration::from_secs(60);
/// Pause when there is no descriptor for a connection.
const PAUSE: Duration = Duration::from_millis(100);
/// How long requests that are worked on may take when the server ends.
const LAST_ANSWERS: Duration = Duration::from_secs(15);

/// What libnetwork's plugins answer (pkg/plugins/transport of moby).
const MEDIA_TYPE: &str = "application/vnd.docker.plugins.v1.2+json";

/// Answers docker until SIGTERM or SIGINT.
///
/// # Errors
/// When there is no thread, signal or socket to be had.
pub(super) fn serve(listener: &Listener, driver: Driver) -> std::io::Result<()> {
    let driver = Arc::new(driver);
    let waiter = Arc::clone(&driver);
    let wait = move || waiter.attach_awaited();
    std::thread::Builder::new().name("sandboxes".into()).spawn(wait)?;
    let follower = Arc::clone(&driver);
    std::thread::Builder::new().name("followed".into()).spawn(move || follower.follow())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(MOST_REQUESTS)
        .build()?;
    let result = runtime.block_on(accept(listener, driver));
    runtime.shutdown_timeout(LAST_ANSWERS);
    result
}

async fn accept(listener: &Listener, driver: Arc<Driver>) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut child = signal(SignalKind::child())?;
    let socket = listener.socket.try_clone()?;
    socket.set_nonblocking(true)?;
    let socket = UnixListener::from_std(socket)?;
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let place = Arc::clone(&places).acquire_owned();
        let accepted = async { (place.await, socket.accept().await) };
        tokio::select! {
            (place, accepted) = accepted => match (place, accepted) {
                (Ok(place), Ok((stream, _))) => {
                    let driver = Arc::clone(&driver);
                    tokio::spawn(async move {
                        connection(stream, driver).await;
                        drop(place);
                    });
                }
                // The client has gone, or there is no descriptor or memory now.
                _ => tokio::time::sleep(PAUSE).await,
            },
            _ = child.recv() => driver.reap(),
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        }
    }
}

/// One request, and its answer.
async fn connection(stream: UnixStream, driver: Arc<Driver>) {
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let driver = Arc::clone(&driver);
        async move { Ok::<_, Infallible>(answer(request, driver).await) }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIME)
        .max_buf_size(HEAD_SIZE)
        .serve_connection(TokioIo::new(stream), service);
    // What goes wrong is the client's. What it has asked for is done all the same.
    let _ = timeout(CONNECTION_TIME, connection).await;
}

async fn answer(request: hyper::Request<Incoming>, driver: Arc<Driver>) -> Response<Full<Bytes>> {
    let refuse = |status, why: &str| response(status, &protocol::failed(why));
    if request.method() != Method::POST {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "the driver is asked with POST");
    }
    let path = request.uri().path().to_owned();
    let body = Limited::new(request.into_body(), BODY_SIZE).collect();
    let body = match timeout(REQUEST_TIME, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => {
            let why = format!("the request ends early, or has more than {BODY_SIZE} bytes");
            return refuse(StatusCode::BAD_REQUEST, &why);
        }
        Err(_) => return refuse(StatusCode::REQUEST_TIMEOUT, "the request takes too long"),
    };
    let request = match Request::parse(&path, &body) {
        Ok(request) => request,
        Err(error @ ProtocolError::Method(_)) => {
            return refuse(StatusCode::NOT_FOUND, &error.to_string());
        }
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    match tokio::task::spawn_blocking(move || driver.answer(&request)).await {
        Ok(Ok(answer)) => response(StatusCode::OK, &answer),
        Ok(Err(error)) => {
            eprintln!("mcrun: serve docker: {error}");
            response(StatusCode::OK, &protocol::failed(&error.to_string()))
        }
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

fn response(status: StatusCode, answer: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(answer.to_string().into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    response
}
