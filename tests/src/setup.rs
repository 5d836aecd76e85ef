//! Where binaries, guest kernel and images are. What `TORPOR_BIN_DIR`, `TORPOR_KERNEL` and `TORPOR_IMAGES` do not name is made (or found in the
//! cache) by cargo and by the scripts.

use std::fs::OpenOptions;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// What a daemon is started with.
#[derive(Debug)]
pub struct Setup {
    /// Folder of `torpord`, `torpor-vmm` and `torpor`.
    pub bin: PathBuf,
    /// The guest kernel.
    pub kernel: PathBuf,
    /// Folder of `python.erofs` and `exec.erofs`.
    pub images: PathBuf,
}

/// Top of the repository.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the repository")
}

/// Checks KVM and makes what is missing, so that no test waits for it.
pub fn prepare() {
    let opened = OpenOptions::new().read(true).write(true).open("/dev/kvm");
    if let Err(error) = opened {
        panic!("these tests run real VMs, and /dev/kvm can't be used: {error}");
    }
    get();
}

/// Where everything is.
pub fn get() -> &'static Setup {
    static SETUP: OnceLock<Setup> = OnceLock::new();
    SETUP.get_or_init(|| {
        let from = |variable: &str| std::env::var_os(variable).map(PathBuf::from);
        Setup {
            bin: from("TORPOR_BIN_DIR").unwrap_or_else(build),
            kernel: from("TORPOR_KERNEL").unwrap_or_else(|| script("build-kernel", &[])),
            images: from("TORPOR_IMAGES").unwrap_or_else(images),
        }
    })
}

fn build() -> PathBuf {
    let status = Command::new("cargo")
        .args(["build", "--release", "--quiet", "-p", "torpor-daemon", "-p", "torpor-vmm", "-p", "torpor-cli"])
        .current_dir(root())
        .status()
        .expect("cargo can be started");
    assert!(status.success(), "the binaries under test do not build");
    target().join("release")
}

/// A monitor that turns on its host, see vmm/src/hostile. It is no part of Torpor, so that no build but this one makes it.
pub fn hostile() -> PathBuf {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    let make = || {
        let status = Command::new("cargo")
            .args(["build", "--release", "--quiet", "-p", "torpor-vmm", "--features", "hostile", "--bin", "torpor-vmm-hostile"])
            .current_dir(root())
            .status();
        assert!(status.expect("cargo can be started").success(), "the hostile monitor does not build");
        target().join("release/torpor-vmm-hostile")
    };
    MADE.get_or_init(make).clone()
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The path that a script prints.
fn script(name: &str, arguments: &[&str]) -> PathBuf {
    let output = Command::new(root().join("scripts").join(name)).args(arguments).stderr(Stdio::inherit()).output();
    let output = output.unwrap_or_else(|error| panic!("scripts/{name}: {error}"));
    assert!(output.status.success(), "scripts/{name} failed");
    PathBuf::from(String::from_utf8(output.stdout).expect("a path in UTF-8").trim())
}

fn images() -> PathBuf {
    let dir = target().join("torpor-tests").join("images");
    std::fs::create_dir_all(&dir).expect("a folder in target/");
    for runtime in ["python", "exec"] {
        let link = dir.join(format!("{runtime}.erofs"));
        let _ = std::fs::remove_file(&link);
        symlink(script("build-rootfs", &[runtime]), &link).expect("a link to the image");
    }
    dir
}
