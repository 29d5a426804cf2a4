//! `mcrun watch`.

use std::io;
use std::io::{IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use serde::Serialize;

use crate::cli::containers;
use crate::cli::containers::Container;
use crate::cli::groups::sources;
use crate::cli::output::{bit_rate, terminal_width};
use crate::probe::{ListenOptions, Listener, Measured, parse_positive_duration};
use crate::proxy::{GroupMembership, InterfaceStatus};
use crate::service::running_namespace;
use crate::state::Store;

pub(super) const ABOUT: &str = "\
Show one stream of a container as it arrives.

Measures what the container's namespace receives of the group, behind its firewall, and joins \
nothing. Ends with the container, at SIGINT or SIGTERM, or after --count lines. On a terminal one \
line is written again and again; elsewhere each measurement is a line.

LOST, REORD and the packets not measured are counted since the start, the rest is of the interval. \
GAP is the longest time without a packet, the silence that lasts included. JITTER is that of RTP \
(RFC 3550). MDI is the media delivery index (RFC 4445): the delay factor in milliseconds, at the \
interval's mean rate, and the packets lost a second. What is lost is known of RTP only; `-` stands \
for what is not known.";

const JSON_HELP: &str = "\
With --json each measurement is an object in a line of its own:
  container, name, interface, group, port (null: all), elapsed_s; of the interval packets,
  bytes (of UDP payload), packet_rate, byte_rate, lost, longest_gap_ms, jitter_ms,
  delay_factor_ms, media_loss_rate; and total, an object of packets, bytes, lost, reordered,
  duplicated, longest_gap_ms and kernel_dropped since the start.
What is unknown is null. Packets in kernel_dropped have arrived and were not measured, because
mcrun was too slow: they count as lost too.";

/// Arguments of `mcrun watch`.
#[derive(Debug, Args)]
#[command(after_help = JSON_HELP)]
pub struct WatchArgs {
    /// The container, by name, id or the beginning of its id.
    container: String,
    /// The group; with :PORT one port of it. May be left out where the container has joined a single
    /// one.
    #[arg(value_name = "GROUP[:PORT]", value_parser = parse_group)]
    group: Option<Wanted>,
    /// Interface in the container, where it has joined the group at several.
    #[arg(long, short = 'i', value_name = "IF")]
    interface: Option<String>,
    /// Time between two measurements.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_positive_duration)]
    interval: Duration,
    /// End after so many measurements.
    #[arg(long, short = 'c', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Clock of the RTP timestamps in Hz, for the jitter; without it by payload type (RFC 3551),
    /// 90000 for the dynamic ones.
    #[arg(long, value_name = "HZ", value_parser = clap::value_parser!(u32).range(1..))]
    clock_rate: Option<u32>,
    /// Print a JSON object per measurement.
    #[arg(long)]
    json: bool,
}

/// A group, and one port of it.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    group: Ipv4Addr,
    port: Option<u16>,
}

fn parse_group(text: &str) -> Result<Wanted, String> {
    let (group, port) = match text.split_once(':') {
        Some((group, port)) => (group, Some(port)),
        None => (text, None),
    };
    let group = group.parse().ok().filter(Ipv4Addr::is_multicast);
    let group = group.ok_or("write GROUP or GROUP:PORT, such as 239.1.2.3:5004")?;
    let port = port.map(|port| port.parse().ok().filter(|port| *port > 0));
    match port {
        Some(None) => Err("write a port of 1 to 65535".into()),
        port => Ok(Wanted { group, port: port.flatten() }),
    }
}

/// The contract of `mcrun watch --json`.
#[derive(Serialize)]
struct Line<'a> {
    container: &'a str,
    name: &'a str,
    interface: &'a str,
    group: Ipv4Addr,
    port: Option<u16>,
    #[serde(flatten)]
    measured: Measured,
}

pub(super) fn run(args: WatchArgs) -> anyhow::Result<ExitCode> {
    let container = containers::find(&Store::from_env(), &args.container)?;
    let (interface, group, entry) = choose(&container, &args)?;
    let attached = container.record.interfaces.iter().find(|i| i.name == interface.interface);
    let listen = ListenOptions {
        group,
        port: args.group.and_then(|wanted| wanted.port),
        interface: interface.interface.clone(),
        is_relayed: attached.is_some_and(|i| i.attachment.driver.is_relayed()),
        interval: args.interval,
        count: args.count,
        clock_rate: args.clock_rate,
    };
    let port = listen.port;
    let record = &container.record.container;
    let listener = running_namespace(record)
        .and_then(|namespace| namespace.run(|| Listener::open(listen)))
        .with_context(|| format!("cannot enter the network namespace of {}", record.name))??;
    if !args.json {
        eprintln!(
            "mcrun watch: {}: {group} at {} from {}: {}",
            record.name,
            interface.interface,
            sources(entry),
            containers::membership_status(entry)
        );
    }
    let mut screen = Screen::new(io::stdout().is_terminal());
    let show = |measured: Measured| {
        if args.json {
            let line = Line {
                container: record.id.as_str(),
                name: &record.name,
                interface: &interface.interface,
                group,
                port,
                measured,
            };
            let mut out = io::stdout().lock();
            writeln!(out, "{}", serde_json::to_string(&line)?)?;
            return out.flush();
        }
        screen.show(&measured)
    };
    let result = listener.run(|| record.is_alive(), show);
    screen.end();
    result?;
    Ok(ExitCode::SUCCESS)
}

/// The membership that is asked for.
fn choose<'c>(
    container: &'c Container,
    args: &WatchArgs,
) -> anyhow::Result<(&'c InterfaceStatus, Ipv4Addr, &'c GroupMembership)> {
    let name = &container.record.container.name;
    if container.status.is_none() {
        bail!("{name}: the proxy is {}, its groups are not known", container.proxy().state);
    }
    let interfaces = container.status.iter().flat_map(|status| &status.interfaces);
    let interfaces =
        interfaces.filter(|i| args.interface.as_ref().is_none_or(|name| i.interface == *name));
    let all: Vec<_> = interfaces
        .flat_map(|interface| interface.groups.iter().map(move |entry| (interface, entry)))
        .filter_map(|(interface, entry)| match entry.group {
            IpAddr::V4(group) => Some((interface, group, entry)),
            IpAddr::V6(_) => None,
        })
        .collect();
    let is_wanted = |group: Ipv4Addr| args.group.is_none_or(|wanted| wanted.group == group);
    let wanted: Vec<_> = all.iter().filter(|(_, group, _)| is_wanted(*group)).collect();
    let at = |(interface, group, _): &(&InterfaceStatus, Ipv4Addr, &GroupMembership)| {
        format!("{group} at {}", interface.interface)
    };
    let list = |of: Vec<String>| of.join(", ");
    match (wanted.as_slice(), args.group) {
        ([one], _) => Ok(**one),
        ([], Some(Wanted { group, .. })) if !all.is_empty() => bail!(
            "{name} has not joined {group}; it has joined {}",
            list(all.iter().map(at).collect())
        ),
        ([], _) => bail!("{name} has joined no group"),
        (several, Some(_)) => bail!(
            "{name} has joined {}: name one with --interface",
            list(several.iter().map(|one| at(one)).collect())
        ),
        (several, None) => bail!(
            "{name} has joined {}: name one",
            list(several.iter().map(|one| at(one)).collect())
        ),
    }
}

/// Measurements for people.
struct Screen {
    is_terminal: bool,
    /// Length of the line that is shown, in characters.
    shown: Option<usize>,
    is_begun: bool,
}

impl Screen {
    fn new(is_terminal: bool) -> Self {
        Screen { is_terminal, shown: None, is_begun: false }
    }

    fn show(&mut self, measured: &Measured) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if !std::mem::replace(&mut self.is_begun, true) {
            writeln!(out, "{}", self.cut(heading()))?;
        }
        let text = self.cut(line(measured));
        if self.is_terminal {
            let width = self.shown.unwrap_or(0);
            self.shown = Some(text.chars().count());
            write!(out, "\r{text:<width$}")?;
        } else {
            writeln!(out, "{text}")?;
        }
        out.flush()
    }

    /// A line that is wrapped could not be written again: it ends where the terminal does.
    fn cut(&self, text: String) -> String {
        match terminal_width().filter(|_| self.is_terminal) {
            Some(width) => text.chars().take(width.saturating_sub(1)).collect(),
            None => text,
        }
    }

    /// Leaves the last line where it is.
    fn end(&self) {
        if self.shown.is_some() {
            println!();
        }
    }
}

/// Columns of 79 characters.
fn heading() -> String {
    row(["TIME", "PACKETS/s", "RATE", "LOST", "REORD", "GAP ms", "JITTER ms", "MDI"])
}

fn row([time, packets, rate, lost, reordered, gap, jitter, mdi]: [&str; 8]) -> String {
    format!(
        "{time:>8} {packets:>9} {rate:>12} {lost:>6} {reordered:>6} {gap:>8} {jitter:>9} {mdi:>14}"
    )
}

fn line(measured: &Measured) -> String {
    let unknown = || "-".to_owned();
    let ms = |time: Option<f64>| time.map_or_else(unknown, |ms| format!("{ms:.2}"));
    let total = &measured.total;
    let loss = measured.media_loss_rate.map_or_else(unknown, |rate| format!("{rate:.1}"));
    let text = row([
        &format!("{:.0} s", measured.elapsed_s),
        &format!("{:.0}", measured.packet_rate),
        &bit_rate(measured.byte_rate as u64),
        &total.lost.map_or_else(unknown, |lost| lost.to_string()),
        &total.lost.map_or_else(unknown, |_| total.reordered.to_string()),
        &ms(measured.longest_gap_ms),
        &ms(measured.jitter_ms),
        &format!("{}:{loss}", ms(measured.delay_factor_ms)),
    ]);
    match total.kernel_dropped {
        0 => text,
        dropped => format!("{text}  {dropped} not measured"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::Total;

    #[test]
    fn a_line_fits_80_columns_and_says_what_is_unknown() {
        let mut measured = Measured {
            elapsed_s: 360_000.2,
            packets: 94_000,
            bytes: 125_000_000,
            packet_rate: 94_000.4,
            byte_rate: 125_000_000.0,
            lost: Some(7),
            longest_gap_ms: Some(12.345),
            jitter_ms: Some(0.011),
            delay_factor_ms: Some(1.5),
            media_loss_rate: Some(7.0),
            total: Total {
                packets: 94_000,
                bytes: 125_000_000,
                lost: Some(7),
                reordered: 2,
                duplicated: 0,
                longest_gap_ms: Some(12.345),
                kernel_dropped: 0,
            },
        };
        assert_eq!(heading().len(), 79);
        let text = line(&measured);
        assert_eq!(text.len(), 79, "{text}");
        let words: Vec<_> = text.split_whitespace().collect();
        let expected =
            ["360000", "s", "94000", "1.0", "Gbit/s", "7", "2", "12.35", "0.01", "1.50:7.0"];
        assert_eq!(words, expected);
        measured.lost = None;
        measured.total.lost = None;
        measured.media_loss_rate = None;
        measured.jitter_ms = None;
        measured.total.kernel_dropped = 3;
        let text = line(&measured);
        assert!(text.contains(" -      - ") && text.ends_with("1.50:-  3 not measured"), "{text}");
    }

    #[test]
    fn groups_and_ports_are_read() {
        let read = |text| parse_group(text).map(|wanted| (wanted.group.to_string(), wanted.port));
        assert_eq!(read("239.1.2.3"), Ok(("239.1.2.3".into(), None)));
        assert_eq!(read("239.1.2.3:5004"), Ok(("239.1.2.3".into(), Some(5004))));
        for text in ["10.1.2.3", "239.1.2.3:0", "239.1.2.3:", "239.1.2.3:x", "", "ff02::1"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
