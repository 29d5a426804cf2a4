//! The settings below `/proc/sys/net` that an attachment has written in its container's namespace.

use crate::attachment::Attachment;
use crate::link::plan::{link_plan, settings, sysctls};
use crate::net::sysctl::Sysctl;
use crate::primitives::InterfaceName;

/// Their paths below `/proc/sys/net`, each once. `there`: the interface exists; one of a relay may
/// come later.
pub fn of(name: &InterfaceName, attachment: &Attachment, there: bool) -> Vec<String> {
    let link = link_plan(attachment, there.then_some((0, None)));
    let written = sysctls(name, attachment, &link).into_iter().map(|sysctl| match sysctl {
        Sysctl::Set(path, _) | Sysctl::Require(path, _) | Sysctl::Raise(path, _) => path,
        // What `all` had is given to the other interfaces.
        Sysctl::AcceptAnySource(_) => "ipv4/conf/all/rp_filter".to_owned(),
    });
    let own = settings(attachment, &link).into_iter();
    let own = own.map(|(setting, _)| format!("ipv4/conf/{name}/{}", setting.name()));
    let mut paths = Vec::new();
    for path in written.chain(own) {
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attachment::parse_spec;

    #[test]
    fn a_child_link_has_its_own_settings_and_a_relay_those_of_igmp() {
        let name: InterfaceName = "mc0".parse().unwrap();
        let of = |text: &str, there| of(&name, &parse_spec(text).unwrap(), there);
        let child = of("parent=lan0,ip=10.0.0.2/24", true);
        for path in
            ["ipv4/igmp_max_memberships", "ipv4/conf/mc0/rp_filter", "ipv4/conf/all/rp_filter"]
        {
            assert!(child.iter().any(|there| there == path), "{path}: {child:?}");
        }
        let later = of("parent=lan0,driver=relay", false);
        assert!(later.iter().all(|path| !path.contains("mc0")), "{later:?}");
    }
}
