//! Log lines, on stderr: words for people, JSON for whoever collects them.

use std::ffi::OsStr;
use std::io::IsTerminal as _;

use clap::ValueEnum;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// text on a terminal and for the journal, else json
    #[default]
    Auto,
    /// Words for people
    Text,
    /// One JSON object a line
    Json,
}

impl LogFormat {
    fn is_json(self, terminal: bool, journal: bool) -> bool {
        match self {
            Self::Auto => !terminal && !journal,
            Self::Text => false,
            Self::Json => true,
        }
    }
}

/// Begins to log. `RUST_LOG` chooses what.
pub(super) fn start(format: LogFormat) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("portcullis=info,warn"));
    let terminal = std::io::stderr().is_terminal();
    // systemd says so to what it connects with its journal.
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter);
    if format.is_json(terminal, journal) {
        log.json().flatten_event(true).with_span_list(false).with_target(false).init();
    } else {
        let colours = has_colours(terminal, std::env::var_os("NO_COLOR").as_deref());
        log.with_ansi(colours).with_target(false).init();
    }
}

/// As <https://no-color.org> has it: set to anything but nothing.
fn has_colours(terminal: bool, no_color: Option<&OsStr>) -> bool {
    terminal && no_color.is_none_or(OsStr::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_terminals_of_those_who_like_them() {
        let cases =
            [(true, None, true), (true, Some(""), true), (true, Some("1"), false), (false, None, false)];
        for (terminal, no_color, colours) in cases {
            assert_eq!(has_colours(terminal, no_color.map(OsStr::new)), colours, "{terminal} {no_color:?}");
        }
    }

    #[test]
    fn json_is_for_who_collects() {
        use LogFormat::{Auto, Json, Text};
        let cases = [
            (Auto, true, false, false),
            (Auto, false, true, false),
            (Auto, false, false, true),
            (Text, false, false, false),
            (Json, true, true, true),
        ];
        for (format, terminal, journal, json) in cases {
            assert_eq!(format.is_json(terminal, journal), json, "{format:?} {terminal} {journal}");
        }
    }
}
