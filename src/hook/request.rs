//! What a container asks for: its annotation, or its variable where that counts.

use crate::attachment::{Attachment, Networks, parse_all, unique_names};
use crate::hook::pod::Sandbox;
use crate::hook::{Caller, HookError};
use crate::oci::{ANNOTATION, BundleConfig, ContainerId, ContainerState, VARIABLE};
use crate::service::{AttachError, AttachRequest, NetworkNamespace};
use crate::state::config_dir;
use crate::sys::files::is_in_proc;

/// What the container of a state asks for; `None` if it asks for nothing.
pub(super) fn of(
    state: &ContainerState,
    caller: Caller,
) -> Result<Option<AttachRequest>, HookError> {
    let bundle = state.bundle.as_deref().ok_or(HookError::NoBundle)?;
    let mut config = BundleConfig::read(bundle)?;
    config.add_annotations(&state.annotations);
    let Some(attachments) = attachments(&config, caller, "mcrun-hook")? else { return Ok(None) };
    of_attachments(state, &config, attachments).map(Some)
}

/// The request of a container whose attachments are known. `config` has the annotations of the state.
pub(super) fn of_attachments(
    state: &ContainerState,
    config: &BundleConfig,
    attachments: Vec<Attachment>,
) -> Result<AttachRequest, HookError> {
    let bundle = state.bundle.as_deref().ok_or(HookError::NoBundle)?;
    let pid = state.pid.ok_or(HookError::NoPid)?;
    let name = config.name(state.id.as_str()).unwrap_or_else(|| state.id.to_string());
    // The name is shown on terminals.
    let name = name.chars().filter(|c| !c.is_control()).take(255).collect();
    if let Some(sandbox) = Sandbox::of(config) {
        let mut request = AttachRequest::of_pod(sandbox.id.clone(), sandbox.pid, attachments)?;
        request.directory = sandbox.bundle(bundle);
        return Ok(request);
    }
    let mut request = AttachRequest::of_process(state.id.clone(), name, pid, attachments)?;
    request.directory = Some(bundle.to_owned());
    if let Some(path) = config.network_namespace_path() {
        request.namespace = NetworkNamespace::Path(path.to_owned());
    }
    Ok(request)
}

/// Whether a container asks for attachments, told from its config.json alone: before the container
/// exists, and before a runtime wraps an error in its own words. `caller` is asked if the container
/// has the variable and no annotation.
///
/// # Errors
/// What is wrong with what is asked for, or with the network that the container is to have.
pub fn asks_for_attachment(config: &BundleConfig, caller: Caller) -> Result<bool, HookError> {
    Ok(asked_before(config, caller)?.is_some())
}

/// What a container asks for that does not exist yet.
///
/// # Errors
/// As [`asks_for_attachment`].
pub(super) fn asked_before(
    config: &BundleConfig,
    caller: Caller,
) -> Result<Option<Vec<Attachment>>, HookError> {
    let Some(attachments) = attachments(config, caller, "mcrun-runtime")? else { return Ok(None) };
    // The host's network is no namespace, or the host's own by a path.
    let host = match config.network_namespace_path() {
        Some(path) => {
            let namespace = NetworkNamespace::Path(path.to_owned());
            let host = namespace.is_callers();
            host.map_err(|source| HookError::Namespace { path: path.to_owned(), source })?
        }
        None => config.shares_host_network(),
    };
    if host { Err(AttachError::HostNetwork.into()) } else { Ok(Some(attachments)) }
}

/// Under which id the attachment of a container is recorded that asks for one; `None`: it asks for none.
///
/// # Errors
/// If mcrun.toml, which says whether the variable counts, cannot be understood.
pub(super) fn recorded_id(
    config: &BundleConfig,
    caller: Caller,
    id: &ContainerId,
) -> Result<Option<ContainerId>, HookError> {
    let asks = match config.attachment_text() {
        None => false,
        Some((_, text)) if text.trim().is_empty() => false,
        Some((origin, _)) => origin != VARIABLE || caller.counts_variable()?,
    };
    Ok(asks.then(|| Sandbox::of(config).map_or_else(|| id.clone(), |sandbox| sandbox.id)))
}

/// The attachments asked for, at least one.
fn attachments(
    config: &BundleConfig,
    caller: Caller,
    program: &str,
) -> Result<Option<Vec<Attachment>>, HookError> {
    let Some((origin, text)) = config.attachment_text() else { return Ok(None) };
    if origin == VARIABLE && !caller.variable_counts(program)? {
        return Ok(None);
    }
    // podman before 5.0 splits `--annotation io.mcrun.mcast=parent=eth1,ip=...` at the comma. The
    // container is not to run with the part that is left.
    if origin == ANNOTATION
        && let Some(key) = unique_names().find(|key| config.annotation(key).is_some())
    {
        return Err(HookError::SplitAnnotation(key));
    }
    let attachments = parse_all([text], &Networks::of(config_dir()))
        .map_err(|source| HookError::Spec { origin, source })?;
    if attachments.is_empty() {
        return Ok(None);
    }
    // An engine that makes a namespace for a container keeps it in a file; a process is named
    // where somebody else's is to be shared.
    match config.network_namespace_path() {
        Some(path) if is_in_proc(path) && Sandbox::of(config).is_none() => {
            Err(HookError::SharedNetwork(path.into()))
        }
        _ => Ok(Some(attachments)),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn ask(annotations: &str, env: &str) -> Result<Option<AttachRequest>, HookError> {
        let dir = tempfile::tempdir().unwrap();
        let config = format!(r#"{{"process":{{"env":[{env}]}}}}"#);
        std::fs::write(dir.path().join("config.json"), config).unwrap();
        let json = format!(
            r#"{{"id":"c1","pid":1,"bundle":{:?},"annotations":{{{annotations}}}}}"#,
            dir.path()
        );
        of(&ContainerState::parse(json.as_bytes()).unwrap(), Caller::WithoutAnnotations)
    }

    #[test]
    fn nothing_asked_for() {
        assert!(ask("", r#""PATH=/bin""#).unwrap().is_none());
        assert!(ask(r#""io.mcrun.mcast":"""#, "").unwrap().is_none());
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
    fn the_variable_counts_where_nothing_else_can_ask() {
        let dir = tempfile::tempdir().unwrap();
        let config = r#"{"process":{"env":["MCRUN_MCAST=parent=eth1"]}}"#;
        std::fs::write(dir.path().join("config.json"), config).unwrap();
        let state = format!(r#"{{"id":"c1","pid":1,"bundle":{:?}}}"#, dir.path());
        let state = ContainerState::parse(state.as_bytes()).unwrap();
        assert!(of(&state, Caller::WithoutAnnotations).unwrap().is_some());
        assert!(of(&state, Caller::ByDefault).unwrap().is_none());
    }

    #[test]
    fn an_annotation_that_was_split_at_its_commas_is_refused() {
        let error = ask(r#""io.mcrun.mcast":"parent=eth0","ip":"10.0.0.1/8""#, "").unwrap_err();
        assert!(error.to_string().contains("ip has become an annotation of its own"), "{error}");
        assert!(ask(r#""ip":"10.0.0.1/8""#, r#""MCRUN_MCAST=parent=eth0""#).unwrap().is_some());
    }

    #[test]
    fn a_namespace_of_another_container_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let ask = |path: &str| {
            let config = format!(
                r#"{{"process":{{"env":["MCRUN_MCAST=parent=eth1"]}},
                    "linux":{{"namespaces":[{{"type":"network","path":"{path}"}}]}}}}"#
            );
            std::fs::write(dir.path().join("config.json"), config).unwrap();
            let state = format!(r#"{{"id":"c1","pid":1,"bundle":{:?}}}"#, dir.path());
            of(&ContainerState::parse(state.as_bytes()).unwrap(), Caller::WithoutAnnotations)
        };
        for path in ["/proc/4711/ns/net", "/run/../proc/4711/ns/net"] {
            let error = ask(path).unwrap_err().to_string();
            assert!(error.contains(path), "{error}");
        }
        let kept = ask("/var/run/netns/cni-1").unwrap().unwrap();
        let NetworkNamespace::Path(path) = kept.namespace else { panic!("{kept:?}") };
        assert_eq!(path, Path::new("/var/run/netns/cni-1"));
    }

    #[test]
    fn a_bad_attachment_is_named_with_its_origin() {
        let error = ask("", r#""MCRUN_MCAST=parnt=eth1""#).unwrap_err().to_string();
        assert_eq!(error, "MCRUN_MCAST: attachment key \"parnt\" is unknown; did you mean parent?");
    }
}
