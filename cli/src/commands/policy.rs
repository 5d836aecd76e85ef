//! `policy explain` and `task graph`.

use crate::args::{GraphArgs, PolicyCommand};
use crate::client::{Client, escape};
use crate::error::CliError;
use crate::output::{Output, short, table};
use serde::Deserialize;
use std::collections::BTreeSet;

#[derive(Debug, Deserialize)]
struct Report {
    task: String,
    version: String,
    lines: Vec<Line>,
}

#[derive(Debug, Deserialize)]
struct Line {
    portion: String,
    key: String,
    value: String,
    source: String,
}

pub(super) async fn policy(client: &Client, output: Output, command: PolicyCommand) -> Result<(), CliError> {
    let PolicyCommand::Explain { name, portion } = command;
    let reply = client.get::<Report>(&format!("/v1/tasks/{}/policy", escape(&name))).await?;
    if output.wants_json() && portion.is_none() {
        return output.json(&reply.text);
    }
    let Report { task, version, lines } = reply.value;
    let wanted: Vec<Line> = lines.into_iter().filter(|line| portion.as_ref().is_none_or(|portion| *portion == line.portion)).collect();
    if let (true, Some(portion)) = (wanted.is_empty(), &portion) {
        return Err(CliError::Usage(format!("task {task} has no portion {portion:?}; `torpor task graph {task}` shows them")));
    }
    if output.wants_json() {
        let row = |line: &Line| serde_json::json!({"portion": line.portion, "key": line.key, "value": line.value, "source": line.source});
        let report = serde_json::json!({"task": task, "version": version, "lines": wanted.iter().map(row).collect::<Vec<_>>()});
        return output.json(&report.to_string());
    }
    let rows: Vec<_> = wanted.into_iter().map(|line| vec![line.portion, line.key, line.value, line.source]).collect();
    output.line(&format!("{task}@{}", short(&version)))?;
    output.line(&table(&["PORTION", "KEY", "VALUE", "FROM"], &rows))
}

#[derive(Debug, Deserialize)]
struct Graph {
    task: String,
    version: String,
    portions: Vec<Portion>,
    calls: Vec<Call>,
}

#[derive(Debug, Deserialize)]
struct Portion {
    name: String,
    trust: String,
    runtime: String,
    secrets: Vec<String>,
    aux: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Call {
    from: String,
    to: String,
}

pub(super) async fn graph(client: &Client, output: Output, args: GraphArgs) -> Result<(), CliError> {
    let reply = client.get::<Graph>(&format!("/v1/tasks/{}/graph", escape(&args.name))).await?;
    if args.dot {
        return output.line(&dot(&reply.value));
    }
    if output.wants_json() {
        return output.json(&reply.text);
    }
    output.line(&format!("{}@{}", reply.value.task, short(&reply.value.version)))?;
    output.line(&tree(&reply.value))
}

fn titled(portion: &Portion) -> String {
    let secrets = portion.secrets.iter().map(|secret| format!("  secret {secret}"));
    let aux = portion.aux.iter().map(|aux| format!("  aux {aux}"));
    let more: String = secrets.chain(aux).collect();
    format!("{}  {} {}{more}", portion.name, portion.trust, portion.runtime)
}

/// What is called, below whom; a portion that was drawn already is only named again.
fn tree(graph: &Graph) -> String {
    let mut drawn = BTreeSet::new();
    let mut lines = Vec::new();
    if graph.calls.iter().any(|call| call.from == "client") {
        lines.push("client".to_owned());
        branch(graph, "client", "", &mut drawn, &mut lines);
    }
    for portion in &graph.portions {
        let name = format!("portion:{}", portion.name);
        if !drawn.contains(&name) {
            lines.push(format!("(not called by anybody drawn above) {}", titled(portion)));
            drawn.insert(name.clone());
            branch(graph, &name, "", &mut drawn, &mut lines);
        }
    }
    lines.join("\n")
}

fn branch(graph: &Graph, from: &str, indent: &str, drawn: &mut BTreeSet<String>, lines: &mut Vec<String>) {
    let calls: Vec<&Call> = graph.calls.iter().filter(|call| call.from == from).collect();
    for (at, call) in calls.iter().enumerate() {
        let last = at + 1 == calls.len();
        let portion = graph.portions.iter().find(|portion| call.to == format!("portion:{}", portion.name));
        let seen = !drawn.insert(call.to.clone());
        let title = match portion {
            Some(portion) if seen => format!("{} (see above)", portion.name),
            Some(portion) => titled(portion),
            None if call.to == "*" => "any task".to_owned(),
            None => format!("task {}", call.to),
        };
        lines.push(format!("{indent}{}─> {title}", if last { "└" } else { "├" }));
        if portion.is_some() && !seen {
            branch(graph, &call.to, &format!("{indent}{}   ", if last { " " } else { "│" }), drawn, lines);
        }
    }
}

/// For Graphviz.
fn dot(graph: &Graph) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let mut lines = vec![format!("digraph {} {{", quoted(&graph.task)), "  rankdir=LR;".to_owned()];
    for portion in &graph.portions {
        let more = [&portion.secrets[..], &portion.aux[..]].concat().join("\\n");
        let label = quoted(&format!("{}\n{}\n", portion.name, portion.trust)).replace('\n', "\\n");
        let label = format!("{}{}\"", &label[..label.len() - 1], more.replace('"', "\\\""));
        lines.push(format!("  {} [shape=box, label={label}];", quoted(&format!("portion:{}", portion.name))));
    }
    lines.extend(graph.calls.iter().map(|call| format!("  {} -> {};", quoted(&call.from), quoted(&call.to))));
    lines.push("}".to_owned());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn graph() -> Graph {
        let text = r#"{"task": "checkout", "version": "ab", "portions": [
            {"name": "main", "trust": "untrusted", "runtime": "python", "secrets": [], "aux": []},
            {"name": "sign", "trust": "trusted", "runtime": "python", "secrets": ["key"], "aux": []},
            {"name": "db", "trust": "limited", "runtime": "exec", "secrets": [], "aux": ["ledger tcp:h:1"]},
            {"name": "lone", "trust": "limited", "runtime": "exec", "secrets": [], "aux": []}],
            "calls": [{"from": "client", "to": "portion:main"}, {"from": "portion:main", "to": "portion:sign"},
            {"from": "portion:main", "to": "portion:db"}, {"from": "portion:main", "to": "audit"},
            {"from": "portion:sign", "to": "portion:db"}]}"#;
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_graph_is_drawn_once() {
        let expected = "client\n\
            └─> main  untrusted python\n\
            \u{20}   ├─> sign  trusted python  secret key\n\
            \u{20}   │   └─> db  limited exec  aux ledger tcp:h:1\n\
            \u{20}   ├─> db (see above)\n\
            \u{20}   └─> task audit\n\
            (not called by anybody drawn above) lone  limited exec";
        assert_eq!(tree(&graph()), expected);
    }

    #[test]
    fn dot_is_quoted() {
        let mut graph = graph();
        graph.portions[1].secrets = vec!["a\"b".into()];
        let text = dot(&graph);
        assert!(text.contains("a\\\"b") && text.contains("\"portion:main\" -> \"portion:sign\";"), "{text}");
    }
}
