//! The parser: total, bounded, fail-closed (D19–D38).
