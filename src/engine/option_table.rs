//! Which options of `run` and `create` take a value as an argument of its own.
//!
//! docker, podman and nerdctl mean the same by the names they share, so that one table serves all.
//! What it does not know is looked up in the engine's own `--help` ([`HelpOptions`]).

use std::collections::BTreeMap;

/// Long options with a value: docker 20.10 to 28, podman 4 and 5, nerdctl 1 and 2, with the aliases
/// that their help does not show.
const WITH_VALUE: &[&str] = &[
    "add-host",
    "annotation",
    "arch",
    "attach",
    "authfile",
    "blkio-weight",
    "blkio-weight-device",
    "bundle",
    "cap-add",
    "cap-drop",
    "cert-dir",
    "cgroup-conf",
    "cgroup-parent",
    "cgroupns",
    "cgroups",
    "chrootdirs",
    "cidfile",
    "conmon-pidfile",
    "cosign-certificate-identity",
    "cosign-certificate-identity-regexp",
    "cosign-certificate-oidc-issuer",
    "cosign-certificate-oidc-issuer-regexp",
    "cosign-key",
    "cpu-count",
    "cpu-percent",
    "cpu-period",
    "cpu-quota",
    "cpu-rt-period",
    "cpu-rt-runtime",
    "cpu-shares",
    "cpus",
    "cpuset-cpus",
    "cpuset-mems",
    "creds",
    "decryption-key",
    "detach-keys",
    "device",
    "device-cgroup-rule",
    "device-read-bps",
    "device-read-iops",
    "device-write-bps",
    "device-write-iops",
    "dns",
    "dns-opt",
    "dns-option",
    "dns-search",
    "domainname",
    "entrypoint",
    "env",
    "env-file",
    "env-merge",
    "expose",
    "gidmap",
    "gpus",
    "group-add",
    "group-entry",
    "health-cmd",
    "health-interval",
    "health-log-destination",
    "health-max-log-count",
    "health-max-log-size",
    "health-on-failure",
    "health-retries",
    "health-start-interval",
    "health-start-period",
    "health-startup-cmd",
    "health-startup-interval",
    "health-startup-retries",
    "health-startup-success",
    "health-startup-timeout",
    "health-timeout",
    "hostname",
    "hosts-file",
    "hostuser",
    "image-volume",
    "init-binary",
    "init-ctr",
    "init-path",
    "io-maxbandwidth",
    "io-maxiops",
    "ip",
    "ip6",
    "ipc",
    "ipfs-address",
    "isolation",
    "kernel-memory",
    "kernel-memory-tcp",
    "label",
    "label-file",
    "link",
    "link-local-ip",
    "log-driver",
    "log-opt",
    "mac-address",
    "memory",
    "memory-reservation",
    "memory-swap",
    "memory-swappiness",
    "mount",
    "name",
    "net",
    "net-alias",
    "network",
    "network-alias",
    "oom-score-adj",
    "os",
    "passwd-entry",
    "personality",
    "pid",
    "pidfile",
    "pids-limit",
    "platform",
    "pod",
    "pod-id-file",
    "preserve-fd",
    "preserve-fds",
    "publish",
    "pull",
    "rdt-class",
    "requires",
    "restart",
    "retry",
    "retry-delay",
    "runtime",
    "sdnotify",
    "seccomp-policy",
    "secret",
    "security-opt",
    "shm-size",
    "shm-size-systemd",
    "signature-policy",
    "stop-signal",
    "stop-timeout",
    "storage-opt",
    "subgidname",
    "subuidname",
    "sysctl",
    "systemd",
    "timeout",
    "tmpfs",
    "tz",
    "uidmap",
    "ulimit",
    "umask",
    "unsetenv",
    "user",
    "userns",
    "uts",
    "variant",
    "verify",
    "volume",
    "volume-driver",
    "volumes-from",
    "workdir",
];

/// Long options that switch something; a value comes behind `=` or not at all.
const SWITCHES: &[&str] = &[
    "detach",
    "disable-content-trust",
    "env-host",
    "help",
    "http-proxy",
    "init",
    "interactive",
    "no-healthcheck",
    "no-hostname",
    "no-hosts",
    "oom-kill-disable",
    "passwd",
    "privileged",
    "publish-all",
    "quiet",
    "read-only",
    "read-only-tmpfs",
    "replace",
    "rm",
    "rmi",
    "rootfs",
    "sig-proxy",
    "tls-verify",
    "tty",
    "unsetenv-all",
    "use-api-socket",
];

/// Short options with a value.
const SHORT_WITH_VALUE: &[u8] = b"acehlmpuvw";
/// Short options that switch something.
const SHORT_SWITCHES: &[u8] = b"diPqt";

/// What is known of options: the table, and what an engine's help says beyond it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OptionTable {
    help: HelpOptions,
}

impl OptionTable {
    /// The table, with the help of the engine at hand.
    pub fn with_help(help: HelpOptions) -> Self {
        OptionTable { help }
    }

    /// Whether a long option (without its dashes) takes a value; `None` when it is not known.
    pub fn long_takes_value(&self, name: &str) -> Option<bool> {
        match () {
            () if WITH_VALUE.contains(&name) => Some(true),
            () if SWITCHES.contains(&name) => Some(false),
            () => self.help.long.get(name).copied(),
        }
    }

    /// The same of a letter.
    pub fn short_takes_value(&self, letter: u8) -> Option<bool> {
        match () {
            () if SHORT_WITH_VALUE.contains(&letter) => Some(true),
            () if SHORT_SWITCHES.contains(&letter) => Some(false),
            () => self.help.short.get(&letter).copied(),
        }
    }
}

/// The options in the `--help` of an engine, each with whether it takes a value as an argument of
/// its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HelpOptions {
    /// By name, without dashes.
    pub long: BTreeMap<String, bool>,
    /// By letter.
    pub short: BTreeMap<u8, bool>,
}

impl HelpOptions {
    /// Reads the text that the engines' flag library prints: `  -e, --env list   What it is for`.
    /// The type stands between the name and two spaces; a switch has none, and one whose value may
    /// be left out has `[=...]`.
    pub fn parse(text: &str) -> Self {
        let mut help = HelpOptions::default();
        for line in text.lines() {
            let line = line.trim_start();
            let (letter, line) = match line.as_bytes() {
                [b'-', letter, b',', b' ', ..] if *letter != b'-' => (Some(*letter), &line[4..]),
                _ => (None, line),
            };
            let Some(option) = line.strip_prefix("--") else { continue };
            let (left, _) = option.split_once("  ").unwrap_or((option, ""));
            let (name, kind) = left.split_once(' ').unwrap_or((left, ""));
            if name.is_empty() {
                continue;
            }
            let takes_value =
                !kind.trim().is_empty() && !name.contains("[=") && !kind.contains("[=");
            help.long.insert(name.to_owned(), takes_value);
            if let Some(letter) = letter {
                help.short.insert(letter, takes_value);
            }
        }
        help
    }

    /// Where the table says otherwise, or nothing: each option that is in the help.
    pub fn differences(&self) -> Vec<String> {
        let table = OptionTable::default();
        let long =
            self.long.iter().filter(|(name, value)| table.long_takes_value(name) != Some(**value));
        let short = self
            .short
            .iter()
            .filter(|(letter, value)| table.short_takes_value(**letter) != Some(**value));
        long.map(|(name, _)| format!("--{name}"))
            .chain(short.map(|(letter, _)| format!("-{}", char::from(*letter))))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_does_not_contradict_itself() {
        for name in WITH_VALUE {
            assert!(!SWITCHES.contains(name), "{name}");
        }
        assert!(WITH_VALUE.is_sorted() && SWITCHES.is_sorted());
    }

    #[test]
    fn help_tells_options_with_and_without_a_value() {
        let help = HelpOptions::parse(
            "Usage:\n\nOptions:\n      --add-host list    Add a mapping (host:ip)\n  \
             -d, --detach           Run in background\n  -m, --memory <number>[<unit>]   Limit\n      \
             --future               (default true)\n      --maybe string[=\"x\"]   Perhaps\n      \
             --help\n",
        );
        assert!(help.long["add-host"]);
        assert!(help.long["memory"]);
        assert!(help.short[&b'm']);
        assert!(!help.short[&b'd']);
        for switch in ["detach", "future", "maybe", "help"] {
            assert!(!help.long[switch], "{switch}");
        }
        assert_eq!(help.differences(), ["--future", "--maybe"]);
    }
}
