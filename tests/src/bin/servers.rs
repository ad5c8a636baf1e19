//! Builds the Kubernetes servers of the tests, if they are not there yet. `cargo xtask test` runs it beside the first
//! steps, which leave a processor idle for most of their time.

use anyhow::Result;
use tests::kubernetes::servers::Programs;

fn main() -> Result<()> {
    match Programs::find()? {
        Ok(_) => eprintln!("the Kubernetes servers are there"),
        // The tests that need them say so, each by its name.
        Err(missing) => eprintln!("no Kubernetes servers: {}", missing.0),
    }
    Ok(())
}
