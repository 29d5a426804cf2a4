//! The metrics over HTTP.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::TEXT_FORMAT;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::metrics::connections::{Asked, Connections, MOST};
use crate::cli::metrics::gatherer::Gatherer;

/// Time in which a client has to send its request.
const REQUEST_TIME: Duration = Duration::from_secs(5);

/// Time of a connection in all.
const CONNECTION_TIME: Duration = Duration::from_secs(60);

/// Bytes of a request at most.
const REQUEST_SIZE: usize = 16 << 10;

/// Pause when there is no descriptor for a connection.
const PAUSE: Duration = Duration::from_millis(100);

const PAGE: &str = "\
<!DOCTYPE html>
<html lang=\"en\"><head><title>mcrun metrics</title></head>
<body><h1>mcrun metrics</h1><p><a href=\"/metrics\">Metrics</a></p></body></html>
";

/// Answers requests with what `text` gives, until SIGTERM or SIGINT.
///
/// # Errors
/// When the address cannot be listened on.
pub(super) fn serve(
    address: SocketAddr,
    text: impl Fn() -> anyhow::Result<String> + Send + Sync + 'static,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let listener = TcpListener::bind(address).await;
        let listener = listener.with_context(|| format!("cannot listen on {address}"))?;
        eprintln!("mcrun metrics: http://{}/metrics", listener.local_addr()?);
        let gatherer = Gatherer::start(MOST, text);
        let mut connections = Connections::default();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        connections.add(|asked| connection(stream, gatherer.clone(), asked));
                    }
                    // The client has gone, or there is no descriptor or memory now.
                    Err(_) => tokio::time::sleep(PAUSE).await,
                },
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
            }
        }
        drop(listener);
        connections.end().await;
        Ok(())
    });
    // A gathering that waits for a proxy is not waited for.
    runtime.shutdown_background();
    result
}

/// One request, and its answer.
async fn connection(stream: TcpStream, gatherer: Gatherer, asked: Asked) {
    let service = service_fn(move |request: Request<Incoming>| {
        asked.set();
        let gatherer = gatherer.clone();
        async move {
            Ok::<_, Infallible>(answer(request.method(), request.uri().path(), &gatherer).await)
        }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIME)
        .max_buf_size(REQUEST_SIZE)
        .serve_connection(TokioIo::new(stream), service);
    // What goes wrong is the client's.
    let _ = tokio::time::timeout(CONNECTION_TIME, connection).await;
}

async fn answer(method: &Method, path: &str, gatherer: &Gatherer) -> Response<Full<Bytes>> {
    const TEXT: &str = "text/plain; charset=utf-8";
    let text = |text: &'static str| Bytes::from_static(text.as_bytes());
    if ![Method::GET, Method::HEAD].contains(method) {
        let mut refused =
            response(StatusCode::METHOD_NOT_ALLOWED, TEXT, text("GET and HEAD only\n"));
        refused.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match path {
        "/metrics" => match gatherer.text().await {
            Ok(metrics) => response(StatusCode::OK, TEXT_FORMAT, metrics),
            Err(error) => {
                eprintln!("mcrun metrics: {error}");
                response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, (error + "\n").into())
            }
        },
        "/" => response(StatusCode::OK, "text/html; charset=utf-8", text(PAGE)),
        _ => response(StatusCode::NOT_FOUND, TEXT, text("the metrics are at /metrics\n")),
    }
}

fn response(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let kind = hyper::header::HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
