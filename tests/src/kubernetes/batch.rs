//! Many requests over one connection: hundreds of objects are put to the server in seconds.

use std::{fmt::Write as _, fs, process::Command};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{ADMIN, Cluster, SERVER, path_of};

impl Cluster {
    /// POSTs each body to its path as the administrator, in order: status codes and answers.
    pub fn post_all(&self, requests: &[(String, Value)]) -> Result<Vec<(u16, Value)>> {
        let folder = tempfile::tempdir()?;
        let file =
            |kind: &str, number: usize| folder.path().join(format!("{kind}-{number}")).display().to_string();
        let mut script = String::new();
        for (number, (path, body)) in requests.iter().enumerate() {
            fs::write(file("body", number), body.to_string())?;
            let (body, answer) = (file("body", number), file("answer", number));
            let next = if number == 0 { "" } else { "next\n" };
            writeln!(
                script,
                "{next}url = \"{SERVER}{path}\"\nrequest = \"POST\"\ninsecure\nsilent\nmax-time = 20\nheader = \
                 \"Authorization: Bearer {ADMIN}\"\nheader = \"Content-Type: application/json\"\ndata-binary = \
                 \"@{body}\"\noutput = \"{answer}\"\nwrite-out = \"%{{http_code}}\\n\""
            )?;
        }
        let config = file("script", 0);
        fs::write(&config, script)?;
        let output = Command::new(&self.enter[0])
            .args(&self.enter[1..])
            .args(["curl", "-K", &config])
            .output()
            .context("cannot run curl")?;
        let codes = String::from_utf8_lossy(&output.stdout).into_owned();
        let codes: Vec<u16> =
            codes.lines().map(str::parse).collect::<Result<_, _>>().context("curl's codes")?;
        if codes.len() != requests.len() {
            bail!("{} answers for {} requests", codes.len(), requests.len());
        }
        let answer = |(number, code)| {
            let text = fs::read_to_string(file("answer", number)).unwrap_or_default();
            Ok((code, serde_json::from_str(&text).unwrap_or(Value::Null)))
        };
        codes.into_iter().enumerate().map(answer).collect()
    }

    /// Creates all of these objects.
    pub fn create_all(&self, objects: &[Value]) -> Result<()> {
        let request = |object: &Value| {
            let path = path_of(object)?;
            Ok((path.rsplit_once('/').context("no path")?.0.to_owned(), object.clone()))
        };
        let requests: Vec<(String, Value)> = objects.iter().map(request).collect::<Result<_>>()?;
        for ((code, answer), (path, object)) in self.post_all(&requests)?.into_iter().zip(&requests) {
            if code != 201 {
                bail!("{path}: {code} {answer}\n{object:#}");
            }
        }
        Ok(())
    }

    /// What the server warns of: one request as the administrator.
    pub fn warnings(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Vec<String>> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("body");
        fs::write(&file, body.map(Value::to_string).unwrap_or_default())?;
        let output = Command::new(&self.enter[0])
            .args(&self.enter[1..])
            .args(["curl", "-sk", "--max-time", "20", "-D", "-", "-o", "/dev/null", "-X", method])
            .args(["-H", &format!("Authorization: Bearer {ADMIN}"), "-H", "Content-Type: application/json"])
            .args(["--data-binary", &format!("@{}", file.display()), &format!("{SERVER}{path}")])
            .output()
            .context("cannot run curl")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let warning = |line: &str| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("warning").then(|| value.trim().to_owned())
        };
        Ok(text.lines().filter_map(warning).collect())
    }
}
