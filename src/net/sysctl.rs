//! Settings below `/proc/sys/net`. The directory shows the network namespace of the thread that
//! opens it, so it is opened inside [`crate::net::netns::NetNs::run`].

use std::cell::OnceCell;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use nix::dir::Dir;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;

use crate::sys::procfs;

const ROOT: &str = "/proc";
const NET: &str = "sys/net";
const DIRECTORY: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// A setting below `/proc/sys/net` of the container's namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sysctl {
    /// Write a value. A missing file is no error: the kernel does not have the feature.
    Set(String, u32),
    /// Write a value. A missing file is an error.
    Require(String, u32),
    /// Raise a number to at least this.
    Raise(String, u32),
    /// Let this interface, whose own `rp_filter` is 0, receive from sources without a route back,
    /// as is usual for streams on a media LAN. Other interfaces keep their check.
    AcceptAnySource(String),
}

/// Why a setting could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot set net/{path} to {value}: {source}")]
pub struct SysctlError {
    path: String,
    value: u32,
    source: io::Error,
}

/// The settings of one network namespace: that of the thread which opens the first of them.
///
/// The directory of each protocol is opened once and kept. Looking a directory up by its path is
/// slow on a host with many namespaces: all of them share one hash chain of the kernel's dentry
/// cache (`proc_sys_compare` in fs/proc/proc_sysctl.c), which takes up to a millisecond with 500
/// namespaces. A lookup below the open directory concerns this namespace alone.
#[derive(Debug, Default)]
pub struct Sysctls {
    apart: bool,
    /// A proc filesystem instance of somebody.
    instance: Option<OwnedFd>,
    /// The own instance.
    own: OnceCell<OwnedFd>,
    net: OnceCell<OwnedFd>,
    ipv4: OnceCell<OwnedFd>,
    ipv6: OnceCell<OwnedFd>,
}

impl Sysctls {
    /// Settings that are looked up in a proc filesystem instance of their own. Mounting the
    /// instance takes a fifth of a millisecond, whatever the number of namespaces, and leaves the
    /// cache of `/proc` as it was.
    pub fn apart() -> Self {
        Sysctls { apart: true, ..Sysctls::default() }
    }

    /// Settings that are looked up in this proc filesystem instance, for who looks into many namespaces:
    /// the end of an instance takes a millisecond, and one serves them all. Without it they are looked
    /// up in `/proc`.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn of_instance(instance: Option<&OwnedFd>) -> io::Result<Self> {
        let instance = instance.map(OwnedFd::try_clone).transpose()?;
        Ok(Sysctls { instance, ..Sysctls::default() })
    }

    /// Opens `ipv4/...` or `ipv6/...` for reading, or for reading and writing.
    ///
    /// # Errors
    /// `ENOENT` where there is no such setting, and those of open(2).
    pub fn open(&self, path: &str, writable: bool) -> io::Result<File> {
        let mode = if writable { OFlag::O_RDWR } else { OFlag::O_RDONLY };
        Ok(self.open_as(path, mode)?.into())
    }

    fn open_as(&self, path: &str, mode: OFlag) -> io::Result<OwnedFd> {
        let (protocol, rest) = path.split_once('/').ok_or(io::ErrorKind::NotFound)?;
        let directory = match protocol {
            "ipv4" => &self.ipv4,
            _ => &self.ipv6,
        };
        let net = get_or_try_init(&self.net, || self.open_net())?;
        let directory =
            get_or_try_init(directory, || openat(net, protocol, DIRECTORY, Mode::empty()))?;
        Ok(openat(directory, rest, mode | OFlag::O_CLOEXEC, Mode::empty())?)
    }

    fn open_net(&self) -> nix::Result<OwnedFd> {
        if let Some(instance) = &self.instance {
            return openat(instance, NET, DIRECTORY, Mode::empty());
        }
        // Refused, for example, in a container whose /proc is masked: use the usual /proc.
        if let Some(Ok(own)) = self.apart.then(|| get_or_try_init(&self.own, procfs::new_instance))
        {
            return openat(own, NET, DIRECTORY, Mode::empty());
        }
        openat(open(ROOT, DIRECTORY, Mode::empty())?, NET, DIRECTORY, Mode::empty())
    }

    /// The proc filesystem instance of its own, if there is one. The kernel closes the last descriptor
    /// of one when no processor uses it any more, which takes up to a few milliseconds
    /// (`dissolve_on_fput` in fs/namespace.c).
    pub fn into_own_instance(self) -> Option<OwnedFd> {
        self.own.into_inner()
    }

    /// Carries out one setting.
    ///
    /// # Errors
    /// When the file is absent where it must not be, or cannot be written.
    pub fn apply(&self, sysctl: &Sysctl) -> Result<(), SysctlError> {
        match sysctl {
            Sysctl::Set(path, value) => match self.write(path, *value) {
                Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(()),
                result => result,
            },
            Sysctl::Require(path, value) => self.write(path, *value),
            Sysctl::Raise(path, value) => self.raise(path, *value),
            Sysctl::AcceptAnySource(name) => self.accept_any_source(name),
        }
    }

    /// The kernel takes the stricter of `all` and the interface (`IN_DEV_RPFILTER` in
    /// include/linux/inetdevice.h): `all` must go to 0, and the other interfaces keep what it
    /// gave them.
    fn accept_any_source(&self, name: &str) -> Result<(), SysctlError> {
        let path = |interface: &str| format!("ipv4/conf/{interface}/rp_filter");
        let all = self.number(&path("all")).unwrap_or(0);
        if all == 0 {
            return Ok(());
        }
        let directory = self.open_as("ipv4/conf", OFlag::O_RDONLY | OFlag::O_DIRECTORY).ok();
        let entries = directory.and_then(|directory| Dir::from_fd(directory).ok());
        for entry in entries.into_iter().flatten().flatten() {
            let Ok(interface) = entry.file_name().to_str() else { continue };
            if matches!(interface, "." | "..") {
                continue;
            }
            if interface != "all"
                && interface != name
                && self.number(&path(interface)).is_some_and(|own| own < all)
            {
                self.write(&path(interface), all)?;
            }
        }
        self.write(&path("all"), 0)
    }

    /// A setting that is a number; `None` where there is none.
    pub fn number(&self, path: &str) -> Option<u32> {
        number(&self.open(path, false).ok()?)
    }

    /// Opens the file once: the lookup is most of the work.
    fn raise(&self, path: &str, value: u32) -> Result<(), SysctlError> {
        let raise = || {
            let file = self.open(path, true)?;
            match number(&file) {
                Some(now) if value <= now => Ok(()),
                _ => file.write_all_at(value.to_string().as_bytes(), 0),
            }
        };
        raise().map_err(|source| SysctlError { path: path.to_owned(), value, source })
    }

    fn write(&self, path: &str, value: u32) -> Result<(), SysctlError> {
        let file = self.open(path, true);
        file.and_then(|file| file.write_all_at(value.to_string().as_bytes(), 0))
            .map_err(|source| SysctlError { path: path.to_owned(), value, source })
    }
}

/// `OnceCell::get_or_try_init`, which is not stable yet.
fn get_or_try_init<T, E>(cell: &OnceCell<T>, init: impl FnOnce() -> Result<T, E>) -> Result<&T, E> {
    match cell.get() {
        Some(value) => Ok(value),
        None => init().map(|value| cell.get_or_init(|| value)),
    }
}

/// What the open file of a setting says now.
pub fn number(file: &File) -> Option<u32> {
    let mut text = [0; 16];
    let length = file.read_at(&mut text, 0).ok()?;
    std::str::from_utf8(text.get(..length)?).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::devconf::DevConf;
    use crate::net::messages::set_devconf;
    use crate::net::netlink::RouteSocket;
    use crate::net::netns::NetNs;

    #[test]
    fn settings_are_those_of_the_namespace_that_was_looked_into_first() {
        let (one, two) = (NetNs::create().unwrap(), NetNs::create().unwrap());
        let path = "ipv4/igmp_max_memberships";
        let (of_one, of_two) = (Sysctls::default(), Sysctls::default());
        let raise = Sysctl::Raise(path.into(), 500);
        one.run(|| of_one.apply(&raise)).unwrap().unwrap();
        let before = two.run(|| of_two.number(path)).unwrap().unwrap();
        assert!(before < 500);
        // The thread may be in another namespace by now.
        assert_eq!((of_one.number(path), of_two.number(path)), (Some(500), Some(before)));
        of_one.apply(&Sysctl::Raise(path.into(), 400)).unwrap();
        assert_eq!(of_one.number(path), Some(500), "raised, never lowered");
        let none = "ipv4/no_such_setting".to_owned();
        of_one.apply(&Sysctl::Set(none.clone(), 1)).unwrap();
        assert!(of_one.apply(&Sysctl::Require(none, 1)).is_err());
    }

    #[test]
    fn a_proc_filesystem_of_its_own_shows_the_same_settings() {
        procfs::new_instance().unwrap();
        let namespace = NetNs::create().unwrap();
        let (apart, usual) = (Sysctls::apart(), Sysctls::default());
        namespace
            .run(|| apart.apply(&Sysctl::Set("ipv4/igmp_max_msf".into(), 77)))
            .unwrap()
            .unwrap();
        let seen = namespace.run(|| usual.number("ipv4/igmp_max_msf")).unwrap();
        assert_eq!((seen, apart.number("ipv4/igmp_max_msf")), (Some(77), Some(77)));
    }

    #[test]
    fn other_interfaces_keep_their_source_check_when_one_gives_it_up() {
        let namespace = NetNs::create().unwrap();
        for of in [Sysctls::apart(), Sysctls::default()] {
            let values = |all, loopback| {
                let each = [("all", all), ("lo", loopback), ("default", 0)];
                each.map(|(name, value)| {
                    Sysctl::Require(format!("ipv4/conf/{name}/rp_filter"), value)
                })
            };
            let accept = Sysctl::AcceptAnySource("default".into());
            let settings = values(2, 1).into_iter().chain([accept]);
            let apply = || settings.into_iter().try_for_each(|setting| of.apply(&setting));
            namespace.run(apply).unwrap().unwrap();
            let now = |name| of.number(&format!("ipv4/conf/{name}/rp_filter"));
            assert_eq!(["all", "lo", "default"].map(now), [Some(0), Some(2), Some(0)]);
        }
    }

    #[test]
    fn settings_of_an_interface_by_netlink_are_those_of_the_files() {
        let namespace = NetNs::create().unwrap();
        let mut socket = RouteSocket::open_in(&namespace).unwrap();
        let of = Sysctls::default();
        let loopback = 1;
        for value in [1, 0] {
            let settings = [
                (DevConf::RpFilter, value),
                (DevConf::ForceIgmpVersion, value),
                (DevConf::ArpIgnore, value),
                (DevConf::ArpNotify, value),
                (DevConf::Igmpv2ReportInterval, 20 + value),
                (DevConf::Igmpv3ReportInterval, 30 + value),
            ];
            socket.request(set_devconf(loopback, &settings), 0).unwrap();
            for (setting, value) in settings {
                let path = format!("ipv4/conf/lo/{}", setting.name());
                let now = namespace.run(|| of.number(&path)).unwrap();
                assert_eq!(now, Some(value), "{path}");
            }
        }
    }
}
