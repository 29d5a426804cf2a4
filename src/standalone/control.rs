//! `mcrun stop`, `kill` and `rm`.

use std::time::Duration;

use crate::standalone::StandaloneError;
use crate::standalone::container::{Container, ContainerRecord};
use crate::standalone::process::{Reaper, become_subreaper};
use crate::standalone::teardown::{STEP, teardown};

/// Sends SIGTERM, and SIGKILL when the container has not ended after `grace`. A container that
/// has ended already is fine.
///
/// # Errors
/// Status 1: the container has not started, or does not end.
pub fn stop(container: &Container, grace: Duration) -> Result<(), StandaloneError> {
    let record = read_record(container)?;
    if let Some(init) = record.init.and_then(|init| init.open().ok()) {
        let failed = |error| failure(container, "stop", error);
        init.signal(libc::SIGTERM).map_err(failed)?;
        if !init.wait(grace) {
            init.signal(libc::SIGKILL).map_err(failed)?;
            if !init.wait(STEP) {
                return Err(failed(std::io::Error::other("its init does not end")));
            }
        }
    }
    wait_for_shim(&record);
    Ok(())
}

/// Sends a signal to the container's init.
///
/// # Errors
/// Status 1: the container does not run.
pub fn kill(container: &Container, signal: i32) -> Result<(), StandaloneError> {
    let record = read_record(container)?;
    let init = record.init.and_then(|init| init.open().ok()).ok_or_else(|| {
        StandaloneError::with_status(1, format_args!("container {} is not running", container.id()))
    })?;
    init.signal(signal).map_err(|error| failure(container, "kill", error))?;
    if signal == libc::SIGKILL && init.wait(STEP) {
        wait_for_shim(&record);
    }
    Ok(())
}

/// Removes a container; with `force` one that runs, too.
///
/// # Errors
/// Status 1: the container runs, or could not be removed.
pub fn remove(container: &Container, force: bool) -> Result<(), StandaloneError> {
    let Some(record) = container.record() else {
        // The process that made it was killed before it wrote the record.
        return container.remove_dir().map_err(|error| failure(container, "remove", error));
    };
    let starting = record.init.is_none() && record.shim.is_alive();
    if (record.is_running() || starting) && !force {
        return Err(StandaloneError::with_status(
            1,
            format_args!("container {} is running; stop it first, or use -f", container.id()),
        ));
    }
    // A running shim removes the container itself, because it knows how far a start has come.
    if let Ok(shim) = record.shim.open() {
        let _ = shim.signal(libc::SIGTERM);
        shim.wait(STEP);
    }
    let Some(record) = container.record() else { return Ok(()) };
    let mut reaper = become_subreaper()
        .and_then(|()| Reaper::new(&[]))
        .map_err(|error| failure(container, "remove", error))?;
    match teardown(container, &record, &mut reaper) {
        failures if failures.is_empty() => Ok(()),
        failures => Err(failure(container, "remove", std::io::Error::other(failures.join("; ")))),
    }
}

/// Removes containers that ended after their shim was killed, so that their status is unknown.
/// Running containers, and stopped ones that wait for `mcrun rm`, stay. Returns the id of each
/// removed container and the result.
pub fn collect_garbage() -> Vec<(String, Result<(), StandaloneError>)> {
    let abandoned = |container: &Container| match container.record() {
        Some(record) => record.is_abandoned(),
        None => container.is_older_than(STEP),
    };
    let containers = Container::list().into_iter().filter(abandoned);
    containers.map(|c| (c.id().to_owned(), remove(&c, true))).collect()
}

/// Signal names with or without SIG, in any case, and numbers.
///
/// # Errors
/// When there is no such signal.
pub fn parse_signal(text: &str) -> Result<i32, StandaloneError> {
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    let by_name = name.parse::<nix::sys::signal::Signal>().map(|signal| signal as i32);
    let by_number = || text.parse().ok().filter(|number| (1..=64).contains(number));
    by_name.ok().or_else(by_number).ok_or_else(|| {
        StandaloneError::with_status(
            1,
            format_args!("no such signal: {text}; expected a name such as SIGUSR1 or 1 to 64"),
        )
    })
}

fn read_record(container: &Container) -> Result<ContainerRecord, StandaloneError> {
    container.record().ok_or_else(|| {
        StandaloneError::with_status(
            1,
            format_args!("container {0} has not started; mcrun rm {0} removes it", container.id()),
        )
    })
}

/// Waits until the shim has ended: a foreground or `--rm` container is removed then, and its name
/// is free.
fn wait_for_shim(record: &ContainerRecord) {
    if let Ok(shim) = record.shim.open() {
        shim.wait(STEP);
    }
}

fn failure(container: &Container, what: &str, error: std::io::Error) -> StandaloneError {
    StandaloneError::with_status(1, format_args!("cannot {what} {}: {error}", container.id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        for (text, number) in [("TERM", 15), ("sigusr1", 10), ("9", 9), ("KILL", 9), ("34", 34)] {
            assert_eq!(parse_signal(text), Ok(number), "{text}");
        }
        for bad in ["", "0", "65", "-1", "FOO", "SIG"] {
            assert!(parse_signal(bad).is_err(), "{bad:?}");
        }
    }
}
