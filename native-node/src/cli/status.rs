//! `quorate status`: the cluster as one node sees it, or as each member sees itself.
//!
//! Invariant: what is not known is drawn as unknown, never as up, down or zero.

use super::client::{Call, Client, NodeArgs, Patience, RECEIPT};
use super::exit::CliError;
use super::names::{object_path, query};
use super::print_json;
use super::views::{ClusterView, Member};
use clap::Args;
use indicatif::HumanBytes;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::time::Duration;

/// A member that says nothing for this long is shown without an answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// Show the cluster as a node sees it.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  quorate status
  quorate status --all                 # ask every member: who is ready, who keeps hints
  quorate status --object cart 42      # which primaries answer for an object
  quorate status --json | jq '.members[] | {name, state}'

A member is up (●), suspected of being down (✕), or unknown (?): not heard from since the answering
node started. Each node believes for itself; there is no global failure detector (§4.8.3).")]
pub struct StatusArgs {
    /// Ask every member for its own view, and add up the hints that are kept
    #[arg(long)]
    all: bool,
    /// Ask all primaries of this object and show who answered
    #[arg(long, num_args = 2, value_names = ["BUCKET", "KEY"])]
    object: Vec<String>,
    #[command(flatten)]
    nodes: NodeArgs,
    /// Print the node's view as it is; with --all, an array of one entry a member
    #[arg(long)]
    json: bool,
}

/// A member's answer about itself.
struct Answered {
    member: Member,
    view: Result<(ClusterView, Value), CliError>,
}

/// Runs `status`.
pub async fn status(args: &StatusArgs) -> Result<(), CliError> {
    let client = Client::new(&args.nodes)?;
    let mut call = Call::new(Method::GET, "/cluster");
    call.timeout = ASK_TIMEOUT;
    let answer = client.send(&call, Patience::EachNodeOnce).await?;
    if answer.status != StatusCode::OK {
        return Err(answer.error("no view of the cluster"));
    }
    let view = ClusterView::parse(&answer.body)?;
    let raw: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    if !args.object.is_empty() {
        return show_object(args, &client, &view).await;
    }
    if !args.all {
        if args.json {
            print_json(&raw);
        } else {
            say!("{}", draw(&view).trim_end());
        }
        return Ok(());
    }
    let answers = ask_all(&client, &view, &call).await;
    if args.json {
        let entries: Vec<_> = answers.iter().map(entry).collect();
        print_json(&json!(entries));
    } else {
        say!("{}\n{}", draw(&view), draw_all(&view, &answers).trim_end());
    }
    Ok(())
}

async fn ask_all(client: &Client, view: &ClusterView, call: &Call) -> Vec<Answered> {
    let asked = view.members.iter().map(async |member| {
        let url = member.url().ok_or_else(|| CliError::failed("it has no address"));
        let view = match url {
            Err(error) => Err(error),
            Ok(url) => client.ask(&url, call).await.and_then(|answer| {
                let raw = serde_json::from_slice(&answer.body).unwrap_or_default();
                Ok((ClusterView::parse(&answer.body)?, raw))
            }),
        };
        // Another node may listen there by now.
        let view = view.and_then(|(view, raw)| match &view.node {
            Some(node) if *node == member.node => Ok((view, raw)),
            _ => Err(CliError::failed("another node answers at its address")),
        });
        Answered { member: member.clone(), view }
    });
    futures::future::join_all(asked).await
}

fn entry(answered: &Answered) -> Value {
    let view = match &answered.view {
        Ok((_, raw)) => raw.clone(),
        Err(error) => json!({ "error": error.message }),
    };
    json!({ "node": answered.member.node, "name": answered.member.name, "view": view })
}

fn draw(view: &ClusterView) -> String {
    let mut out = String::new();
    let me = view.node.as_deref().map_or("?".into(), |node| view.name_of(node));
    let cluster = view.cluster.as_deref().unwrap_or("none yet: it waits to be admitted");
    let opened = if view.open { "open: it holds data" } else { "empty: nodes may join" };
    line(&mut out, &format!("Cluster    {cluster}"));
    let (members, partitions) = (view.members.len(), view.partitions);
    line(&mut out, &format!("           {members} members, {partitions} partitions, {opened}"));
    line(&mut out, &format!("Seen from  {me}: {}", readiness(view)));
    for reason in &view.not_ready {
        line(&mut out, &format!("           - {reason}"));
    }
    out.push('\n');
    let rows = view.members.iter().map(|member| {
        vec![
            member.title(),
            member.node.clone(),
            state(&member.state).to_owned(),
            member.zone.clone(),
            member.weight.to_string(),
            member.claimed.to_string(),
            member.addresses.join(" "),
        ]
    });
    let head = ["MEMBER", "ID", "STATE", "ZONE", "WEIGHT", "PARTITIONS", "ADDRESS"];
    table(&mut out, &head, rows.collect());
    out.push('\n');
    line(&mut out, &hints_here(&me, view));
    for hints in view.hints.iter().filter(|hints| hints.count > 0) {
        let (owner, bytes) = (view.name_of(&hints.owner), HumanBytes(hints.bytes));
        line(&mut out, &format!("  {} for {owner} ({bytes})", hints.count));
    }
    out
}

fn hints_here(me: &str, view: &ClusterView) -> String {
    if view.hints_counted {
        let (count, bytes) = (view.hint_count(), HumanBytes(view.hint_bytes));
        format!("Hints kept by {me}: {count} ({bytes})")
    } else {
        format!("Hints kept by {me}: at least {} (still counting)", view.hint_count())
    }
}

fn draw_all(view: &ClusterView, answers: &[Answered]) -> String {
    let mut out = String::new();
    let (mut count, mut known) = (0, true);
    let mut rows = Vec::new();
    for Answered { member, view: own } in answers {
        let row = match own {
            Err(error) => {
                known = false;
                vec![format!("no answer ({})", error.message), "?".into(), "?".into()]
            }
            Ok((own, _)) => {
                known &= own.hints_counted;
                count += own.hint_count();
                let owners = own.hints.iter().filter(|hints| hints.count > 0);
                let owners: Vec<_> = owners
                    .map(|hints| format!("{} for {}", hints.count, view.name_of(&hints.owner)))
                    .collect();
                vec![readiness(own), own.hint_count().to_string(), owners.join(", ")]
            }
        };
        rows.push([vec![member.title()], row].concat());
    }
    line(&mut out, "Each member of itself:");
    table(&mut out, &["MEMBER", "SAYS", "HINTS", "FOR WHOM"], rows);
    let total = if known { format!("{count}") } else { format!("at least {count}") };
    out.push('\n');
    line(&mut out, &format!("Hints kept in all: {total}"));
    out
}

fn readiness(view: &ClusterView) -> String {
    let mut words = Vec::new();
    if let Some(reason) = &view.stopped {
        words.push(format!("STOPPED: {reason}"));
    } else {
        words.push(if view.ready { "ready".into() } else { "NOT READY".into() });
    }
    if view.read_only {
        words.push("READ-ONLY: its disk is full".into());
    }
    if view.lost_commits {
        words.push("LOST COMMITS: its disk had less than it acknowledged".into());
    }
    words.join(", ")
}

/// Told apart by shape as well as by word.
fn state(state: &str) -> &str {
    match state {
        "myself" => "● itself",
        "up" => "● up",
        "suspected" => "✕ suspected",
        "unknown" => "? unknown",
        other => other,
    }
}

async fn show_object(
    args: &StatusArgs,
    client: &Client,
    view: &ClusterView,
) -> Result<(), CliError> {
    let (bucket, key) = (&args.object[0], &args.object[1]);
    let path = object_path(bucket.as_bytes(), key.as_bytes())?;
    let all = || Some("all".to_owned());
    let params = query(&[("r", all()), ("pr", all())]);
    let what = format!("{bucket}/{key}");
    let call = Call::new(Method::GET, format!("{path}{params}"));
    let answer = client.send(&call, Patience::EachNodeOnce).await?;
    let receipt = answer.header(&RECEIPT).map(super::receipt::to_json);
    let Some(receipt) = receipt.filter(Value::is_object) else { return Err(answer.error(&what)) };
    if args.json {
        print_json(&json!({
            "bucket": bucket, "key": key, "status": answer.status.as_u16(), "receipt": receipt,
        }));
    } else {
        let found = match answer.status {
            StatusCode::NOT_FOUND => "not found".to_owned(),
            _ => format!("{} value(s)", receipt["siblings"]),
        };
        say!("{what}: {found}; all {} primaries were asked and answered:", receipt["n"]);
        for one in receipt["answers"].as_array().into_iter().flatten() {
            let node = one["node"].as_str().unwrap_or("?");
            say!("  {}  {}", view.name_of(node), one["role"].as_str().unwrap_or("?"));
        }
    }
    if answer.status == StatusCode::NOT_FOUND { Err(answer.error(&what)) } else { Ok(()) }
}

fn line(out: &mut String, text: &str) {
    writeln!(out, "{text}").expect("a string takes all");
}

/// Columns as wide as their widest cell.
pub fn table(out: &mut String, head: &[&str], rows: Vec<Vec<String>>) {
    let mut all = vec![head.iter().map(ToString::to_string).collect::<Vec<_>>()];
    all.extend(rows);
    let width = |at: usize| {
        all.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..head.len()).map(width).collect();
    for row in &all {
        let mut text = String::new();
        for (cell, &width) in row.iter().zip(&widths) {
            write!(text, "{cell:width$}  ").expect("a string takes all");
        }
        line(out, text.trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::views::Hints;

    fn view() -> ClusterView {
        let member = |node: &str, name: &str, state: &str| Member {
            node: node.into(),
            name: name.into(),
            state: state.into(),
            claimed: 85,
            ..Member::default()
        };
        ClusterView {
            node: Some("aa".into()),
            partitions: 256,
            ready: true,
            open: true,
            hints_counted: true,
            members: vec![
                member("aa", "n1", "myself"),
                member("bb", "n2", "suspected"),
                member("cc", "", "unknown"),
            ],
            hints: vec![Hints { owner: "bb".into(), count: 3, bytes: 2048 }],
            hint_bytes: 2048,
            ..ClusterView::default()
        }
    }

    #[test]
    fn up_suspected_and_unknown_are_drawn_differently() {
        let text = draw(&view());
        for want in ["● itself", "✕ suspected", "? unknown", "3 for n2", "Seen from  n1: ready"]
        {
            assert!(text.contains(want), "{want:?} in\n{text}");
        }
    }

    #[test]
    fn hints_are_zero_only_where_every_member_said_so() {
        let view = view();
        let answered = |own: Result<ClusterView, CliError>| Answered {
            member: view.members[0].clone(),
            view: own.map(|view| (view, json!(null))),
        };
        let none = || ClusterView { hints_counted: true, ..ClusterView::default() };
        let counting = || ClusterView::default();
        let silent = || CliError::failed("no answer");
        let total =
            |answers: &[Answered]| draw_all(&view, answers).lines().last().unwrap().to_owned();
        assert_eq!(total(&[answered(Ok(none()))]), "Hints kept in all: 0");
        assert_eq!(total(&[answered(Ok(counting()))]), "Hints kept in all: at least 0");
        assert_eq!(total(&[answered(Err(silent()))]), "Hints kept in all: at least 0");
        assert_eq!(
            total(&[answered(Ok(none())), answered(Ok(view.clone()))]),
            "Hints kept in all: 3"
        );
    }
}
