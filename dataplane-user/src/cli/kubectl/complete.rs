//! `kubectl_complete-portcullis`: kubectl's shell completion asks it for words. One word a line, a tab and what it means,
//! and a last line `:4`: no names of files.

use clap::{Arg, Command};

use crate::cli::Answer;
use crate::cli::output::print_lines;
use crate::plugin::kubectl::Kubectl;

/// Nobody waits longer behind a tab key.
const PATIENCE: &str = "3s";

/// `words`: what stands behind `kubectl portcullis`, the word that is being typed last.
pub fn run(mut command: Command, words: &[String]) -> anyhow::Result<Answer> {
    command.build();
    let offered = offer(&command, words, &names);
    print_lines(offered.into_iter().chain([":4".to_owned()]))?;
    Ok(Answer::Yes)
}

/// Names that the cluster knows; none when it does not answer.
fn names(kind: &str, namespace: &str) -> Vec<String> {
    let kubectl = Kubectl::new(Vec::new(), namespace.to_owned(), PATIENCE.to_owned());
    let Ok(list) = kubectl.get(&[kind]) else { return Vec::new() };
    let items = list["items"].as_array().into_iter().flatten();
    items.filter_map(|item| item["metadata"]["name"].as_str().map(str::to_owned)).collect()
}

fn offer(root: &Command, words: &[String], names: &dyn Fn(&str, &str) -> Vec<String>) -> Vec<String> {
    let Some((typed, before)) = words.split_last() else { return Vec::new() };
    let mut command = root;
    // The option whose value comes next.
    let mut pending: Option<&Arg> = None;
    for word in before {
        if pending.take().is_some() {
            continue;
        }
        if word.starts_with('-') {
            pending =
                option(command, word).filter(|arg| arg.get_action().takes_values() && !word.contains('='));
        } else if let Some(sub) = command.find_subcommand(word) {
            command = sub;
        }
    }
    let mut offered = match pending {
        Some(arg) => values(arg, names),
        None if typed.starts_with('-') => options(command),
        None if command.has_subcommands() => command
            .get_subcommands()
            .filter(|sub| !sub.is_hide_set())
            .map(|sub| described(sub.get_name(), sub.get_about().map(ToString::to_string)))
            .collect(),
        None => command.get_positionals().flat_map(|arg| values(arg, names)).collect(),
    };
    offered.retain(|line| line.starts_with(typed.as_str()));
    offered
}

fn option<'a>(command: &'a Command, word: &str) -> Option<&'a Arg> {
    let name = word.split('=').next().unwrap_or_default();
    command.get_arguments().find(|arg| match name.strip_prefix("--") {
        Some(long) => arg.get_long() == Some(long),
        None => {
            name.strip_prefix('-').is_some_and(|short| arg.get_short().is_some_and(|c| short.chars().eq([c])))
        }
    })
}

fn options(command: &Command) -> Vec<String> {
    let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
    shown
        .filter_map(|arg| {
            Some(described(&format!("--{}", arg.get_long()?), arg.get_help().map(ToString::to_string)))
        })
        .collect()
}

fn values(arg: &Arg, names: &dyn Fn(&str, &str) -> Vec<String>) -> Vec<String> {
    match arg.get_id().as_str() {
        "node" | "nodes" => names("nodes", ""),
        "namespace" => names("namespaces", ""),
        _ => arg
            .get_possible_values()
            .iter()
            .filter(|value| !value.is_hide_set())
            .map(|value| described(value.get_name(), value.get_help().map(ToString::to_string)))
            .collect(),
    }
}

fn described(word: &str, what: Option<String>) -> String {
    match what.as_deref().and_then(|text| text.lines().next()).filter(|line| !line.is_empty()) {
        Some(line) => format!("{word}\t{line}"),
        None => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::super::Plugin;
    use super::*;

    fn words(line: &str) -> Vec<String> {
        let mut command = Plugin::command();
        command.build();
        let names = |kind: &str, _: &str| vec![format!("{kind}-1"), "other".to_owned()];
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let word = |line: String| line.split('\t').next().unwrap_or_default().to_owned();
        offer(&command, &words, &names).into_iter().map(word).collect()
    }

    #[test]
    fn words_are_offered_where_they_may_stand() {
        assert_eq!(words("ob"), ["observe"]);
        assert_eq!(words("observe --node nod"), ["nodes-1"]);
        assert_eq!(words("observe -o js"), ["json"]);
        assert_eq!(words("explain --node n1 --all"), ["--all-nodes"]);
        assert_eq!(words("observe --context x --fol"), ["--follow"]);
        assert!(!words("observe --").contains(&"--while-stdin".to_owned()));
    }
}
