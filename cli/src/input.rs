//! JSON that goes to the daemon as it is: from the command line, a file or standard input. Invariant: at most one byte more than allowed is held.

use crate::error::CliError;
use crate::output::size;
use std::io::{self, Read};
use std::path::Path;

/// What `argument` stands for: JSON text, `@FILE` or `-`. `what` it is and how large it may be are for messages.
pub(crate) async fn read(argument: String, what: &'static str, limit: u64) -> Result<Vec<u8>, CliError> {
    let (place, bytes) = if argument == "-" {
        let read = tokio::task::spawn_blocking(move || read_capped(io::stdin().lock(), limit));
        let bytes = tokio::select! {
            read = read => read.unwrap_or_else(|error| Err(io::Error::other(error))),
            Ok(()) = tokio::signal::ctrl_c() => return Err(CliError::Interrupted),
        };
        let bytes = bytes.map_err(|source| CliError::File { what: "can't read", path: "standard input".into(), source })?;
        ("standard input".to_owned(), bytes)
    } else if let Some(path) = argument.strip_prefix('@') {
        let path = Path::new(path);
        let bytes = std::fs::File::open(path).and_then(|file| read_capped(file, limit));
        let bytes = bytes.map_err(|source| CliError::File { what: "can't read", path: path.to_owned(), source })?;
        (path.display().to_string(), bytes)
    } else {
        (format!("the {what}"), argument.into_bytes())
    };
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > limit {
        return Err(CliError::Usage(format!("{place} is larger than {}, the most that {what} may be", size(limit))));
    }
    Ok(bytes)
}

/// At most one byte more than the limit.
fn read_capped(source: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(limit + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn what_is_too_large_or_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in.json");
        std::fs::write(&path, "[1,2,3]").unwrap();
        let argument = format!("@{}", path.display());
        assert_eq!(read(argument.clone(), "input", 7).await.unwrap(), b"[1,2,3]");
        let error = read(argument, "data", 6).await.unwrap_err();
        assert_eq!(
            (error.exit_code(), error.to_string()),
            (2, format!("{} is larger than 6 B, the most that data may be", path.display()))
        );
        assert_eq!(
            read("1234567".into(), "data", 6).await.unwrap_err().to_string(),
            "the data is larger than 6 B, the most that data may be"
        );
        let error = read("@/no/such".into(), "data", 6).await.unwrap_err();
        assert!(error.to_string().starts_with("can't read /no/such: "), "{error}");
    }
}
