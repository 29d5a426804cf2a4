//! `mcrun run` with an OCI runtime: options become a checked config.json, then a container.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::attachment::{Networks, parse_all};
use crate::hook::Caller;
use crate::oci::{ANNOTATION, ConfigDocument, NAME_ANNOTATION, VARIABLE};
use crate::oci::{capabilities, spec, user};
use crate::standalone::container::{Container, ContainerRecord, seconds_since_epoch};
use crate::standalone::options;
use crate::standalone::options::{ContainerSource, RunOptions};
use crate::standalone::runtime::{Runtime, RuntimeKind};
use crate::standalone::{StandaloneError, cgroup, id, shim_client};
use crate::state::config_dir;
use crate::sys::process::ProcessRef;

/// Runs a container; returns its exit status (0 for a detached one that runs, whose id was
/// printed on stdout).
///
/// # Errors
/// 125: the options, mcrun or the runtime; 126 and 127: the command cannot be run or was not
/// found; nothing is left of the container.
pub fn run(options: &RunOptions) -> Result<i32, StandaloneError> {
    shim_client::check_terminal(options)?;
    let (record, config) = prepare(options)?;
    let container = Container::claim(&record.id)?;
    let written = container
        .write_config(&config)
        .and_then(|()| container.write_record(&record))
        .map_err(|e| {
            StandaloneError::new(format_args!("cannot write {}: {e}", container.dir().display()))
        });
    if let Err(error) = written {
        let _ = container.remove_dir();
        return Err(error);
    }
    shim_client::run(container, record, options)
}

/// Checks the options and makes the record and config.json. Nothing is written yet.
fn prepare(options: &RunOptions) -> Result<(ContainerRecord, ConfigDocument), StandaloneError> {
    let runtime = Runtime::find(options.engine.as_deref())?;
    let id = match &options.name {
        Some(name) => {
            id::check(name)?;
            name.clone()
        }
        None => id::generate()?,
    };
    let own = capabilities::own().map_err(|error| {
        StandaloneError::new(format_args!("cannot read own capabilities: {error}"))
    })?;
    let (mut config, bundle) = match &options.source {
        Some(ContainerSource::Rootfs(rootfs)) => (from_rootfs(options, rootfs, &id, own)?, None),
        Some(ContainerSource::Bundle(bundle)) => {
            let (config, bundle) = from_bundle(options, bundle, own)?;
            (config, Some(bundle))
        }
        None => return Err(StandaloneError::new("expected --rootfs DIR or --bundle DIR")),
    };
    let rootfs = config.rootfs();
    if !rootfs.is_dir() {
        let rootfs = rootfs.display();
        return Err(StandaloneError::new(format_args!(
            "root filesystem {rootfs}: not a directory"
        )));
    }
    patch(&mut config, options, &rootfs).map_err(StandaloneError::new)??;
    let cgroup = cgroup::path_of(&id);
    let own_cgroup = config.set_default(&["linux", "cgroupsPath"], cgroup.clone());
    own_cgroup.map_err(StandaloneError::new)?;
    let made = config.text(&["linux", "cgroupsPath"]) == Some(&cgroup);
    config.set(&["annotations", NAME_ANNOTATION], id.clone()).map_err(StandaloneError::new)?;
    let hook = add_hook(&mut config, options, &runtime, &id)?;
    let record = ContainerRecord {
        id,
        runtime,
        rootfs,
        bundle,
        mcast: options.mcast.clone(),
        command: config.command(),
        created: seconds_since_epoch(),
        detached: options.detach,
        remove: options.remove || !options.detach,
        hook,
        cgroup: made.then_some(cgroup),
        shim: ProcessRef::current().map_err(StandaloneError::new)?,
        init: None,
        exit_status: None,
        finished: None,
    };
    Ok((record, config))
}

fn from_rootfs(
    options: &RunOptions,
    rootfs: &Path,
    id: &str,
    own: u64,
) -> Result<ConfigDocument, StandaloneError> {
    let bad =
        |why: String| StandaloneError::new(format_args!("--rootfs {}: {why}", rootfs.display()));
    let path = std::fs::canonicalize(rootfs).map_err(|error| bad(error.to_string()))?;
    if !path.is_dir() {
        return Err(bad("not a directory".into()));
    }
    if path == Path::new("/") {
        return Err(bad("the host's own root cannot be a container's".into()));
    }
    if path.to_str().is_none() {
        return Err(bad("the path is not UTF-8".into()));
    }
    if options.command.is_empty() {
        return Err(StandaloneError::new(
            "no command given; a root filesystem has none of its own",
        ));
    }
    let base =
        if options.privileged { capabilities::all(own) } else { capabilities::default_set(own) };
    let names = capabilities::adjust(&base, &options.cap_add, &options.cap_drop, own)
        .map_err(StandaloneError::new)?;
    let base = spec::Base {
        rootfs: &path,
        capabilities: &names,
        privileged: options.privileged,
        cgroup_v2: cgroup::is_v2(),
    };
    let made = spec::base(&base).map_err(StandaloneError::new)?;
    let mut config = ConfigDocument::new(&made).map_err(StandaloneError::new)?;
    let hostname = options.hostname.as_deref().unwrap_or(id);
    config.set_capabilities(&names).map_err(StandaloneError::new)?;
    config.set(&["hostname"], hostname).map_err(StandaloneError::new)?;
    config
        .set_env(&[("HOSTNAME".to_owned(), hostname.to_owned())])
        .map_err(StandaloneError::new)?;
    Ok(config)
}

fn from_bundle(
    options: &RunOptions,
    bundle: &Path,
    own: u64,
) -> Result<(ConfigDocument, PathBuf), StandaloneError> {
    let bad =
        |why: String| StandaloneError::new(format_args!("--bundle {}: {why}", bundle.display()));
    if options.privileged {
        return Err(bad("--privileged is for --rootfs; a bundle's config.json says it all".into()));
    }
    let path = std::fs::canonicalize(bundle).map_err(|error| bad(error.to_string()))?;
    if path.to_str().is_none() {
        return Err(bad("the path is not UTF-8".into()));
    }
    let mut config = ConfigDocument::read(&path).map_err(|error| bad(error.to_string()))?;
    if options.command.is_empty() && !config.has_command() {
        return Err(bad("no command given, and its config.json has none".into()));
    }
    if !options.cap_add.is_empty() || !options.cap_drop.is_empty() {
        let base = config.capabilities("bounding");
        let names = capabilities::adjust(&base, &options.cap_add, &options.cap_drop, own)
            .map_err(StandaloneError::new)?;
        config.set_capabilities(&names).map_err(StandaloneError::new)?;
    }
    if let Some(hostname) = &options.hostname {
        config.set(&["hostname"], hostname.as_str()).map_err(StandaloneError::new)?;
    }
    Ok((config, path))
}

/// Options that mean the same for a root filesystem and a bundle. The outer error is
/// config.json's, the inner one the options'.
fn patch(
    config: &mut ConfigDocument,
    options: &RunOptions,
    rootfs: &Path,
) -> Result<Result<(), StandaloneError>, crate::oci::DocumentError> {
    macro_rules! option {
        ($result:expr) => {
            match $result {
                Ok(value) => value,
                Err(error) => return Ok(Err(error)),
            }
        };
    }
    if let Some(name) = &options.hostname
        && (name.is_empty() || name.len() > 64)
    {
        return Ok(Err(StandaloneError::new(format_args!(
            "--hostname {name:?}: expected 1 to 64 characters"
        ))));
    }
    if !options.command.is_empty() {
        config.set(&["process", "args"], options.command.clone())?;
    }
    config.set(&["process", "terminal"], options.tty)?;
    let mut variables = option!(options::environment(&options.env, &options.env_file));
    if options.tty && config.variable("TERM").is_none() {
        variables.insert(0, ("TERM".to_owned(), "xterm".to_owned()));
    }
    config.set_env(&variables)?;
    if let Some(dir) = &options.workdir {
        if !dir.starts_with('/') {
            return Ok(Err(StandaloneError::new(format_args!(
                "-w {dir}: expected an absolute path"
            ))));
        }
        config.set(&["process", "cwd"], dir.as_str())?;
    }
    if let Some(text) = &options.user {
        let user = option!(user::resolve(rootfs, text).map_err(StandaloneError::new));
        config.set(&["process", "user"], user_json(&user))?;
    }
    for text in &options.volume {
        let mount = option!(options::volume(text));
        config.mount(mount)?;
    }
    if options.read_only {
        config.set(&["root", "readonly"], true)?;
    }
    if let Some(text) = &options.memory {
        let limit = option!(options::memory(text));
        config.set(&["linux", "resources", "memory", "limit"], limit)?;
    }
    if let Some(text) = &options.cpus {
        let online = std::thread::available_parallelism().map_or(1, usize::from);
        let quota = option!(options::cpu_quota(text, online));
        config.set(&["linux", "resources", "cpu", "quota"], quota)?;
        config.set(&["linux", "resources", "cpu", "period"], options::CPU_PERIOD)?;
    }
    for text in &options.annotation {
        let (key, value) = option!(options::annotation(text));
        config.set(&["annotations", key], value)?;
    }
    Ok(Ok(()))
}

pub(super) fn user_json(user: &user::User) -> Value {
    let mut object = Map::new();
    object.insert("uid".into(), user.uid.into());
    object.insert("gid".into(), user.gid.into());
    if !user.additional_gids.is_empty() {
        object.insert("additionalGids".into(), json!(user.additional_gids));
    }
    object.into()
}

/// Adds the hook if `--mcast`, the annotation or the variable asks for attachments. The
/// attachments are checked here, before anything is written.
fn add_hook(
    config: &mut ConfigDocument,
    options: &RunOptions,
    runtime: &Runtime,
    id: &str,
) -> Result<Option<PathBuf>, StandaloneError> {
    let networks = Networks::of(config_dir());
    if !options.mcast.is_empty() {
        parse_all(options.mcast.iter().map(String::as_str), &networks)
            .map_err(|error| StandaloneError::new(format_args!("--mcast: {error}")))?;
        let given = options.annotation.iter().filter_map(|text| text.split_once('='));
        if given.clone().any(|(key, _)| key == ANNOTATION) {
            return Err(StandaloneError::new(format_args!(
                "--mcast and --annotation {ANNOTATION} say the same; give one of them"
            )));
        }
        config
            .set(&["annotations", ANNOTATION], options.mcast.join(";"))
            .map_err(StandaloneError::new)?;
    } else {
        let asked = [
            (format!("annotation {ANNOTATION}"), config.annotation(ANNOTATION)),
            (format!("variable {VARIABLE}"), config.variable(VARIABLE)),
        ];
        let Some((place, text)) = asked.iter().find_map(|(p, t)| Some((p, (*t)?))) else {
            return Ok(None);
        };
        let text = text.to_owned();
        parse_all([text.as_str()], &networks)
            .map_err(|error| StandaloneError::new(format_args!("{place}: {error}")))?;
        // All variables of a container that is made from a directory are the caller's own words,
        // and become the annotation. Those of a bundle may come from an image: the hook decides.
        if matches!(options.source, Some(ContainerSource::Rootfs(_))) {
            config.set(&["annotations", ANNOTATION], text).map_err(StandaloneError::new)?;
        }
    }
    let hook = crate::hook::program().map_err(StandaloneError::new)?;
    config
        .add_hooks(&hook, &crate::hook::environment(Caller::WithAnnotations))
        .map_err(StandaloneError::new)?;
    if runtime.kind() == RuntimeKind::Crun {
        // crun's error has only the exit status of the hook; this file gets its stderr.
        let log = Container::path_for(id).join("hook.log");
        config
            .set(&["annotations", "run.oci.hooks.stderr"], log.to_string_lossy().into_owned())
            .map_err(StandaloneError::new)?;
    }
    Ok(Some(hook))
}
