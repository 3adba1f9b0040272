//! Starting other programs.

use std::{
    ffi::OsStr,
    io::{self, ErrorKind},
    os::unix::process::CommandExt as _,
    process::Command,
};

use anyhow::{Result, anyhow, bail};

/// Tells a person what is about to take time. On stderr: stdout belongs to what is run.
pub(crate) fn note(what: &str) {
    eprintln!("==> {what}");
}

/// Runs a program to its end, its output going where ours goes. Failure names the program.
pub(crate) fn run(mut command: Command) -> Result<()> {
    let status = command.status().map_err(|error| start_error(&command, error))?;
    if !status.success() {
        bail!("`{}` failed ({status}), see above", summary(&command));
    }
    Ok(())
}

/// Runs a program and returns what it printed; failure carries what it complained about.
pub(crate) fn capture(mut command: Command) -> Result<String> {
    let output = command.output().map_err(|error| start_error(&command, error))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed ({}): {}", summary(&command), output.status, gist(&complaint));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Becomes another program, so that signals and the exit code are its own.
pub(crate) fn replace(mut command: Command) -> Result<()> {
    let error = command.exec();
    Err(start_error(&command, error))
}

/// What to do about a program that does not start.
fn start_error(command: &Command, error: io::Error) -> anyhow::Error {
    let program = command.get_program().to_string_lossy();
    if error.kind() != ErrorKind::NotFound {
        return anyhow::Error::new(error).context(format!("cannot start {program}"));
    }
    match &*program {
        "rustup" => anyhow!("rustup is not on PATH: install it (see https://rustup.rs), then open a new shell"),
        "sudo" => anyhow!("sudo is not on PATH: install it, or become root and repeat the command"),
        _ => anyhow!("{program} is not there: install it, or put it on PATH"),
    }
}

/// The program and the first of its arguments: enough to tell which step it was.
fn summary(command: &Command) -> String {
    const SHOWN: usize = 6;
    let mut words: Vec<_> =
        std::iter::once(command.get_program()).chain(command.get_args()).map(OsStr::to_string_lossy).collect();
    if words.len() > SHOWN {
        words.truncate(SHOWN);
        words.push("…".into());
    }
    words.join(" ")
}

/// The line of a complaint that says most.
pub(crate) fn gist(complaint: &str) -> &str {
    let mut lines = complaint.lines().map(str::trim).filter(|l| !l.is_empty());
    lines.clone().find(|line| line.contains("error")).or_else(|| lines.next()).unwrap_or("it says nothing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gist_prefers_the_error() {
        assert_eq!(gist("warning: x\n\n  error: no space\nmore"), "error: no space");
        assert_eq!(gist("\nnot found\n"), "not found");
        assert_eq!(gist(""), "it says nothing");
    }

    #[test]
    fn summary_is_short() {
        let mut command = Command::new("rustup");
        command.args(["run", "1", "cargo", "test", "-p", "xnat", "--bins"]);
        assert_eq!(summary(&command), "rustup run 1 cargo test -p …");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run(Command::new("/no/such/program")).unwrap_err();
        assert!(error.to_string().contains("/no/such/program"), "{error}");
    }

    #[test]
    fn failure_carries_the_complaint() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo error: out of luck >&2; exit 3"]);
        let error = capture(command).unwrap_err().to_string();
        assert!(error.ends_with("error: out of luck"), "{error}");
    }
}
