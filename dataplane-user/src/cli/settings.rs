//! The settings file, as commands find it.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::output::tell;
use crate::config::{self, Config, DEFAULT_CONFIG};

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
