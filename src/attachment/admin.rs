//! The administrator's limits: `mcrun.toml` in the configuration directory.
//!
//! Attachments come from users, in annotations and variables, and hooks run as root. The
//! administrator says what users may ask for. Without the file they may ask for anything.
//!
//! ```toml
//! [attach]
//! parents = ["media0", "video*"]   # LAN interfaces, also as upstream; * stands for any ending
//! drivers = ["macvlan"]
//! igmp = ["proxy"]                 # native and off let a container speak IGMP on the LAN itself;
//!                                  # where [groups] has rules this is the default
//! l2 = ["closed"]                  # open lets a container send what a switch or a router sends
//!
//! [groups]                         # in force beside the rules of each attachment
//! allow = ["239.0.0.0/8"]
//! deny = ["239.255.0.0/16"]
//! max-groups = 100
//! max-sources = 20
//!
//! [relay]                          # limits for the relay of one attachment, in each direction
//! max-pps = 100000                 # packets a second
//! max-byterate = 125000000         # bytes a second
//! ports = [5353, "6000-6100"]      # ports of the host that containers may take
//!
//! [proxy]
//! notifications = false            # joins at the container's reports, not at the kernel's
//!                                  # notifications
//! uids = "61184-65519"             # each proxy is a user of its own from this range
//!
//! [runtime]                        # the OCI runtime that mcrun-runtime calls
//! path = "/usr/sbin/runc"
//! ```

use std::fs;
use std::io;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::attachment::values::{DriverName, driver_name};
use crate::attachment::{Attachment, IgmpMode, LinkLayer, UidRange};
use crate::multicast::{GroupPolicy, GroupRule, RateLimits};
use crate::primitives::PortRanges;
use crate::sys::toml_text;

/// What the administrator allows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdminConfig {
    #[serde(default)]
    attach: AttachRules,
    #[serde(default)]
    groups: GroupRules,
    #[serde(default)]
    relay: RelayRules,
    #[serde(default)]
    proxy: ProxySettings,
    #[serde(default)]
    runtime: RuntimeConfig,
}

/// The limits of one attachment: its own within the administrator's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EffectiveLimits {
    /// Who may join what.
    pub policy: GroupPolicy,
    /// What the relay carries at most.
    #[serde(default, skip_serializing_if = "RateLimits::is_none")]
    pub rates: RateLimits,
    /// Ports of the host that a relay may give to the container.
    #[serde(default, skip_serializing_if = "PortRanges::is_empty")]
    pub host_ports: PortRanges,
}

/// The part of the file that mcrun-runtime reads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuntimeConfig {
    /// Path of the OCI runtime that mcrun-runtime calls; without it the first of runc, crun and so
    /// on that is installed.
    pub path: Option<PathBuf>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct AttachRules {
    parents: Option<Vec<String>>,
    drivers: Option<Vec<DriverText>>,
    igmp: Option<Vec<IgmpMode>>,
    l2: Option<Vec<LinkLayer>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct GroupRules {
    #[serde(default)]
    allow: Vec<RuleText>,
    #[serde(default)]
    deny: Vec<RuleText>,
    max_groups: Option<u32>,
    max_sources: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RelayRules {
    max_pps: Option<NonZeroU32>,
    max_byterate: Option<NonZeroU64>,
    #[serde(default)]
    ports: PortRanges,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProxySettings {
    notifications: Option<bool>,
    uids: Option<UidRange>,
}

/// The name of a driver.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct DriverText(DriverName);

impl TryFrom<String> for DriverText {
    type Error = String;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        match driver_name(&text) {
            Ok(driver) => Ok(DriverText(driver)),
            Err(why) => Err(format!("drivers: {text:?}: {why}")),
        }
    }
}

/// A rule as the attachment syntax writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct RuleText(GroupRule);

impl TryFrom<String> for RuleText {
    type Error = crate::multicast::RuleError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map(RuleText)
    }
}

/// Why an attachment is refused. A file that cannot be read or parsed refuses every attachment:
/// without it mcrun would allow what the administrator forbids.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not TOML, or has an unknown key or a wrong value.
    #[error("{path}: {message}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong, and on which line.
        message: String,
    },
    /// The attachment asks for more than the administrator allows.
    #[error("{0}")]
    Forbidden(String),
}

impl AdminConfig {
    /// Reads `mcrun.toml` of a directory; without one, everything is allowed.
    ///
    /// # Errors
    /// When the file is there and cannot be read or understood.
    pub fn read(directory: &Path) -> Result<Self, AdminError> {
        read_file(directory)
    }

    /// Parses the text of a file.
    #[cfg(test)]
    fn parse(text: &str) -> Result<Self, String> {
        toml_text::parse(text)
    }

    /// Checks an attachment against the administrator's rules. Returns its limits: its own and the
    /// administrator's together.
    ///
    /// # Errors
    /// [`AdminError::Forbidden`], naming the key and what is allowed.
    pub fn check(&self, attachment: &Attachment) -> Result<EffectiveLimits, AdminError> {
        let forbid = |key: &str, value: &str, allowed: &[String]| {
            let allowed = if allowed.is_empty() { "none".into() } else { allowed.join(", ") };
            Err(AdminError::Forbidden(format!(
                "{key}={value}: the administrator allows {allowed} (mcrun.toml)"
            )))
        };
        if let Some(parents) = &self.attach.parents {
            for (key, name) in
                [("parent", attachment.parent_link()), ("upstream", attachment.upstream())]
            {
                if !parents.iter().any(|pattern| matches(pattern, name.as_str())) {
                    return forbid(key, name.as_str(), parents);
                }
            }
        }
        if let Some(drivers) = &self.attach.drivers
            && !drivers.iter().any(|driver| driver.0.name() == attachment.driver.name())
        {
            let names: Vec<_> = drivers.iter().map(|driver| driver.0.name().to_owned()).collect();
            return forbid("driver", attachment.driver.name(), &names);
        }
        // The proxy enforces [groups]. Without a proxy the rules would have no effect.
        let ruled = self.groups != GroupRules::default();
        let proxied = ruled.then(|| vec![IgmpMode::Proxy]);
        if let Some(modes) = self.attach.igmp.as_ref().or(proxied.as_ref())
            && !modes.contains(&attachment.igmp)
        {
            let names: Vec<_> = modes.iter().map(|mode| mode.name().to_owned()).collect();
            return forbid("igmp", attachment.igmp.name(), &names);
        }
        // What a container with an open interface sends concerns the whole LAN.
        let closed = [LinkLayer::Closed];
        let allowed = self.attach.l2.as_deref().unwrap_or(&closed);
        if !attachment.l2.is_closed() && !allowed.contains(&attachment.l2) {
            let names: Vec<_> = allowed.iter().map(|value| value.name().to_owned()).collect();
            return forbid("l2", attachment.l2.name(), &names);
        }
        let ceiling = RateLimits {
            packets: self.relay.max_pps.map(NonZeroU32::get),
            bytes: self.relay.max_byterate.map(NonZeroU64::get),
        };
        let relayed = attachment.driver.is_relayed();
        Ok(EffectiveLimits {
            policy: self.restrict(&attachment.policy)?,
            rates: if relayed { attachment.rates.at_most(ceiling) } else { RateLimits::default() },
            host_ports: if relayed { self.relay.ports.clone() } else { PortRanges::default() },
        })
    }

    /// Whether proxies act on the kernel's notification of a join (Linux 6.14) instead of waiting
    /// for the report that follows it. The default is yes.
    pub fn notifications(&self) -> bool {
        self.proxy.notifications.unwrap_or(true)
    }

    /// The user ids from which proxies get theirs.
    pub fn proxy_uids(&self) -> UidRange {
        self.proxy.uids.unwrap_or_default()
    }

    fn restrict(&self, own: &GroupPolicy) -> Result<GroupPolicy, AdminError> {
        let rules = |list: &[RuleText]| list.iter().map(|rule| rule.0).collect::<Vec<_>>();
        let ceiling = rules(&self.groups.allow);
        let allow: Vec<_> = match (own.allow.as_slice(), ceiling.as_slice()) {
            (own, []) => own.to_vec(),
            ([], ceiling) => ceiling.to_vec(),
            (own, ceiling) => {
                let pairs = own.iter().flat_map(|a| ceiling.iter().map(move |b| (a, b)));
                pairs.filter_map(|(a, b)| intersection(a, b)).collect()
            }
        };
        if let ([rule, ..], []) = (own.allow.as_slice(), allow.as_slice()) {
            let ceiling: Vec<_> = ceiling.iter().map(ToString::to_string).collect();
            return Err(AdminError::Forbidden(format!(
                "allow={rule}: the administrator allows {} (mcrun.toml)",
                ceiling.join(", ")
            )));
        }
        let mut deny = rules(&self.groups.deny);
        deny.extend(&own.deny);
        Ok(GroupPolicy {
            deny,
            allow,
            max_groups: own.max_groups.min(self.groups.max_groups.unwrap_or(u32::MAX)),
            max_sources: own.max_sources.min(self.groups.max_sources.unwrap_or(u32::MAX)),
        })
    }
}

impl RuntimeConfig {
    /// Reads the section `[runtime]` of `mcrun.toml` alone: a mistake elsewhere in the file must
    /// not keep containers that run from being stopped.
    ///
    /// # Errors
    /// When the file is there and is not TOML, or the section has another shape.
    pub fn read(directory: &Path) -> Result<Self, AdminError> {
        #[derive(Default, Deserialize)]
        struct Section {
            #[serde(default)]
            runtime: RuntimeConfig,
        }
        Ok(read_file::<Section>(directory)?.runtime)
    }
}

fn read_file<T: DeserializeOwned + Default>(directory: &Path) -> Result<T, AdminError> {
    let path = directory.join("mcrun.toml");
    match fs::read_to_string(&path) {
        Ok(text) => toml_text::parse(&text).map_err(|message| AdminError::Syntax { path, message }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(T::default()),
        Err(source) => Err(AdminError::Read { path, source }),
    }
}

/// Whether a name matches a pattern: the name itself, or its beginning and a `*`.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == pattern,
    }
}

/// The groups and sources of both rules; `None` when they have none in common. Of two networks one
/// contains the other, or they are disjoint.
fn intersection(a: &GroupRule, b: &GroupRule) -> Option<GroupRule> {
    fn both(a: IpNet, b: IpNet) -> Option<IpNet> {
        if a.contains(&b) { Some(b) } else { b.contains(&a).then_some(a) }
    }
    let sources = match (a.sources, b.sources) {
        (Some(a), Some(b)) => Some(both(a, b)?),
        (one, other) => one.or(other),
    };
    Some(GroupRule { groups: both(a.groups, b.groups)?, sources })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attachment::parse_spec;

    const FILE: &str = r#"
        [attach]
        parents = ["media0", "video*"]
        drivers = ["macvlan"]
        igmp = ["proxy"]
        [groups]
        allow = ["239.0.0.0/8", "232.1.0.0/16@10.0.0.0/8"]
        deny = ["239.255.0.0/16"]
        max-groups = 100
    "#;

    fn check(spec: &str) -> Result<GroupPolicy, String> {
        let config = AdminConfig::parse(FILE).unwrap();
        let limits = config.check(&parse_spec(spec).unwrap());
        limits.map(|limits| limits.policy).map_err(|e| e.to_string())
    }

    #[test]
    fn without_a_file_everything_is_allowed() {
        let config = AdminConfig::read(Path::new("/nonexistent")).unwrap();
        let attachment = parse_spec("parent=eth0,allow=239.1.1.1").unwrap();
        assert_eq!(config.check(&attachment).unwrap().policy, attachment.policy);
    }

    #[test]
    fn notifications_are_used_unless_they_are_turned_off() {
        let read = |text: &str| AdminConfig::parse(text).map(|config| config.notifications());
        assert_eq!(read(FILE), Ok(true));
        assert_eq!(read("[proxy]\nnotifications = false"), Ok(false));
        let error = read("[proxy]\nnotifications = \"off\"").unwrap_err();
        assert!(error.starts_with("line 2: ") && error.contains("boolean"), "{error}");
    }

    #[test]
    fn the_user_ids_of_proxies_are_a_range() {
        let read = |text: &str| AdminConfig::parse(text).map(|config| config.proxy_uids());
        assert_eq!(read(FILE).unwrap().to_string(), "61184-65519");
        let own = read("[proxy]\nuids = \"900000-900999\"").unwrap();
        assert_eq!(own.to_string(), "900000-900999");
        let error = read("[proxy]\nuids = \"0-99\"").unwrap_err();
        assert!(error.starts_with("line 2: uids: \"0-99\": a range is FIRST-LAST"), "{error}");
    }

    #[test]
    fn what_the_administrator_does_not_allow_is_named() {
        for (spec, expected) in [
            ("parent=eth0", "parent=eth0: the administrator allows media0, video* (mcrun.toml)"),
            ("parent=video7,upstream=eth0", "upstream=eth0: the administrator allows"),
            ("parent=media0,igmp=off", "igmp=off: the administrator allows proxy"),
            (
                "parent=media0,allow=238.0.0.0/8",
                "allow=238.0.0.0/8: the administrator allows 239.0.0.0/8",
            ),
        ] {
            let error = check(spec).unwrap_err();
            assert!(error.starts_with(expected), "{spec}: {error}");
        }
    }

    #[test]
    fn group_rules_need_a_proxy_unless_the_administrator_says_otherwise() {
        let native = parse_spec("parent=media0,igmp=native").unwrap();
        let check = |text: &str| AdminConfig::parse(text).unwrap().check(&native);
        assert!(check("[groups]\ndeny = [\"239.0.0.0/8\"]").is_err());
        assert!(check("[attach]\nigmp = [\"native\"]\n[groups]\nmax-groups = 5").is_ok());
        assert!(check("[attach]\nparents = [\"media0\"]").is_ok());
    }

    #[test]
    fn an_unknown_driver_is_named_with_its_line() {
        let error = AdminConfig::parse("[attach]\ndrivers = [\"macvlam\"]").unwrap_err();
        assert!(error.starts_with("line 2: drivers: \"macvlam\": unknown driver"), "{error}");
        assert!(error.ends_with("did you mean macvlan?"), "{error}");
        let config = AdminConfig::parse("[attach]\ndrivers = [\"relay\"]").unwrap();
        let error = config.check(&parse_spec("parent=a").unwrap()).unwrap_err().to_string();
        assert_eq!(error, "driver=macvlan: the administrator allows relay (mcrun.toml)");
    }

    #[test]
    fn the_runtime_is_read_though_the_rules_are_wrong() {
        let directory = tempfile::tempdir().unwrap();
        let write = |text: &str| fs::write(directory.path().join("mcrun.toml"), text).unwrap();
        write("[attach]\nparnets = []\n[runtime]\npath = \"/usr/bin/crun\"");
        let config = RuntimeConfig::read(directory.path()).unwrap();
        assert_eq!(config.path, Some("/usr/bin/crun".into()));
        write("[runtime]\npaht = \"/usr/bin/crun\"");
        let error = RuntimeConfig::read(directory.path()).unwrap_err().to_string();
        assert!(error.contains("line 2: unknown field `paht`"), "{error}");
    }

    #[test]
    fn an_open_interface_needs_the_administrators_word() {
        let open = parse_spec("parent=media0,l2=open").unwrap();
        let check = |text: &str| {
            let limits = AdminConfig::parse(text).unwrap().check(&open);
            limits.map(drop).map_err(|e| e.to_string())
        };
        let refusal = "l2=open: the administrator allows closed (mcrun.toml)";
        for text in ["", "[attach]\nparents = [\"media0\"]", "[attach]\nl2 = [\"closed\"]"] {
            assert_eq!(check(text), Err(refusal.into()), "{text}");
        }
        assert_eq!(check("[attach]\nl2 = [\"closed\", \"open\"]"), Ok(()));
    }

    #[test]
    fn the_lower_rate_is_in_force() {
        let config = AdminConfig::parse("[relay]\nmax-pps = 100").unwrap();
        let rates = |spec: &str| config.check(&parse_spec(spec).unwrap()).unwrap().rates;
        let own = rates("parent=a,driver=relay,max-pps=50,max-byterate=9");
        assert_eq!(own, RateLimits { packets: Some(50), bytes: Some(9) });
        assert_eq!(rates("parent=a,driver=relay,max-pps=500").packets, Some(100));
        assert_eq!(rates("parent=a,driver=relay").packets, Some(100));
        assert!(rates("parent=a").is_none());
        assert!(AdminConfig::parse("[relay]\nmax-pps = 0").is_err());
    }

    #[test]
    fn a_relay_may_take_the_ports_that_the_file_names() {
        let config = AdminConfig::parse("[relay]\nports = [5353, \"6000-6100\"]").unwrap();
        let ports = |spec: &str| config.check(&parse_spec(spec).unwrap()).unwrap().host_ports;
        assert_eq!(ports("parent=a,driver=relay").to_string(), "5353, 6000-6100");
        assert!(ports("parent=a").is_empty());
        let error = AdminConfig::parse("[relay]\nports = [5353, \"x\"]").unwrap_err();
        assert!(error.starts_with("line 2: ") && error.contains("\"x\" is no port"), "{error}");
    }

    #[test]
    fn rules_of_both_are_in_force() {
        let texts = |rules: &[GroupRule]| rules.iter().map(ToString::to_string).collect::<Vec<_>>();
        let policy = check("parent=video7,allow=239.1.0.0/16,allow=232.0.0.0/8@10.0.0.5,deny=239.1.1.1,max-groups=500").unwrap();
        assert_eq!(texts(&policy.allow), ["239.1.0.0/16", "232.1.0.0/16@10.0.0.5"]);
        assert_eq!(texts(&policy.deny), ["239.255.0.0/16", "239.1.1.1"]);
        assert_eq!((policy.max_groups, policy.max_sources), (100, 64));
        let policy = check("parent=media0").unwrap();
        assert_eq!(texts(&policy.allow), ["239.0.0.0/8", "232.1.0.0/16@10.0.0.0/8"]);
    }

    #[test]
    fn a_file_that_cannot_be_understood_stops_everything() {
        for (text, expected) in [
            ("[attach]\nparnets = []", "line 2: unknown field `parnets`"),
            ("[groups]\n\nallow = [\"10.0.0.0/8\"]", "line 3: "),
            ("[attach", "line 1: "),
            ("[groups]\nmax-groups = -1", "line 2: "),
        ] {
            let error = AdminConfig::parse(text).unwrap_err();
            assert!(error.starts_with(expected) && !error.contains('\n'), "{text:?}: {error}");
        }
    }
}
