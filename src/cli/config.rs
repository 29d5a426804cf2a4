//! `mcrun config`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use crate::attachment::{AdminConfig, Setting, settings};
use crate::cli::output::print;
use crate::state::config_dir;

/// Arguments of `mcrun config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// What to do.
    #[command(subcommand)]
    command: ConfigCommand,
}

/// The commands of `mcrun config`.
#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check mcrun.toml.
    ///
    /// Prints each problem as FILE:LINE: and what is wrong. The exit status is 0 if there is none.
    Check {
        /// The file; the default is mcrun.toml in /etc/mcrun, or in MCRUN_CONFIG_DIR.
        file: Option<PathBuf>,
    },
    /// Show what is in force.
    ///
    /// Prints each setting as mcrun.toml has it, and behind it the line of the file that says it,
    /// or that it is the default.
    Show {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(args: ConfigArgs) -> anyhow::Result<ExitCode> {
    let own = AdminConfig::path(&config_dir());
    match args.command {
        ConfigCommand::Check { file } => {
            // Without the file nothing is wrong. A file that was named has to be there.
            if file.is_none() && !own.exists() {
                // Who can put one there decides what others may ask for.
                AdminConfig::read(&config_dir())?;
                print(&format!("{}: there is no such file, and none is needed\n", own.display()))?;
                return Ok(ExitCode::SUCCESS);
            }
            let path = file.unwrap_or(own);
            let problems = AdminConfig::problems(&config_dir(), &path)?;
            for problem in &problems {
                eprintln!("{}:{}: {}", path.display(), problem.line, problem.message);
            }
            Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        ConfigCommand::Show { json } => {
            let (settings, exists) = settings(&own)?;
            let file = exists.then(|| own.display().to_string());
            print(&if json { as_json(&settings, file) } else { as_toml(&settings, file) })?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The settings as a file that says the same.
fn as_toml(settings: &[Setting], file: Option<String>) -> String {
    let mut text = match file {
        Some(file) => format!("# {file}\n"),
        None => "# without mcrun.toml\n".to_owned(),
    };
    let mut section = "";
    for setting in settings {
        if setting.section != section {
            section = setting.section;
            text.push_str(&format!("\n[{section}]\n"));
        }
        let line = match &setting.value {
            // Nothing in a file says that there is no limit.
            Value::Null => format!("# {} is not set", setting.key),
            // JSON's lists, texts and numbers are TOML's.
            value => format!("{} = {value}", setting.key),
        };
        let origin = match setting.line {
            Some(line) => format!("line {line}"),
            None => "default".to_owned(),
        };
        text.push_str(&format!("{line:<40} # {origin}\n"));
    }
    text
}

fn as_json(settings: &[Setting], file: Option<String>) -> String {
    let mut sections = Map::new();
    sections.insert("file".into(), json!(file));
    for setting in settings {
        let section = sections.entry(setting.section).or_insert_with(|| json!({}));
        let origin = if setting.line.is_some() { "file" } else { "default" };
        section[setting.key] =
            json!({ "value": setting.value, "from": origin, "line": setting.line });
    }
    format!("{:#}\n", Value::Object(sections))
}
