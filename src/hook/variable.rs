//! Whether the variable `MCRUN_MCAST` of a container counts.
//!
//! An image can set variables, and an image must not attach itself to the LAN. The variable counts
//! where the administrator says so, and where the engine offers nothing better: docker before 24
//! has no annotations, and mcrun-runtime says so to the hook.

use crate::attachment::{AdminConfig, AdminError};
use crate::oci::{ANNOTATION, VARIABLE};
use crate::state::config_dir;
use crate::sys::syslog;

/// Set to `yes` in the environment of the hook by mcrun-runtime. Neither an image nor a container
/// can set it: it stands in the hook's own entry of config.json.
const COUNTS: &str = "MCRUN_VARIABLE_COUNTS";

/// What decides besides mcrun.toml.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// The engine has no annotations, and the container's runtime was asked for by name.
    WithoutAnnotations,
    /// mcrun's runtime is the engine's default: nobody has asked for mcrun.
    ByDefault,
    /// Any other.
    WithAnnotations,
}

impl Caller {
    /// What mcrun-runtime has told the hook.
    pub(super) fn of_hook() -> Self {
        match std::env::var_os(COUNTS) {
            Some(value) if value == "yes" => Caller::WithoutAnnotations,
            _ => Caller::WithAnnotations,
        }
    }

    /// What tells the hook that the variable counts.
    pub(super) fn for_hook(self) -> Option<String> {
        (self == Caller::WithoutAnnotations).then(|| format!("{COUNTS}=yes"))
    }

    /// Whether the variable counts. If it does not, one line says so and what to do instead.
    ///
    /// # Errors
    /// If mcrun.toml cannot be understood.
    pub(super) fn variable_counts(self, program: &str) -> Result<bool, AdminError> {
        let counts = self.counts_variable()?;
        if !counts {
            syslog::warn(program, &self.ignored());
        }
        Ok(counts)
    }

    /// The same without a word.
    ///
    /// # Errors
    /// If mcrun.toml cannot be understood.
    pub(super) fn counts_variable(self) -> Result<bool, AdminError> {
        Ok(match self {
            Caller::WithoutAnnotations => true,
            Caller::ByDefault => false,
            Caller::WithAnnotations => AdminConfig::read(&config_dir())?.environment(),
        })
    }

    /// Why the variable does not count.
    fn ignored(self) -> String {
        match self {
            Caller::ByDefault => format!(
                "the variable {VARIABLE} does not count, since mcrun is the default runtime and an \
                 image can set variables: the container is not attached; make another runtime the \
                 default and start it with --runtime mcrun"
            ),
            _ => format!(
                "the variable {VARIABLE} does not count, since an image can set variables: the \
                 container is not attached; ask by the annotation {ANNOTATION}, for docker before 24 \
                 run mcrun setup docker once more, or set environment = true in [attach] of \
                 mcrun.toml"
            ),
        }
    }
}
