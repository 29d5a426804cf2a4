//! `mcrun metrics`.

mod connections;
mod gatherer;
mod render;
mod samples;
mod serve;
mod snapshot;
mod table;
mod totals;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use clap::Args;

use crate::cli::containers;
use crate::cli::metrics::render::render;
use crate::cli::metrics::snapshot::{Gathered, Snapshot};
use crate::cli::metrics::totals::Totals;
use crate::cli::output::print;
use crate::state::Store;
use crate::sys::files::{Replacement, replace};

/// What `--help` says.
pub(super) const ABOUT: &str = "\
Tell Prometheus of containers, groups and queriers.

Prints the metrics once, in the text format of Prometheus. With --output they are written to a file \
instead, which is replaced as a whole: for the textfile collector of node_exporter, whose files end \
in .prom. With --listen they are told to each HTTP request for /metrics, until SIGTERM or SIGINT; \
the address is told on standard error.

No source of a stream has a series of its own. docs/metrics.md lists the metrics.";

/// Arguments of `mcrun metrics`.
#[derive(Debug, Args)]
pub struct MetricsArgs {
    /// Write them to this file.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Tell them by HTTP: at 127.0.0.1 for a port alone; as ADDRESS:PORT or [IPv6]:PORT elsewhere.
    /// Whoever reaches the address can read them. Port 0 is a free one.
    #[arg(long, value_name = "ADDR", value_parser = parse_address, conflicts_with = "output")]
    listen: Option<SocketAddr>,
    /// Groups that have series. If there are more, those of the last containers by name are left out.
    #[arg(long, value_name = "N", default_value = "10000", value_parser = clap::value_parser!(u32).range(..=MOST_GROUPS))]
    max_groups: u32,
}

/// Some 100 MiB of text.
const MOST_GROUPS: i64 = 100_000;

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.parse::<u16>() {
        return Ok((Ipv4Addr::LOCALHOST, port).into());
    }
    text.parse().map_err(|_| {
        "write PORT, ADDRESS:PORT or [IPv6]:PORT, such as 9469 or 192.0.2.1:9469".into()
    })
}

pub(super) fn run(args: MetricsArgs) -> anyhow::Result<ExitCode> {
    let max_groups = args.max_groups as usize;
    let store = Store::from_env();
    if let Some(address) = args.listen {
        let totals = Mutex::new(Totals::default());
        let text = move || {
            let gathered = Gathered::gather(&store)?;
            let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
            render(&Snapshot::new(&gathered, max_groups, &mut totals))
        };
        return serve::serve(address, text).map(|()| ExitCode::SUCCESS);
    }
    let gathered = Gathered::gather(&store)?;
    let text = render(&Snapshot::new(&gathered, max_groups, &mut Totals::default()))?;
    match &args.output {
        Some(file) => {
            let how = Replacement { mode: 0o644, ..Replacement::PRIVATE };
            replace(file, text.as_bytes(), how)
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        None => print(&text)?,
    }
    Ok(containers::tell(&gathered.unreadable))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_of_this_host() {
        let parse = |text| parse_address(text).map(|address| address.to_string());
        assert_eq!(parse("9469"), Ok("127.0.0.1:9469".into()));
        assert_eq!(parse("0.0.0.0:9469"), Ok("0.0.0.0:9469".into()));
        assert_eq!(parse("[::1]:9469"), Ok("[::1]:9469".into()));
        for bad in ["", ":9469", "localhost:9469", "65536", "-1", "192.0.2.1", "::1:"] {
            let error = parse(bad).unwrap_err();
            assert!(error.starts_with("write PORT, "), "{bad}: {error}");
        }
    }
}
