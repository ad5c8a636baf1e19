//! Texts of bounded length, and times as Kubernetes writes them.

use super::limits::{MAX_ERRORS, MAX_TEXT_CHARS};

/// At most so many characters, with a mark where something is missing.
pub(super) fn shorten(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        None => text.to_owned(),
        Some(_) => text.chars().take(chars.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// At most so many bytes of it.
pub(super) fn shorten_bytes(text: &str, bytes: usize) -> String {
    if text.len() <= bytes {
        return text.to_owned();
    }
    let mut end = bytes.saturating_sub('…'.len_utf8());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

/// All of them, or the first and how many more there are.
pub(super) fn bounded(errors: &[String]) -> Vec<String> {
    let most = usize::try_from(MAX_ERRORS).unwrap_or(usize::MAX);
    let mut out: Vec<String> = errors.iter().take(most).map(|e| shorten(e, MAX_TEXT_CHARS)).collect();
    if errors.len() > most {
        out.truncate(most - 1);
        out.push(format!("… and {} more", errors.len() - out.len()));
    }
    out
}

/// RFC 3339 of Unix seconds.
pub(super) fn stamp(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or(0);
    jiff::Timestamp::from_second(seconds).unwrap_or_default().to_string()
}

/// Unix seconds of RFC 3339.
pub(super) fn seconds(stamp: &str) -> Option<u64> {
    u64::try_from(stamp.parse::<jiff::Timestamp>().ok()?.as_second()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_says_so() {
        assert_eq!(shorten("äöü", 3), "äöü");
        assert_eq!(shorten("äöüß", 3), "äö…");
        assert_eq!(shorten_bytes("äöüß", 8), "äöüß");
        assert_eq!(shorten_bytes("äöüßx", 8), "äö…");
        let errors: Vec<String> = (0..12).map(|n| n.to_string()).collect();
        let short = bounded(&errors);
        assert_eq!((short.len(), short[9].as_str()), (10, "… and 3 more"));
        assert_eq!(bounded(&errors[..10]).len(), 10);
    }

    #[test]
    fn times_are_read_back() {
        assert_eq!(stamp(0), "1970-01-01T00:00:00Z");
        assert_eq!(seconds(&stamp(1_763_000_000)), Some(1_763_000_000));
        assert_eq!(seconds("yesterday"), None);
    }
}
