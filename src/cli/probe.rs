//! `mcrun probe`.

use std::collections::HashSet;
use std::io;
use std::io::{IsTerminal, Write};
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde::Serialize;

use crate::lookup;
use crate::net::netns::NetNs;
use crate::probe::{
    Destination, Ended, IntervalLine, Joined, Line, LossLimit, MAX_PAYLOAD, ReceiveOptions,
    ReceiveResult, SendOptions, Target, Thresholds, max_payload, parse_duration,
    parse_positive_duration, receive, send,
};
use crate::state::Store;

/// Nothing came.
const NOTHING_CAME: u8 = 1;
/// `--max-gap` or `--max-loss` is broken.
const LIMIT_BROKEN: u8 = 3;

/// Arguments of `mcrun probe`.
#[derive(Debug, Args)]
pub struct ProbeArgs {
    #[command(subcommand)]
    direction: Direction,
}

#[derive(Debug, Subcommand)]
enum Direction {
    /// Send RTP packets at a constant rate.
    ///
    /// Each group gets a stream of its own, with an SSRC of its own, until --duration or
    /// --count is reached or SIGINT or SIGTERM comes.
    Send(SendArgs),
    /// Join groups and measure what arrives.
    ///
    /// Packets, lost, duplicated and reordered ones, the longest gap, jitter and the time from
    /// the join to the first packet, for each group and each source of it. Loss needs RTP;
    /// other UDP is counted, with its gaps. The gap includes the time from the last packet to
    /// the end. SIGINT and SIGTERM end the measurement early; its result is printed.
    ///
    /// Without --json, standard error says what was joined where, and on a terminal a line shows
    /// each second what comes.
    #[command(after_help = RECV_HELP)]
    Recv(RecvArgs),
}

const RECV_HELP: &str = "\
Exit status:
  0    every group had packets, and --max-gap and --max-loss were kept
  1    nothing came for a group, or --timeout ended the measurement
  2    wrong usage
  3    --max-gap or --max-loss was broken
  125  the measurement could not be made

With --json the last line is the result, an object with type \"result\":
  elapsed_s, ended (duration, count, timeout, signal), broken (sentences), the totals
  packets, lost, longest_gap_ms, and groups, an array with for each group:
  group, port, packets, bytes, rtp, expected, lost, duplicated, reordered,
  kernel_dropped, unattributed, longest_gap_ms, longest_gap_from_ms, jitter_ms,
  join_to_first_packet_ms, and sources, an array with for each source:
  source, ssrc, payload_type, packets, bytes, expected, lost, duplicated, reordered,
  restarts, longest_gap_ms, jitter_ms, first_packet_ms.
With --interval the lines before it have type \"interval\": elapsed_s, and groups with
  group, port, packets, bytes, lost, longest_gap_ms, jitter_ms of the interval.
What is unknown is null: lost without RTP, gaps and jitter without packets.";

#[derive(Debug, Args)]
struct Common {
    /// Multicast groups; the port is 5004 where none is named. An IPv6 group with a port stands in
    /// brackets, [ff15::1]:5004. A zone names its interface: ff02::fb%eth1.
    #[arg(required = true, value_name = "GROUP[:PORT]")]
    groups: Vec<Target>,
    /// Interface to use; without it the kernel's route to the group decides. An IPv6 group of the
    /// link, ff02::, needs one, here or as its zone.
    #[arg(long, short = 'i', value_name = "IF")]
    interface: Option<String>,
    /// End after this long, such as 500ms, 10s or 2m; seconds where no unit is named.
    #[arg(long, short = 'd', value_name = "TIME", value_parser = parse_positive_duration)]
    duration: Option<Duration>,
    /// End after so many packets of each group.
    #[arg(long, short = 'c', value_name = "PACKETS", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct SendArgs {
    #[command(flatten)]
    common: Common,
    /// Address to send from; the interface's where it is not named.
    #[arg(long, value_name = "ADDRESS")]
    source: Option<IpAddr>,
    /// Packets per second to each group.
    #[arg(long, short = 'r', default_value = "1000", value_name = "RATE", value_parser = parse_rate)]
    rate: f64,
    /// RTP payload of each packet in bytes; the default is seven packets of MPEG-TS.
    #[arg(
        long,
        short = 's',
        default_value_t = 1316,
        value_name = "BYTES",
        value_parser = clap::value_parser!(u32).range(0..=MAX_PAYLOAD as i64)
    )]
    size: u32,
    /// Time to live, of IPv6 the hop limit: 1 stays on this LAN.
    #[arg(long, default_value_t = 1, value_name = "HOPS")]
    ttl: u8,
    /// Let sockets of this host, in this network namespace, hear it too.
    #[arg(long = "loop")]
    multicast_loop: bool,
}

#[derive(Debug, Args)]
struct RecvArgs {
    #[command(flatten)]
    common: Common,
    /// Join and receive in the network namespace of a running container, which need not have a
    /// program for it; by name, id, beginning of an id, or process id. The container's rules and
    /// limits apply to the join.
    #[arg(long, value_name = "NAME")]
    container: Option<String>,
    /// Join from this source only (SSM); may be repeated.
    #[arg(long, value_name = "ADDRESS")]
    source: Vec<IpAddr>,
    /// End when no packet of any group came for this long.
    #[arg(long, value_name = "TIME", value_parser = parse_positive_duration)]
    timeout: Option<Duration>,
    /// Print what came each time this is over; with --json as a JSON object per line.
    #[arg(long, value_name = "TIME", value_parser = parse_positive_duration)]
    interval: Option<Duration>,
    /// Fail if a group has a longer gap.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    max_gap: Option<Duration>,
    /// Fail if a group loses more: a number of packets, or a share such as 0.1%.
    #[arg(long, value_name = "LOSS")]
    max_loss: Option<LossLimit>,
    /// Clock of the RTP timestamps in Hz, for the jitter; without it by payload type
    /// (RFC 3551), 90000 for the dynamic ones.
    #[arg(long, value_name = "HZ", value_parser = clap::value_parser!(u32).range(1..))]
    clock_rate: Option<u32>,
}

impl ProbeArgs {
    /// Only who enters a container needs root.
    pub(super) fn needs_root(&self) -> bool {
        matches!(&self.direction, Direction::Recv(RecvArgs { container: Some(_), .. }))
    }
}

pub(super) fn run(args: ProbeArgs) -> anyhow::Result<ExitCode> {
    match args.direction {
        Direction::Send(args) => run_send(args),
        Direction::Recv(args) => run_recv(args),
    }
}

fn run_send(args: SendArgs) -> anyhow::Result<ExitCode> {
    let Common { groups, interface, duration, count, json } = args.common;
    let destinations = destinations(&groups, interface.as_deref())?;
    let size = args.size as usize;
    for destination in &destinations {
        let most = max_payload(destination.group);
        if size > most {
            bail!("--size {size} does not fit in a packet to {destination}: at most {most} do");
        }
        args.source.map_or(Ok(()), |source| check_family(source, destination.group))?;
    }
    let result = send(&SendOptions {
        destinations,
        source: args.source,
        rate: args.rate,
        size,
        duration,
        count,
        ttl: args.ttl,
        multicast_loop: args.multicast_loop,
    })?;
    if json {
        print_json(&Line::Sent(result)).context("cannot print the result")?;
    } else {
        print(format_args!("{result}")).context("cannot print the result")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn run_recv(args: RecvArgs) -> anyhow::Result<ExitCode> {
    let Some(container) = &args.container else { return receive_here(args) };
    let found = lookup::find(container, &Store::from_env())?;
    let namespace = NetNs::of_pid(found.pid)
        .with_context(|| format!("cannot open the network namespace of {container}"))?;
    namespace
        .run(|| receive_here(args))
        .with_context(|| "cannot enter the network namespace of the container")?
}

/// Time between two updates of the line on a terminal.
const LIVE: Duration = Duration::from_secs(1);

fn receive_here(args: RecvArgs) -> anyhow::Result<ExitCode> {
    let Common { groups, interface, duration, count, json } = args.common;
    let destinations = destinations(&groups, interface.as_deref())?;
    let mut sources: Vec<IpAddr> = Vec::new();
    for source in args.source {
        let is_broadcast = matches!(source, IpAddr::V4(source) if source.is_broadcast());
        if source.is_multicast() || is_broadcast || source.is_unspecified() {
            bail!("--source {source} is not a host's address");
        }
        if sources.contains(&source) {
            bail!("--source {source} is named twice");
        }
        destinations.iter().try_for_each(|to| check_family(source, to.group))?;
        sources.push(source);
    }
    let live = !json && args.interval.is_none() && io::stderr().is_terminal();
    let from = match sources.as_slice() {
        [] => String::new(),
        list => {
            format!(" from {}", list.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", "))
        }
    };
    let options = ReceiveOptions {
        destinations,
        sources,
        duration,
        count,
        timeout: args.timeout,
        interval: args.interval.or(live.then_some(LIVE)),
        clock_rate: args.clock_rate,
        limits: Thresholds { max_gap: args.max_gap, max_loss: args.max_loss },
    };
    let tell = |joined: &[Joined]| {
        for Joined { destination, interface } in joined.iter().filter(|_| !json) {
            let on = interface.as_deref().unwrap_or("an interface that is gone");
            eprintln!(
                "mcrun probe: joined {} on {on}{from}, port {}",
                destination.group, destination.port
            );
        }
    };
    let mut total = Total::default();
    let result = receive(&options, tell, |line| match (json, live) {
        (true, _) => print_json(&Line::Interval(line)),
        (false, true) => total.show(&line),
        (false, false) => print(format_args!("{line}\n")),
    });
    if live {
        total.clear();
    }
    let result = result?;
    let status = status_of(&result);
    for sentence in &result.broken {
        eprintln!("mcrun probe: {sentence}");
    }
    if json {
        print_json(&Line::Result(result)).context("cannot print the result")?;
    } else {
        print(format_args!("{result}")).context("cannot print the result")?;
    }
    Ok(status)
}

/// What has come, as one line of a terminal that is written again and again.
#[derive(Default)]
struct Total {
    packets: u64,
    lost: Option<u64>,
    /// Length of what is shown, in characters.
    shown: usize,
}

impl Total {
    /// Shows one more interval. Packets and bytes are those of the last second.
    fn show(&mut self, line: &IntervalLine) -> io::Result<()> {
        let groups = || line.groups.iter().map(|group| &group.report);
        let packets: u64 = groups().map(|report| report.packets).sum();
        let bits = groups().map(|report| report.bytes).sum::<u64>() as f64 * 8.0;
        self.packets += packets;
        for lost in groups().filter_map(|report| report.lost) {
            *self.lost.get_or_insert(0) += lost;
        }
        let lost = self.lost.map_or("loss unknown".to_owned(), |lost| format!("{lost} lost"));
        let text = match self.packets {
            0 => format!("{:.0} s: nothing has come", line.elapsed.as_secs_f64()),
            all => format!(
                "{:.0} s: {all} packets, {lost}; {packets}/s, {:.1} Mbit/s",
                line.elapsed.as_secs_f64(),
                bits / 1e6
            ),
        };
        let width = self.shown;
        self.shown = text.chars().count();
        let mut err = io::stderr().lock();
        write!(err, "\r{text:<width$}")?;
        err.flush()
    }

    /// Leaves the line free.
    fn clear(&self) {
        eprint!("\r{:width$}\r", "", width = self.shown);
    }
}

fn status_of(result: &ReceiveResult) -> ExitCode {
    let silent = result.groups.iter().any(|g| g.report.packets == 0);
    if silent || result.ended == Ended::Timeout {
        ExitCode::from(NOTHING_CAME)
    } else if !result.broken.is_empty() {
        ExitCode::from(LIMIT_BROKEN)
    } else {
        ExitCode::SUCCESS
    }
}

/// The destinations in the caller's network namespace, unless one is there twice.
fn destinations(targets: &[Target], interface: Option<&str>) -> anyhow::Result<Vec<Destination>> {
    let named = interface.map(|name| index_of("--interface", name)).transpose()?;
    let on_interface = |target: &Target| {
        let zone = target.zone.as_deref();
        let zone = zone.map(|zone| index_of(&format!("zone of {}", target.group), zone));
        match (zone.transpose()?, named) {
            (Some(zone), Some(named)) if zone != named => {
                bail!("{}: its zone and --interface name different interfaces", target.on(zone))
            }
            (None, None) if target.needs_interface() => {
                let group = target.group;
                bail!("{group} is of one link: name the link with --interface or as {group}%IF")
            }
            (zone, named) => Ok(target.on(zone.or(named).unwrap_or(0))),
        }
    };
    let destinations = targets.iter().map(on_interface).collect::<anyhow::Result<Vec<_>>>()?;
    let mut seen = HashSet::new();
    match destinations.iter().find(|destination| !seen.insert(**destination)) {
        Some(twice) => bail!("{twice} is named twice"),
        None => Ok(destinations),
    }
}

fn check_family(source: IpAddr, group: IpAddr) -> anyhow::Result<()> {
    if source.is_ipv4() != group.is_ipv4() {
        bail!("--source {source} cannot send to {group}: one is IPv4, the other is IPv6");
    }
    Ok(())
}

/// The index of an interface, which may also be named by its index. `what` has named it.
fn index_of(what: &str, name: &str) -> anyhow::Result<u32> {
    if let Ok(index) = nix::net::if_::if_nametoindex(name) {
        return Ok(index);
    }
    match name.parse() {
        Ok(index) if nix::net::if_::if_indextoname(index).is_ok() => return Ok(index),
        _ => {}
    }
    let names: Vec<String> = nix::net::if_::if_nameindex()
        .map(|list| list.iter().map(|i| i.name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    bail!("{what} {name:?} does not exist; there are {}", names.join(", "))
}

/// Packets per second.
fn parse_rate(text: &str) -> Result<f64, String> {
    let (number, factor) = text.strip_suffix('k').map_or((text, 1.0), |number| (number, 1000.0));
    let rate = number.parse().ok().map(|rate: f64| rate * factor);
    rate.filter(|rate| (0.001..=10_000_000.0).contains(rate))
        .ok_or("write packets per second, 0.001 to 10000000, such as 50 or 94k".into())
}

fn print(text: std::fmt::Arguments<'_>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_fmt(text)?;
    out.flush()
}

fn print_json(value: &impl Serialize) -> io::Result<()> {
    print(format_args!("{}\n", serde_json::to_string(value)?))
}
