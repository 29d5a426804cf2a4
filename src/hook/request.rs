//! What a container asks for: its annotation, else its environment.

use std::path::PathBuf;

use super::HookError;
use crate::attach::{Attachment, parse_list};
use crate::oci::{ANNOTATION, BundleConfig, ContainerState, NAME_ANNOTATION, VARIABLE};

/// A container's wish.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// At least one attachment.
    pub(super) attachments: Vec<Attachment>,
    /// What people call the container.
    pub(super) name: String,
    /// Where its network namespace is kept, when it is not the container's alone.
    pub(super) netns_path: Option<PathBuf>,
}

/// Reads the wish. The annotation is whoever starts the container speaking, and wins over the
/// variable, which may come from an image.
pub(super) fn of(state: &ContainerState) -> Result<Option<Request>, HookError> {
    let bundle = state.bundle.as_deref().ok_or(HookError::NoBundle)?;
    let config = BundleConfig::read(bundle)?;
    let annotation = |key: &str| {
        state.annotations.get(key).map(String::as_str).or_else(|| config.annotation(key))
    };
    let (origin, text) = match (annotation(ANNOTATION), config.variable(VARIABLE)) {
        (Some(text), _) => (ANNOTATION, text),
        (None, Some(text)) => (VARIABLE, text),
        (None, None) => return Ok(None),
    };
    let attachments = parse_list(text).map_err(|source| HookError::Spec { origin, source })?;
    if attachments.is_empty() {
        return Ok(None);
    }
    let netns_path = config.network_namespace_path().map(PathBuf::from);
    // Engines name a namespace by a process when it is another container's, and by a file of their own
    // when they have made it for this one.
    if let Some(path) = netns_path.as_ref().filter(|path| path.starts_with("/proc")) {
        return Err(HookError::SharedNetwork(path.clone()));
    }
    let name = annotation(NAME_ANNOTATION).unwrap_or(state.id.as_str());
    Ok(Some(Request {
        attachments,
        // It is shown on terminals.
        name: name.chars().filter(|c| !c.is_control()).take(255).collect(),
        netns_path,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(annotations: &str, env: &str) -> Result<Option<Request>, HookError> {
        ask_in(annotations, env, "null")
    }

    fn ask_in(annotations: &str, env: &str, netns: &str) -> Result<Option<Request>, HookError> {
        let dir = tempfile::tempdir().unwrap();
        let config = format!(
            r#"{{"process":{{"env":[{env}]}},
                "linux":{{"namespaces":[{{"type":"network","path":{netns}}}]}}}}"#
        );
        std::fs::write(dir.path().join("config.json"), config).unwrap();
        let json = format!(
            r#"{{"id":"c1","pid":1,"bundle":{:?},"annotations":{{{annotations}}}}}"#,
            dir.path()
        );
        of(&ContainerState::parse(json.as_bytes()).unwrap())
    }

    #[test]
    fn nothing_asked_for() {
        assert_eq!(ask("", r#""PATH=/bin""#).unwrap(), None);
        assert_eq!(ask(r#""io.mcrun.mcast":"""#, "").unwrap(), None);
    }

    #[test]
    fn the_annotation_wins_over_the_variable() {
        let request = ask(
            r#""io.mcrun.mcast":"parent=eth0","io.mcrun.name":"cam\u001b1""#,
            r#""MCRUN_MCAST=parent=eth1""#,
        );
        let request = request.unwrap().unwrap();
        assert_eq!(request.attachments[0].parent.as_str(), "eth0");
        assert_eq!(request.name, "cam1");
        let request = ask("", r#""MCRUN_MCAST=parent=eth1;parent=eth2""#).unwrap().unwrap();
        assert_eq!((request.attachments.len(), request.name.as_str()), (2, "c1"));
    }

    #[test]
    fn a_namespace_of_another_container_is_refused() {
        let asked = r#""io.mcrun.mcast":"parent=eth0""#;
        let error = ask_in(asked, "", r#""/proc/77/ns/net""#).unwrap_err().to_string();
        assert!(error.contains("another one's network namespace (/proc/77/ns/net)"), "{error}");
        let own = ask_in(asked, "", r#""/run/netns/netns-1""#).unwrap().unwrap();
        assert_eq!(own.netns_path, Some("/run/netns/netns-1".into()));
        assert_eq!(ask_in("", "", r#""/proc/77/ns/net""#).unwrap(), None);
    }

    #[test]
    fn a_bad_wish_is_named_with_its_origin() {
        let error = ask("", r#""MCRUN_MCAST=parnt=eth1""#).unwrap_err().to_string();
        assert_eq!(error, "MCRUN_MCAST: attachment key \"parnt\" is unknown; did you mean parent?");
    }
}
