//! Text to tokens. The word operators (`in`, `contains`, …) are only read right after a key, so that a label may be
//! called `in` or `has`.

use super::error::SelectorError;
use super::{MAX_KEY_CHARS, MAX_SELECTOR_CHARS};

/// One token, and the byte offset where it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) at: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Key(String),
    Text(String),
    Has(String),
    All,
    Global,
    Equals,
    NotEquals,
    In,
    NotIn,
    Contains,
    StartsWith,
    EndsWith,
    Not,
    And,
    Or,
    OpenParen,
    CloseParen,
    OpenBrace,
    CloseBrace,
    Comma,
}

impl Kind {
    /// Must a string follow?
    fn wants_value(&self) -> bool {
        matches!(
            self,
            Self::Equals
                | Self::NotEquals
                | Self::Contains
                | Self::StartsWith
                | Self::EndsWith
                | Self::OpenBrace
        )
    }
    /// As in a message: what was found.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Key(key) => format!("`{key}`"),
            Self::Text(text) => format!("the string '{text}'"),
            Self::Has(key) => format!("`has({key})`"),
            Self::All => "`all()`".into(),
            Self::Global => "`global()`".into(),
            Self::Equals => "`==`".into(),
            Self::NotEquals => "`!=`".into(),
            Self::In => "`in`".into(),
            Self::NotIn => "`not in`".into(),
            Self::Contains => "`contains`".into(),
            Self::StartsWith => "`starts with`".into(),
            Self::EndsWith => "`ends with`".into(),
            Self::Not => "`!`".into(),
            Self::And => "`&&`".into(),
            Self::Or => "`||`".into(),
            Self::OpenParen => "`(`".into(),
            Self::CloseParen => "`)`".into(),
            Self::OpenBrace => "`{`".into(),
            Self::CloseBrace => "`}`".into(),
            Self::Comma => "`,`".into(),
        }
    }
}

/// The operators that are words. The parts may be joined or have blanks between them.
const WORD_OPERATORS: [(&[&str], Kind); 5] = [
    (&["in"], Kind::In),
    (&["not", "in"], Kind::NotIn),
    (&["contains"], Kind::Contains),
    (&["starts", "with"], Kind::StartsWith),
    (&["ends", "with"], Kind::EndsWith),
];

const PUNCTUATION: [(&str, Kind); 10] = [
    ("&&", Kind::And),
    ("||", Kind::Or),
    ("==", Kind::Equals),
    ("!=", Kind::NotEquals),
    ("!", Kind::Not),
    ("(", Kind::OpenParen),
    (")", Kind::CloseParen),
    ("{", Kind::OpenBrace),
    ("}", Kind::CloseBrace),
    (",", Kind::Comma),
];

fn is_key_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-')
}

/// Space and tab only: a line break in a selector is an error (§2).
fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t')
}

pub(super) fn tokens(text: &str) -> Result<Vec<Token>, SelectorError> {
    let length = text.chars().count();
    if length > MAX_SELECTOR_CHARS {
        let end = text.char_indices().nth(MAX_SELECTOR_CHARS).map_or(0, |(at, _)| at);
        let message = format!("the selector has {length} characters, {MAX_SELECTOR_CHARS} are the limit");
        return Err(SelectorError::new(text, end, message, None));
    }
    let mut lexer = Lexer { text, at: 0, tokens: Vec::new() };
    while lexer.skip_blanks() {
        let at = lexer.at;
        let kind = lexer.next_kind()?;
        lexer.tokens.push(Token { kind, at });
    }
    Ok(lexer.tokens)
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    tokens: Vec<Token>,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// Returns whether anything is left.
    fn skip_blanks(&mut self) -> bool {
        self.at = self.text.len() - self.rest().trim_start_matches(is_blank).len();
        self.at < self.text.len()
    }

    fn error<T>(
        &self,
        at: usize,
        message: impl Into<String>,
        hint: Option<String>,
    ) -> Result<T, SelectorError> {
        Err(SelectorError::new(self.text, at, message, hint))
    }

    fn take(&mut self, literal: &str) -> bool {
        let found = self.rest().starts_with(literal);
        if found {
            self.at += literal.len();
        }
        found
    }

    fn last_key(&self) -> Option<&str> {
        match self.tokens.last() {
            Some(Token { kind: Kind::Key(key), .. }) => Some(key),
            _ => None,
        }
    }

    fn next_kind(&mut self) -> Result<Kind, SelectorError> {
        if let Some(key) = self.last_key().map(str::to_owned) {
            return self.operator(&key);
        }
        let first = self.rest().chars().next().unwrap_or_default();
        match first {
            '\'' | '"' => self.string(first),
            c if is_key_char(c) => self.word(),
            _ => self.punctuation(),
        }
    }

    fn punctuation(&mut self) -> Result<Kind, SelectorError> {
        for (literal, kind) in PUNCTUATION {
            if self.take(literal) {
                return Ok(kind);
            }
        }
        let rest = self.rest();
        let found = rest.chars().next().unwrap_or_default();
        match found {
            '&' => self.error(self.at, "a single `&` is no operator", Some("write `&&`".into())),
            '|' => self.error(self.at, "a single `|` is no operator", Some("write `||`".into())),
            '\n' | '\r' => self.error(self.at, "a line break", Some("write the selector on one line".into())),
            _ => {
                self.error(self.at, format!("`{}` has no meaning in a selector", found.escape_debug()), None)
            }
        }
    }

    /// What stands after a key must be an operator.
    fn operator(&mut self, key: &str) -> Result<Kind, SelectorError> {
        for (literal, kind) in [("==", Kind::Equals), ("!=", Kind::NotEquals)] {
            if self.take(literal) {
                return Ok(kind);
            }
        }
        for (parts, kind) in WORD_OPERATORS {
            if let Some(length) = word_operator(self.rest(), parts) {
                self.at += length;
                return Ok(kind);
            }
        }
        self.error(
            self.at,
            format!("expected an operator after `{key}`"),
            Some(operator_hint(key, self.rest())),
        )
    }

    fn string(&mut self, quote: char) -> Result<Kind, SelectorError> {
        let start = self.at;
        self.at += 1;
        let Some(length) = self.rest().find(quote) else {
            return self.error(start, "the string has no end", Some(format!("write {quote} at its end")));
        };
        let value = self.rest()[..length].to_owned();
        self.at += length + 1;
        Ok(Kind::Text(value))
    }

    fn take_key(&mut self) -> Result<String, SelectorError> {
        let rest = self.rest();
        let key = &rest[..rest.find(|c| !is_key_char(c)).unwrap_or(rest.len())];
        if key.len() > MAX_KEY_CHARS {
            let message =
                format!("the label key has {} characters, {MAX_KEY_CHARS} are the limit", key.len());
            return self.error(self.at, message, None);
        }
        self.at += key.len();
        Ok(key.to_owned())
    }

    /// A key, or one of the three functions.
    fn word(&mut self) -> Result<Kind, SelectorError> {
        let start = self.at;
        let key = self.take_key()?;
        let function = matches!(key.as_str(), "has" | "all" | "global");
        if function && self.take("(") {
            return self.function(&key);
        }
        if function && self.rest().trim_start_matches(is_blank).starts_with('(') {
            let hint = format!("write `{key}(` without the blank");
            return self.error(start + key.len(), "a blank between the function and its `(`", Some(hint));
        }
        if self.tokens.last().is_some_and(|token| token.kind.wants_value()) {
            return self.error(start, "expected a value in quotes", Some(format!("write '{key}' in quotes")));
        }
        Ok(Kind::Key(key))
    }

    /// Behind `has(`, `all(` or `global(`.
    fn function(&mut self, name: &str) -> Result<Kind, SelectorError> {
        self.skip_blanks();
        let kind = if name == "has" {
            let key = self.take_key()?;
            if key.is_empty() {
                let hint = "write `has(key)`, the key without quotes".to_owned();
                return self.error(self.at, "expected a label key", Some(hint));
            }
            Kind::Has(key)
        } else if name == "all" {
            Kind::All
        } else {
            Kind::Global
        };
        self.skip_blanks();
        if !self.take(")") {
            return self.error(self.at, format!("expected `)` to close `{name}(`"), None);
        }
        Ok(kind)
    }
}

/// Length of a word operator at the start of `text`. A key character right behind it makes it another word.
fn word_operator(text: &str, parts: &[&str]) -> Option<usize> {
    let mut rest = text;
    for part in parts {
        rest = rest.trim_start_matches(is_blank).strip_prefix(part)?;
    }
    (!rest.starts_with(is_key_char)).then_some(text.len() - rest.len())
}

/// What the person probably meant by `key` and then `rest`.
pub(super) fn operator_hint(key: &str, rest: &str) -> String {
    let value = rest.trim_start_matches([':', '=', ' ', '\t']);
    let value =
        value.split(|c: char| c.is_whitespace() || matches!(c, '&' | '|' | ')')).next().unwrap_or_default();
    let value = value.trim_matches(['\'', '"']);
    if rest.starts_with([':', '=']) && !value.is_empty() {
        format!("write `{key} == '{value}'`")
    } else if matches!(key, "and" | "or" | "not") {
        let symbol = ["&&", "||", "!"][["and", "or", "not"].iter().position(|w| *w == key).unwrap_or(0)];
        format!("write `{symbol}` for {key}")
    } else {
        format!(
            "write `has({key})`, or one of == != in {{…}}, not in {{…}}, contains, starts with, ends with and a \
             quoted value"
        )
    }
}
