//! Messages for the person who wrote the document: object, field path, value, why, what to write instead.

use std::fmt;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The object is refused (D13).
    Error,
    /// Accepted, and probably not what was meant (D12).
    Warning,
    /// Accepted; worth knowing (a kind or field that we do not use).
    Note,
}

/// One finding about one document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    pub severity: Severity,
    /// `policies/web.yaml`, `<stdin>`, `kubernetes`.
    pub file: String,
    /// 1-based line of the document (or of the syntax error) in `file`; 0 when unknown.
    pub line: usize,
    /// `GlobalNetworkPolicy/web`, or empty when the document could not be read that far.
    pub object: String,
    /// `spec.ingress[2].destination.ports[0]`, or empty.
    pub path: String,
    /// The value as written, shortened; empty when a field is missing.
    pub value: String,
    /// What is wrong, and what to write instead, one sentence each.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        write!(f, ": ")?;
        match self.severity {
            Severity::Error => {}
            Severity::Warning => write!(f, "warning: ")?,
            Severity::Note => write!(f, "note: ")?,
        }
        for part in [&self.object, &self.path].into_iter().filter(|p| !p.is_empty()) {
            write!(f, "{part} ")?;
        }
        if !self.value.is_empty() {
            write!(f, "{:?}: ", self.value)?;
        }
        write!(f, "{}", self.message)
    }
}
impl std::error::Error for Problem {}
