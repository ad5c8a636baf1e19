//! Tokens to tree, by recursive descent of bounded depth.

use super::MAX_NESTING;
use super::ast::Node;
use super::error::SelectorError;
use super::lex::{self, Kind, Token};

pub(super) fn selector(text: &str) -> Result<Node, SelectorError> {
    let tokens = lex::tokens(text)?;
    if tokens.is_empty() {
        return Ok(Node::All);
    }
    let mut parser = Parser { text, tokens: &tokens, next: 0, depth: 0 };
    let root = parser.or()?;
    match parser.peek() {
        None => Ok(root),
        Some(Kind::CloseParen) => parser.error("a `)` without its `(`", None),
        Some(found) => {
            let message = format!("expected `&&`, `||` or the end, found {}", found.describe());
            let hint = match found {
                Kind::Key(word) if word.eq_ignore_ascii_case("and") => Some("write `&&`".to_owned()),
                Kind::Key(word) if word.eq_ignore_ascii_case("or") => Some("write `||`".to_owned()),
                _ => None,
            };
            parser.error(message, hint)
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    tokens: &'a [Token],
    next: usize,
    /// Open parentheses around `next`.
    depth: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a Kind> {
        self.tokens.get(self.next).map(|token| &token.kind)
    }

    fn take(&mut self, kind: &Kind) -> bool {
        let found = self.peek() == Some(kind);
        self.next += usize::from(found);
        found
    }

    /// At the token that is next.
    fn error<T>(&self, message: impl Into<String>, hint: Option<String>) -> Result<T, SelectorError> {
        let at = self.tokens.get(self.next).map_or(self.text.len(), |token| token.at);
        Err(SelectorError::new(self.text, at, message, hint))
    }

    fn found(&self) -> String {
        self.peek().map_or_else(|| "the end".into(), Kind::describe)
    }

    fn or(&mut self) -> Result<Node, SelectorError> {
        self.joined(&Kind::Or, Self::and, Node::Or)
    }

    fn and(&mut self) -> Result<Node, SelectorError> {
        self.joined(&Kind::And, Self::operation, Node::And)
    }

    fn joined(
        &mut self,
        separator: &Kind,
        part: fn(&mut Self) -> Result<Node, SelectorError>,
        join: fn(Vec<Node>) -> Node,
    ) -> Result<Node, SelectorError> {
        let first = part(self)?;
        if self.peek() != Some(separator) {
            return Ok(first);
        }
        let mut nodes = vec![first];
        while self.take(separator) {
            nodes.push(part(self)?);
        }
        Ok(join(nodes))
    }

    /// Any number of `!`, which bind to one primary only: `!a == 'x'` is `!(a == 'x')`.
    fn operation(&mut self) -> Result<Node, SelectorError> {
        let mut negated = false;
        while self.take(&Kind::Not) {
            negated = !negated;
        }
        let node = self.primary()?;
        Ok(if negated { node.negate() } else { node })
    }

    fn primary(&mut self) -> Result<Node, SelectorError> {
        let Some(kind) = self.peek() else {
            return self.error("expected a condition, found the end", None);
        };
        let node = match kind {
            Kind::All => Node::All,
            Kind::Global => Node::Global,
            Kind::Has(key) => Node::Has(key.clone()),
            Kind::Key(key) => {
                self.next += 1;
                return self.comparison(key);
            }
            Kind::OpenParen => {
                if self.depth == MAX_NESTING {
                    return self.error(format!("parentheses nested deeper than {MAX_NESTING}"), None);
                }
                self.next += 1;
                self.depth += 1;
                let inner = self.or()?;
                self.depth -= 1;
                if self.peek() != Some(&Kind::CloseParen) {
                    return self.error(format!("expected `)`, found {}", self.found()), None);
                }
                inner
            }
            Kind::Text(text) => {
                let hint = format!("write the key without quotes: `{text} == '…'`");
                return self.error("expected a label key, found a string", Some(hint));
            }
            other => return self.error(format!("expected a condition, found {}", other.describe()), None),
        };
        self.next += 1;
        Ok(node)
    }

    /// Behind a key.
    fn comparison(&mut self, key: &str) -> Result<Node, SelectorError> {
        let key = key.to_owned();
        let Some(operator) = self.peek() else {
            let hint = lex::operator_hint(&key, "");
            return self.error(format!("expected an operator after `{key}`"), Some(hint));
        };
        self.next += 1;
        Ok(match operator {
            Kind::Equals => Node::Equals(key, self.string()?),
            Kind::NotEquals => Node::NotEquals(key, self.string()?),
            Kind::Contains => Node::Contains(key, self.string()?),
            Kind::StartsWith => Node::StartsWith(key, self.string()?),
            Kind::EndsWith => Node::EndsWith(key, self.string()?),
            Kind::In => Node::In(key, self.set()?),
            Kind::NotIn => Node::NotIn(key, self.set()?),
            other => {
                self.next -= 1;
                return self
                    .error(format!("expected an operator after `{key}`, found {}", other.describe()), None);
            }
        })
    }

    fn string(&mut self) -> Result<String, SelectorError> {
        match self.peek() {
            Some(Kind::Text(text)) => {
                self.next += 1;
                Ok(text.clone())
            }
            Some(Kind::Key(word)) => {
                self.error("expected a value in quotes", Some(format!("write '{word}' in quotes")))
            }
            _ => self.error(format!("expected a value in quotes, found {}", self.found()), None),
        }
    }

    /// `{'a', 'b'}`; empty sets and a trailing comma are fine.
    fn set(&mut self) -> Result<Vec<String>, SelectorError> {
        if !self.take(&Kind::OpenBrace) {
            let hint = "write the values as {'one', 'two'}".to_owned();
            return self.error(format!("expected `{{`, found {}", self.found()), Some(hint));
        }
        let mut values = Vec::new();
        while !self.take(&Kind::CloseBrace) {
            values.push(self.string()?);
            if !self.take(&Kind::Comma) && self.peek() != Some(&Kind::CloseBrace) {
                return self.error(format!("expected `,` or `}}`, found {}", self.found()), None);
            }
        }
        Ok(values)
    }
}
