//! What is made from the definition of the command line: completions, man pages, the reference page.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Command, CommandFactory as _, Subcommand};
use clap_complete::Shell;
use serde_json::Value;

use super::output::print_lines;
use super::{Answer, Cli};
use crate::crd;

/// Print a completion script for a shell
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  portcullis completions bash > /etc/bash_completion.d/portcullis
  portcullis completions zsh > /usr/share/zsh/site-functions/_portcullis
  portcullis completions fish > ~/.config/fish/completions/portcullis.fish

Exit codes: 0 done; 2 wrong usage.")]
pub struct CompletionsArgs {
    shell: Shell,
}

/// Print the manifests of this program's custom resources
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  portcullis generate crds > crds.yaml

Exit codes: 0 done; 2 wrong usage.")]
pub struct GenerateArgs {
    #[command(subcommand)]
    what: Generated,
}

#[derive(Debug, Subcommand)]
enum Generated {
    /// Print CustomResourceDefinitions: Calico's kinds, for clusters without Calico, and our own
    #[command(after_help = "Examples:
  portcullis generate crds | kubectl create -f -              without Calico; never over definitions that exist
  portcullis generate crds --group portcullis.dev             beside Calico: only our own

Exit codes: 0 done; 2 wrong usage.")]
    Crds {
        /// Only those of this group: projectcalico.org or portcullis.dev
        #[arg(long, value_parser = ["projectcalico.org", "portcullis.dev"])]
        group: Option<String>,
    },
    /// Print ValidatingAdmissionPolicies for those kinds, and their bindings
    #[command(after_help = "Examples:
  portcullis generate admission | kubectl apply --server-side -f -            for the definitions of this program
  portcullis generate admission --calico | kubectl apply --server-side -f -   for Calico's: they warn, and refuse nothing

Exit codes: 0 done; 2 wrong usage.")]
    Admission {
        /// With bindings that only warn, for clusters where Calico is
        #[arg(long)]
        calico: bool,
    },
}

pub(super) fn generate(args: &GenerateArgs) -> Result<Answer> {
    let objects: Vec<Value> = match &args.what {
        Generated::Crds { group } => {
            let is_wanted =
                |object: &Value| group.as_ref().is_none_or(|group| object["spec"]["group"] == **group);
            crd::definitions()?.into_iter().map(|manifest| manifest.object).filter(is_wanted).collect()
        }
        Generated::Admission { calico } => {
            let [(_, policies), (_, bindings), (_, for_calico)] = crd::admission();
            [policies, if *calico { for_calico } else { bindings }].concat()
        }
    };
    let text = crd::to_yaml(&objects.iter().collect::<Vec<_>>())?;
    print_lines(text.lines())?;
    Ok(Answer::Yes)
}

pub(super) fn completions(args: &CompletionsArgs) -> Result<Answer> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "portcullis", &mut script);
    let mut out = std::io::stdout().lock();
    out.write_all(&script)?;
    out.flush()?;
    Ok(Answer::Yes)
}

/// The whole command line, without what depends on the machine that asks.
fn command() -> Command {
    // Width and colours of the terminal must not change generated pages.
    let mut command = Cli::command().term_width(100).color(clap::ColorChoice::Never);
    command.build();
    command
}

/// Commands that people see, with their full names: `portcullis maps list`.
fn walk(command: &Command, name: &str, each: &mut impl FnMut(&str, &Command)) {
    each(name, command);
    for sub in command.get_subcommands().filter(|s| !s.is_hide_set() && s.get_name() != "help") {
        walk(sub, &format!("{name} {}", sub.get_name()), each);
    }
}

/// Every man page: file name (`portcullis-get.1`) and text.
pub fn man_pages() -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    walk(&command(), "portcullis", &mut |name, command| {
        found.push((name.replace(' ', "-"), command.clone()))
    });
    let page = |(name, command): (String, Command)| {
        let mut text = Vec::new();
        // The date of a build in a page would make each build another one.
        clap_mangen::Man::new(command).date("").render(&mut text).context("cannot write a man page")?;
        let text = String::from_utf8(text).context("a man page is no text")?;
        Ok((format!("{name}.1"), text))
    };
    found.into_iter().map(page).collect()
}

/// `docs/reference/cli.md`.
pub fn reference_page() -> String {
    let mut page = String::from(
        "# Command line\n\n<!-- Generated from the program. `PORTCULLIS_BLESS=1 cargo test -p dataplane-user --test \
         generated` writes it again. -->\n\nData goes to stdout, talk to stderr. Every command takes `--help`.\n",
    );
    walk(&command(), "portcullis", &mut |name, command| {
        let mut command = command.clone();
        let help = command.render_long_help().to_string();
        let help: Vec<&str> = help.lines().map(str::trim_end).collect();
        page += &format!("\n## {name}\n\n```\n{}\n```\n", help.join("\n").trim_end());
    });
    page
}

/// `docs/reference/exit-codes.md`: what each help says of its exit codes, side by side.
pub fn exit_codes_page() -> String {
    let mut page = String::from(
        "# Exit codes\n\n<!-- Generated from the program, like cli.md. -->\n\n0: done, or the answer is yes. 1: the answer \
         is no, or a change was refused, and nothing was changed. 2: wrong usage, or it could not be done or told. \
         Scripts may rely on them.\n\n- What is shown and asks for nothing is no error: a warning of `validate` or \
         `apply`, and of `status` a device without a host endpoint (`UNPROTECTED`), a table that is `NEARLY FULL`, a \
         program before ours (`NOT FIRST`), a trial that runs. All that was asked for is enforced then. To be told \
         of them, look for the word: `portcullis status -o json | jq -e '.findings == []'`.\n- A listing whose \
         reader leaves (`| head -1`) ends as if it had been read; `observe` ends with 0.\n\n| command | 0 | 1 | 2 \
         |\n|---|---|---|---|\n",
    );
    walk(&command(), "portcullis", &mut |name, command| {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        // A group only stands for its commands.
        let is_group = name != "portcullis" && command.has_subcommands();
        if let Some((_, codes)) =
            help.split_once("Exit codes: ").filter(|_| !is_group && name != "portcullis")
        {
            let [zero, one, two] = codes_of(codes);
            page += &format!("| `{name}` | {zero} | {one} | {two} |\n");
        }
    });
    page
}

/// `0 done; 1 no; 2 wrong.` → the texts of each.
fn codes_of(text: &str) -> [String; 3] {
    let text = text.split("\n\n").next().unwrap_or_default().replace('\n', " ");
    let text = text.trim().trim_end_matches('.');
    let (rest, two) = text.split_once("; 2 ").unwrap_or((text, "-"));
    let (rest, one) = rest.split_once("; 1 ").unwrap_or((rest, "-"));
    [rest.trim_start_matches("0 "), one, two].map(str::to_owned)
}

/// Every generated file below the repository's root, with its text.
pub fn files() -> Result<Vec<(PathBuf, String)>> {
    let man = man_pages()?.into_iter().map(|(name, text)| (Path::new("docs/man").join(name), text));
    let page = (PathBuf::from("docs/reference/cli.md"), reference_page());
    let codes = (PathBuf::from("docs/reference/exit-codes.md"), exit_codes_page());
    let crds: Result<Vec<_>> =
        crd::calico().into_iter().map(|manifest| generated(&manifest.file, &[&manifest.object])).collect();
    let admission: Result<Vec<_>> = crd::admission()
        .iter()
        .map(|(name, objects)| {
            generated(&format!("admission/{name}.yaml"), &objects.iter().collect::<Vec<_>>())
        })
        .collect();
    let resources = (PathBuf::from("docs/reference/crds.md"), crd::page::page());
    let files = [page, codes, resources].into_iter().chain(man).chain(crds?).chain(admission?);
    #[cfg(feature = "kubernetes")]
    let files = {
        use crate::kubernetes::report::{crd, page};
        files.chain([(crd::CRD_FILE.into(), crd::manifest()?), (page::PAGE_FILE.into(), page::page())])
    };
    Ok(files.collect())
}

fn generated(file: &str, objects: &[&Value]) -> Result<(PathBuf, String)> {
    let head = "# Generated from the program, like docs/reference/cli.md.\n";
    Ok((Path::new("packaging/crds").join(file), format!("{head}{}", crd::to_yaml(objects)?)))
}
