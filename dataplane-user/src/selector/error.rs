//! What is said about a selector that cannot be read: where, what was expected, and what to write.

use std::fmt;

/// Why a selector text was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectorError {
    /// The whole text.
    pub text: String,
    /// 0-based, in characters.
    pub column: usize,
    /// What is wrong there.
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
}

impl SelectorError {
    /// `at` is a byte offset into `text`.
    pub(super) fn new(text: &str, at: usize, message: impl Into<String>, hint: Option<String>) -> Self {
        let column = text.get(..at).unwrap_or(text).chars().count();
        Self { text: text.to_owned(), column, message: message.into(), hint }
    }
}

impl fmt::Display for SelectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "selector, column {}: {}", self.column + 1, self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "; {hint}")?;
        }
        // Control characters would move the caret (or the terminal): one visible place holder each.
        let visible: String = self.text.chars().map(|c| if c.is_control() { '·' } else { c }).collect();
        write!(f, "\n    {visible}\n    {:>width$}", "^", width = self.column + 1)
    }
}

impl std::error::Error for SelectorError {}
