//! `version`: of this program, and of the daemon where there is one.

use crate::client::Client;
use crate::error::CliError;
use crate::output::{Output, complain};
use serde_json::{Value, json};

pub(super) async fn version(client: &Client, output: Output) -> Result<(), CliError> {
    let own = env!("CARGO_PKG_VERSION");
    let daemon = match client.get::<Value>("/v1/host").await {
        Ok(host) => host.value.get("version").cloned().unwrap_or(Value::Null),
        Err(error @ CliError::Denied { .. }) => {
            complain(&format!("torpor: {error}"));
            Value::Null
        }
        Err(CliError::NoDaemon { .. } | CliError::NoHost { .. } | CliError::Lost { .. }) => Value::Null,
        Err(error) => return Err(error),
    };
    if output.wants_json() {
        return output.json(&json!({"torpor": own, "torpord": daemon}).to_string());
    }
    output.line(&format!("torpor   {own}"))?;
    match daemon.as_str() {
        Some(version) => output.line(&format!("torpord  {version}")),
        None => output.line(&format!("torpord  not reached at {}", client.place())),
    }
}
