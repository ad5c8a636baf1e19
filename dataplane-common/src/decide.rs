//! The one decision (`architecture.md` §2).
