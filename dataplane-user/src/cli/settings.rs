//! The settings file, as commands find it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use super::output::tell;
use crate::config::{self, Config, DEFAULT_CONFIG};
use crate::state::State;

/// Reads the named file, or the default one if it is there. A file with an error starts nothing and changes nothing:
/// what is in force stays.
pub fn load(named: Option<&Path>) -> Result<Config> {
    let path = named.unwrap_or(Path::new(DEFAULT_CONFIG));
    let reading = match config::read_file(path) {
        Ok(reading) => reading,
        Err(e) if named.is_none() && e.kind() == std::io::ErrorKind::NotFound => return Ok(Config::default()),
        Err(e) => bail!("cannot read the settings {}: {e}; name another file with --config", path.display()),
    };
    tell(&reading.problems);
    reading.config.with_context(|| {
        format!(
            "the settings {} have errors, see above; nothing was started or changed (check an edit with `portcullis \
             validate --config {0}`)",
            path.display()
        )
    })
}

/// Where an agent keeps its things, for commands that work beside it.
#[derive(Debug, Args)]
pub struct Places {
    /// File of settings, as given to `run`. Default: /etc/portcullis/config.yaml, if it is there
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder that the agent watches; overrides the settings
    #[arg(long, value_name = "DIR")]
    policies: Option<PathBuf>,
    /// As given to `run`; overrides the settings
    #[arg(long, value_name = "DIR")]
    pin_dir: Option<PathBuf>,
    /// As given to `run`; overrides the settings
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

impl Places {
    /// Settings, and over them what the command line says; paths are absolute.
    pub fn resolve(&self) -> Result<Config> {
        self.over(load(self.config.as_deref())?)
    }

    /// As [`Self::resolve_anyway`]; without a word of ours on the folder, that of the agent that ran here last.
    pub fn resolve_by_agent(&self) -> Result<Config> {
        let config = self.resolve_anyway()?;
        let of_agent = || State::load(&config.state_dir).ok().map(|s| s.policies);
        let policies = if self.policies.is_none() { of_agent() } else { None };
        Ok(Config { policies: policies.unwrap_or(config.policies), ..config })
    }

    /// For what must work in an emergency: settings that cannot be read are told, and their defaults taken.
    pub fn resolve_anyway(&self) -> Result<Config> {
        let config = load(self.config.as_deref()).unwrap_or_else(|e| {
            eprintln!("warning: {e:#}; the defaults are taken");
            Config::default()
        });
        self.over(config)
    }

    fn over(&self, config: Config) -> Result<Config> {
        let absolute = |given: &Option<PathBuf>, else_: PathBuf| {
            let path = given.clone().unwrap_or(else_);
            std::path::absolute(&path).with_context(|| format!("cannot resolve {}", path.display()))
        };
        Ok(Config {
            policies: absolute(&self.policies, config.policies.clone())?,
            pin_dir: absolute(&self.pin_dir, config.pin_dir.clone())?,
            state_dir: absolute(&self.state_dir, config.state_dir.clone())?,
            kubernetes: config.kubernetes && self.policies.is_none(),
            ..config
        })
    }
}
