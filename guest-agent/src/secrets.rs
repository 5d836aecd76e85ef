//! Secrets of an `exec` program: a file each, in a folder of memory that only the program's user may look into. Written when the input is there, so no
//! template has them.

use crate::error::AgentError;
use crate::launch::USER;
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown, fchown};
use std::path::{Component, Path};
use torpor_protocol::agent::Secret;

/// Where they are.
pub(crate) const FOLDER: &str = "/run/secrets";
/// Names the folder.
pub(crate) const VARIABLE: &str = "TORPOR_SECRETS";

/// The folder, empty.
pub(crate) fn make_folder() -> Result<(), AgentError> {
    let made = fs::create_dir(FOLDER).and_then(|()| fs::set_permissions(FOLDER, Permissions::from_mode(0o500)));
    made.and_then(|()| chown(FOLDER, Some(USER), Some(USER))).map_err(|source| AgentError::io("create", FOLDER, source))
}

/// One file each.
pub(crate) fn write(folder: &Path, secrets: &[Secret]) -> Result<(), AgentError> {
    for Secret { name, value } in secrets {
        let written = || {
            if !matches!(Path::new(name).components().collect::<Vec<_>>()[..], [Component::Normal(_)]) {
                return Err(std::io::ErrorKind::InvalidInput.into());
            }
            let mut file = File::options().write(true).create_new(true).mode(0o400).open(folder.join(name))?;
            file.write_all(value.as_bytes())?;
            fchown(&file, Some(USER), Some(USER))
        };
        written().map_err(|source| AgentError::io("write a secret to", FOLDER, source))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn each_secret_is_a_file_of_the_program() {
        let folder = std::env::temp_dir().join(format!("torpor-secrets-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let secret = |name: &str| Secret { name: name.into(), value: String::from("välue\n").into() };
        // Only root may give files away.
        let root = nix::unistd::Uid::effective().is_root();
        assert_eq!(write(&folder, &[secret("api-key")]).is_ok(), root);
        assert_eq!(fs::read_to_string(folder.join("api-key")).unwrap(), "välue\n");
        let found = fs::metadata(folder.join("api-key")).unwrap();
        assert_eq!((found.mode() & 0o777, root && found.uid() != USER), (0o400, false));
        for bad in ["../x", "/x", "a/b", ""] {
            assert!(write(&folder, &[secret(bad)]).is_err(), "{bad}");
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}
