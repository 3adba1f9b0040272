//! `xnat forward`: add, remove and list.

use anyhow::anyhow;
use hyper::{Method, StatusCode};

use super::{Failure, unless_closed};
use crate::cli::{AddArgs, ForwardArgs, ForwardCommand, ListArgs, ListFormat, RemoveArgs};
use crate::client::Answer;
use crate::forward::spec::Fields;
use crate::forward::table::Shown;
use crate::instance::Instance;
use crate::maps::Maps;
use crate::{api, client, output, say};

/// Runs the command.
pub(crate) async fn run(args: &ForwardArgs) -> Result<(), Failure> {
    match &args.command {
        ForwardCommand::Add(args) => add(args).await,
        ForwardCommand::Remove(args) => remove(args).await,
        ForwardCommand::List(args) => list(args).await,
    }
}

async fn add(args: &AddArgs) -> Result<(), Failure> {
    let body = serde_json::to_vec(&Fields::from(args.forward))?;
    let answer = ask(&args.instance.instance, Method::POST, api::FORWARDS, body).await?;
    let _: Vec<Shown> = answer.read()?;
    if answer.status == StatusCode::CREATED {
        say::line(format_args!("added {}", args.forward));
    } else {
        say::line(format_args!("{} is there already", args.forward));
    }
    Ok(())
}

async fn remove(args: &RemoveArgs) -> Result<(), Failure> {
    let path = api::forward_path(&args.what);
    let answer = ask(&args.instance.instance, Method::DELETE, &path, Vec::new()).await?;
    for forward in answer.read::<Vec<Shown>>()? {
        say::line(format_args!("removed {}", forward.spec()));
    }
    Ok(())
}

async fn list(args: &ListArgs) -> Result<(), Failure> {
    let instance = &args.instance.instance;
    let forwards = match client::get(instance, api::FORWARDS).await? {
        Some(forwards) => forwards,
        None => Maps::pinned(instance)?.forwards()?.shown(),
    };
    let mut out = anstream::stdout();
    unless_closed(match args.format {
        ListFormat::Table => output::forwards::print(&mut out, &forwards),
        ListFormat::Json => output::json::document(&mut out, &forwards),
    })
}

async fn ask(instance: &Instance, method: Method, path: &str, body: Vec<u8>) -> Result<Answer, Failure> {
    let answer = client::ask(instance, method, path, body).await?;
    let start = || anyhow!("no daemon runs as instance `{instance}`; start it first: xnat run{}", instance.flag());
    Ok(answer.ok_or_else(start)?)
}
