//! What the kernel has.
//!
//! What is a module and not loaded is looked for among the files of modules, because to try it would
//! load it. What is built in is tried, in a network namespace that is made for it and goes with it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::io::Read;
use std::net::Ipv4Addr;
use std::path::Path;

use crate::bpf;
use crate::doctor::facts::{Fact, Feature};
use crate::net::link_monitor::{Family, LinkMonitor};
use crate::net::messages::{Ipvlan, Macvlan, new_ipvlan, new_macvlan};
use crate::net::netlink::{NLM_F_CREATE, NLM_F_EXCL, RouteSocket};
use crate::net::netns::NetNs;
use crate::primitives::{IpvlanFlag, IpvlanMode, MacvlanMode};
use crate::proxy::{HostFence, NflogSocket};

/// Bytes of the list of modules that are read; that of a distribution has half a megabyte.
const MAX_LIST: u64 = 4 << 20;
/// Index of the loopback interface (`LOOPBACK_IFINDEX` in include/net/flow.h).
const LOOPBACK: u32 = 1;

/// What the kernel of this release has.
pub(super) fn features(release: &str) -> Vec<(Feature, Fact<bool>)> {
    // Without a namespace to try things in, files alone tell.
    let scratch =
        NetNs::create().map_err(|error| format!("cannot be tried ({error}): run it as root"));
    let modules = Modules::of(release);
    let tried = |name: &str, attempt: &dyn Fn(&NetNs) -> io::Result<bool>| match modules.has(name) {
        Some(has) => Ok(has),
        None => scratch.as_ref().map_err(Clone::clone).and_then(|scratch| {
            attempt(scratch).map_err(|error| format!("cannot be tried: {error}"))
        }),
    };
    let notifications = LinkMonitor::open_unsubscribed(&[Family::Ipv4])
        .map_err(|error| error.to_string())
        .map(|monitor| monitor.subscribe_memberships().is_ok());
    vec![
        (Feature::Macvlan, tried("macvlan", &|scratch| has_kind(scratch, Kind::Macvlan))),
        (Feature::Ipvlan, tried("ipvlan", &|scratch| has_kind(scratch, Kind::Ipvlan))),
        (Feature::Tables, tried("nf_tables", &has_tables)),
        (Feature::Log, tried("nfnetlink_log", &has_log)),
        (Feature::JoinNotifications, notifications),
        (Feature::Counting, loads(|| bpf::count::load(&bpf::count::table()?).map(drop))),
        (Feature::Relaying, scratch.as_ref().map_err(Clone::clone).and_then(relaying)),
    ]
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Macvlan,
    Ipvlan,
}

/// Asks for a link on the loopback interface, which no kernel makes. One that does not know the kind
/// says so (`rtnl_newlink` in net/core/rtnetlink.c).
fn has_kind(scratch: &NetNs, kind: Kind) -> io::Result<bool> {
    let mut socket = RouteSocket::open_in(scratch)?;
    let request = match kind {
        Kind::Macvlan => {
            let mode = MacvlanMode::Bridge;
            let (mac, mtu) = (None, None);
            let link = Macvlan {
                name: "try",
                parent: LOOPBACK,
                mode,
                mac,
                mtu,
                bcqueuelen: 1000,
                bclim: 1,
            };
            new_macvlan(&link, std::os::fd::AsFd::as_fd(scratch))
        }
        Kind::Ipvlan => {
            let (mode, flag) = (IpvlanMode::L2, IpvlanFlag::Bridge);
            let link = Ipvlan { name: "try", parent: LOOPBACK, mode, flag, mtu: None };
            new_ipvlan(&link, std::os::fd::AsFd::as_fd(scratch))
        }
    };
    let answer = socket.request(request, NLM_F_CREATE | NLM_F_EXCL);
    Ok(!matches!(answer, Err(error) if error.errno == libc::EOPNOTSUPP))
}

fn has_tables(scratch: &NetNs) -> io::Result<bool> {
    let made = scratch.run(|| {
        HostFence::open()?.set(&BTreeSet::from([(LOOPBACK, Ipv4Addr::new(239, 255, 255, 255))]))
    })?;
    is_there(made)
}

fn has_log(scratch: &NetNs) -> io::Result<bool> {
    is_there(scratch.run(NflogSocket::open)?.map(drop))
}

/// Whether a program can be attached to an interface: in the scratch namespace.
fn relaying(scratch: &NetNs) -> Fact<bool> {
    let attempt = || loads(|| bpf::relay::RelayPrograms::<Ipv4Addr>::load(LOOPBACK).map(drop));
    scratch.run(attempt).unwrap_or_else(|error| Err(format!("cannot be tried: {error}")))
}

/// Whether the kernel takes a BPF program.
fn loads(attempt: impl FnOnce() -> io::Result<()>) -> Fact<bool> {
    match attempt() {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) && !is_root() => {
            Err("cannot be tried: run it as root".into())
        }
        Err(error) if is_shortage(&error) => Err(format!("cannot be tried: {error}")),
        Err(_) => Ok(false),
    }
}

fn is_there(attempt: io::Result<()>) -> io::Result<bool> {
    match attempt {
        Ok(()) => Ok(true),
        Err(error) if is_shortage(&error) => Err(error),
        Err(_) => Ok(false),
    }
}

/// Whether a later attempt may succeed.
fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOMEM | libc::EMFILE | libc::ENFILE | libc::EPERM))
        && !(is_root() && error.raw_os_error() == Some(libc::EPERM))
}

pub(super) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The lists of modules of a kernel.
struct Modules {
    loadable: Option<String>,
}

impl Modules {
    fn of(release: &str) -> Self {
        let read = || {
            let mut text = String::new();
            let path = Path::new("/lib/modules").join(release).join("modules.dep");
            File::open(path)?.take(MAX_LIST).read_to_string(&mut text)?;
            io::Result::Ok(text)
        };
        // The release is the kernel's word: no path.
        let is_name = !release.contains('/') && !release.starts_with('.');
        Modules { loadable: is_name.then(read).and_then(Result::ok) }
    }

    /// Whether the kernel has a module; `None`: it may be built in.
    fn has(&self, name: &str) -> Option<bool> {
        if Path::new("/sys/module").join(name).join("refcnt").exists() {
            return Some(true);
        }
        let is_it = |line: &str| {
            let path = line.split(':').next().unwrap_or_default();
            let file = path.rsplit('/').next().unwrap_or_default();
            file.strip_prefix(name).is_some_and(|rest| rest.starts_with(".ko"))
        };
        self.loadable.as_ref().is_some_and(|list| list.lines().any(is_it)).then_some(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_that_is_not_loaded_is_found_and_not_loaded() {
        let list = "kernel/drivers/net/macvlan-test.ko.xz:\nkernel/drivers/net/nothing/veryodd.ko: \
                    kernel/lib/crc.ko\n";
        let modules = Modules { loadable: Some(list.to_owned()) };
        assert_eq!(modules.has("veryodd"), Some(true));
        assert_eq!(modules.has("macvlan"), None, "it may be built in");
        assert_eq!(modules.has("crc"), None);
    }

    #[test]
    fn this_kernel_has_what_the_tests_need() {
        let release = nix::sys::utsname::uname().unwrap().release().to_string_lossy().into_owned();
        let has = |feature| {
            let features = features(&release);
            features.into_iter().find(|(f, _)| *f == feature).unwrap().1
        };
        for feature in [Feature::Macvlan, Feature::Tables, Feature::Log, Feature::Counting] {
            assert_eq!(has(feature), Ok(true), "{feature:?}");
        }
    }
}
