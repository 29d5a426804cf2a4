//! The container that a process belongs to.

use std::fs;

/// The 64-digit id of the container of a process, which engines put into the name of its control
/// group; `None` where they do not, or there is no such process.
pub fn container_id_of(pid: i32) -> Option<String> {
    container_of_cgroups(&fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?)
}

/// The id in a cgroup's path: `docker/ID`, `libpod-ID.scope`, `cri-containerd-ID.scope`.
fn container_of_cgroups(text: &str) -> Option<String> {
    let parts = text.lines().flat_map(|line| line.rsplit(['/', ':']));
    parts
        .map(|part| part.strip_suffix(".scope").unwrap_or(part))
        .map(|part| part.rsplit('-').next().unwrap_or(part))
        .find(|part| part.len() == 64 && part.bytes().all(|b| b.is_ascii_hexdigit()))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_found_in_the_cgroups() {
        let id = "9f6e0d7f2fd304cf3af98aa70d8175a1330ef72a4b3b95601bea6937f43f8c3e";
        for line in [
            format!("12:pids:/docker/{id}\n0::/\n"),
            format!("0::/machine.slice/libpod-{id}.scope/container\n"),
            format!("0::/kubepods.slice/cri-containerd-{id}.scope\n"),
        ] {
            assert_eq!(container_of_cgroups(&line).as_deref(), Some(id), "{line}");
        }
        assert_eq!(container_of_cgroups("0::/user.slice/session-1.scope\n"), None);
    }

    #[test]
    fn a_process_that_is_not_there_is_none() {
        assert_eq!(container_id_of(i32::MAX), None);
    }
}
