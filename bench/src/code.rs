//! No-op tasks, as images.

use crate::Failed;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A task's code.
pub(crate) struct Code {
    pub(crate) image: PathBuf,
    pub(crate) entry: &'static str,
}

/// The folder of a runtime's no-op task.
pub(crate) fn folder(runtime: &str, dir: &Path) -> Result<(PathBuf, &'static str), Failed> {
    let code = dir.join(format!("code-{runtime}"));
    fs::create_dir(&code)?;
    let (entry, file, text) = match runtime {
        "python" => ("main.py:handler", "main.py", "def handler(input, context):\n    return None\n"),
        _ => ("main", "main", "#!/bin/sh\necho null\n"),
    };
    fs::write(code.join(file), text)?;
    fs::set_permissions(code.join(file), fs::Permissions::from_mode(0o755))?;
    fs::write(
        code.join("torpor.toml"),
        format!("[task]\nname = \"noop-{runtime}\"\nruntime = \"{runtime}\"\nentry = \"{entry}\"\n[policy]\nmemory = \"128MiB\"\n"),
    )?;
    Ok((code, entry))
}

/// The same as an image.
pub(crate) fn image(runtime: &str, dir: &Path) -> Result<Code, Failed> {
    let (code, entry) = folder(runtime, dir)?;
    Ok(Code { image: of_folder(&code, dir)?, entry })
}

/// The image of any folder.
pub(crate) fn of_folder(code: &Path, dir: &Path) -> Result<PathBuf, Failed> {
    let image = dir.join("code.erofs");
    let made = Command::new("mkfs.erofs").arg(&image).arg(code).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    if made.success() { Ok(image) } else { Err("mkfs.erofs failed".into()) }
}
