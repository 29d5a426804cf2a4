//! `[groups]` of mcrun.toml: rules beside those of each attachment.

use ipnet::IpNet;
use serde::Deserialize;

use crate::multicast::{self, GroupPolicy, GroupRule, RuleError};

/// The administrator's rules of groups: of mcrun.toml, or of a network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::attachment) struct GroupRules {
    pub(super) allow: Vec<RuleText>,
    pub(super) deny: Vec<RuleText>,
    pub(super) max_groups: Option<u32>,
    pub(super) max_sources: Option<u32>,
    pub(super) ssm_strict: Option<bool>,
}

/// The rules that one text of the attachment syntax stands for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct RuleText(pub(super) Vec<GroupRule>);

impl TryFrom<String> for RuleText {
    type Error = RuleError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        multicast::rules(&text).map(RuleText)
    }
}

/// The rules of a list.
pub(super) fn all(list: &[RuleText]) -> impl Iterator<Item = &GroupRule> {
    list.iter().flat_map(|text| &text.0)
}

impl GroupRules {
    /// Rules and limits as a network has them.
    pub(in crate::attachment) fn of(
        allow: &[GroupRule],
        deny: &[GroupRule],
        max_groups: Option<u32>,
        max_sources: Option<u32>,
    ) -> Self {
        let text = |rules: &[GroupRule]| match rules {
            [] => Vec::new(),
            _ => vec![RuleText(rules.to_vec())],
        };
        let (allow, deny) = (text(allow), text(deny));
        GroupRules { allow, deny, max_groups, max_sources, ssm_strict: None }
    }

    /// What is allowed, in words.
    pub(in crate::attachment) fn allowed(&self) -> String {
        let rules: Vec<_> = all(&self.allow).map(ToString::to_string).collect();
        rules.join(", ")
    }

    /// Whether there is any rule or limit.
    pub(super) fn is_ruled(&self) -> bool {
        *self != GroupRules::default()
    }

    /// An attachment's own rules within the administrator's. `None` where nothing of what the
    /// attachment allows is left.
    pub(in crate::attachment) fn restrict(&self, own: &GroupPolicy) -> Option<GroupPolicy> {
        let rules = |list: &[RuleText]| all(list).copied().collect::<Vec<_>>();
        let ceiling = rules(&self.allow);
        let allow: Vec<_> = match (own.allow.as_slice(), ceiling.as_slice()) {
            (own, []) => own.to_vec(),
            ([], ceiling) => ceiling.to_vec(),
            (own, ceiling) => {
                let pairs = own.iter().flat_map(|a| ceiling.iter().map(move |b| (a, b)));
                pairs.filter_map(|(a, b)| intersection(a, b)).collect()
            }
        };
        if !own.allow.is_empty() && allow.is_empty() {
            return None;
        }
        let mut deny = rules(&self.deny);
        deny.extend(&own.deny);
        Some(self.limited(deny, allow, own))
    }

    /// The rules of an attachment of which nothing is left: every group is denied.
    pub(super) fn nothing(&self, own: &GroupPolicy) -> GroupPolicy {
        let whole = [
            IpNet::new_assert([224, 0, 0, 0].into(), 4),
            IpNet::new_assert([0xff00, 0, 0, 0, 0, 0, 0, 0].into(), 8),
        ];
        let deny = whole.map(|groups| GroupRule { groups, sources: None });
        self.limited(deny.to_vec(), Vec::new(), own)
    }

    fn limited(
        &self,
        deny: Vec<GroupRule>,
        allow: Vec<GroupRule>,
        own: &GroupPolicy,
    ) -> GroupPolicy {
        GroupPolicy {
            deny,
            allow,
            max_groups: own.max_groups.min(self.max_groups.unwrap_or(u32::MAX)),
            max_sources: own.max_sources.min(self.max_sources.unwrap_or(u32::MAX)),
            ssm_strict: own.ssm_strict || self.ssm_strict == Some(true),
        }
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
