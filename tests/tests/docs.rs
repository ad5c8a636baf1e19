//! The documentation's commands, run in the lab with the real agent: what they print is what the pages say.
//!
//! `PORTCULLIS_WRITE_DOCS=1 cargo test -p tests --test docs` writes what really came into the pages; read it, and put
//! `…` where it changes from run to run. `PORTCULLIS_DOCS=first-policy` runs the pages whose name holds that.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use tests::{
    can_run,
    desk::Desk,
    docs::{MARKER, Mismatch, steps, updated},
    topology::{Lab, Proxy},
};

fn docs() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs"))
}

/// Pages that take part, sorted.
fn pages(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(pages(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "md")
            && fs::read_to_string(&path)?.contains(MARKER)
        {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn wrong_steps(page: &Path) -> Result<Vec<Mismatch>> {
    let name = page.strip_prefix(docs())?.display().to_string();
    let text = fs::read_to_string(page)?;
    let mut desk = Desk::new(Lab::new(Proxy::Nftables)?)?;
    let mut wrong = Vec::new();
    for step in steps(&text) {
        let got = desk.run(&step).with_context(|| format!("docs/{name}:{}", step.line))?;
        if let Some(got) = got {
            wrong.push(Mismatch { page: name.clone(), step, got });
        }
    }
    Ok(wrong)
}

#[test]
fn the_commands_of_the_documentation_print_what_it_says() {
    if !can_run("the_commands_of_the_documentation_print_what_it_says") {
        return;
    }
    let only = env::var("PORTCULLIS_DOCS").unwrap_or_default();
    let update = env::var_os("PORTCULLIS_WRITE_DOCS").is_some();
    let all = pages(&docs()).unwrap();
    assert!(!all.is_empty(), "no page holds {MARKER:?}");
    let mut complaints = String::new();
    for page in all.iter().filter(|page| page.to_string_lossy().contains(&only)) {
        let wrong = wrong_steps(page).unwrap();
        if update && !wrong.is_empty() {
            let text = fs::read_to_string(page).unwrap();
            fs::write(page, updated(&text, &wrong)).unwrap();
        }
        wrong.iter().for_each(|mismatch| complaints.push_str(&format!("{mismatch}\n")));
    }
    assert!(complaints.is_empty(), "\n{complaints}");
}

/// Links between pages, and to the rest of the repository, lead somewhere.
#[test]
fn links_lead_somewhere() {
    fn walk(folder: &Path, broken: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, broken);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                let text = fs::read_to_string(&path).unwrap();
                for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                    let file = target.split('#').next().unwrap_or_default();
                    let local =
                        !file.is_empty() && !file.contains("://") && !file.contains(char::is_whitespace);
                    if local && !folder.join(file).exists() {
                        broken.push(format!("{}: {target}", path.display()));
                    }
                }
            }
        }
    }
    let mut broken = Vec::new();
    walk(&docs(), &mut broken);
    walk(&tests::topology::policies(), &mut broken);
    assert!(broken.is_empty(), "{broken:#?}");
}
