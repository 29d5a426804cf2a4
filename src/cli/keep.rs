//! `mcrun keep`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::attachment::AdminConfig;
use crate::keeper::{Options, ProxyUids, keep};
use crate::state::{Store, config_dir};

/// Arguments of `mcrun keep`.
#[derive(Debug, Args)]
pub struct KeepArgs {
    /// Time between two questions to a proxy; one that leaves two unanswered is replaced.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time)]
    watchdog: Duration,
    /// A proxy that dies sooner after its start is in a crash loop: its successor waits, 30 s at most.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time)]
    stable_after: Duration,
}

pub(super) fn run(args: KeepArgs) -> anyhow::Result<ExitCode> {
    let admin = AdminConfig::read(&config_dir())?;
    let users = ProxyUids::of(&admin);
    let KeepArgs { watchdog, stable_after } = args;
    keep(&Store::from_env(), Options { watchdog, stable_after, users, fence: admin.fence() })?;
    Ok(ExitCode::SUCCESS)
}

/// A time above zero, such as `10s` or `500ms`.
fn time(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if !time.is_zero() => Ok(time),
        _ => Err("a time above zero is needed, such as 10s or 500ms".into()),
    }
}
