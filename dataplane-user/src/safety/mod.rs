//! Safety for the hand on the keyboard: changes that undo themselves, enforcement that can be suspended, and a look
//! at what a change would cut before it is made.
//!
//! Reading order: `word` (what kernel and commands share) → `journal` and `text` (the folder, changed as a whole and in
//! its author's words) → `plan` → `trial` (`apply --confirm`) → `session` and `guard` (what a change would cut).

pub mod guard;
pub mod journal;
pub mod plan;
pub mod session;
pub mod text;
pub mod trial;
pub mod word;

use std::path::Path;

pub use word::{Standing, Word};

/// Loud lines about this pin dir, for the top of `status`. Empty when nothing is out of the ordinary.
pub fn banner(pin_dir: &Path) -> Vec<String> {
    match Word::open(pin_dir).and_then(|word| word.map(|word| word.standing()).transpose()) {
        Ok(standing) => standing.map_or_else(Vec::new, |standing| standing.lines()),
        Err(e) => vec![format!("UNKNOWN whether enforcement is suspended or an apply is on trial: {e:#}")],
    }
}
