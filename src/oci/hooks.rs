//! mcrun's hooks in config.json.

use std::path::Path;

use serde_json::{Value, json};

/// mcrun's hooks, each with its stage. `env` is their whole environment, as
/// `NAME=VALUE`.
pub fn hook_entries(hook: &Path, env: &[String]) -> [(&'static str, Value); 2] {
    let path = hook.to_string_lossy();
    // Limits in seconds, far beyond what either takes; a hook that hangs must not hold the
    // runtime for ever.
    [("createRuntime", 60), ("poststop", 30)].map(|(stage, timeout)| {
        let args = ["mcrun-hook", stage];
        (stage, json!({ "path": path, "args": args, "env": env, "timeout": timeout }))
    })
}

/// Whether config.json has an mcrun-hook for a stage already. `hooks` returns the hooks of a stage.
/// A prestart hook counts as a createRuntime hook: old runtimes have only the former.
pub fn has_mcrun_hook(stage: &str, hooks: impl Fn(&str) -> Vec<Value>) -> bool {
    let is_ours = |hook: &Value| {
        let path = hook.get("path").and_then(Value::as_str).unwrap_or_default();
        Path::new(path).file_name().is_some_and(|name| name == "mcrun-hook")
    };
    hooks(stage).iter().any(is_ours)
        || (stage == "createRuntime" && hooks("prestart").iter().any(is_ours))
}
