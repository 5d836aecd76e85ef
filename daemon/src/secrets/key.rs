//! The master key: 32 bytes that encrypt all secrets of a host, and the keys of parked machines that hold some.
//!
//! It is, in this order: the systemd credential `secrets-key`; the file that `--secrets-key` names; `secrets.key` in the state folder, which is made
//! when the first secret is set. Invariant: a new key is made only where nothing in the database needs an old one.

use super::seal::KeyId;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use zeroize::Zeroizing;

/// Name of the systemd credential.
pub const CREDENTIAL: &str = "secrets-key";
/// Name of the file in the state folder.
pub const FILE: &str = "secrets.key";
const BYTES: usize = 32;
/// More than the longest form: 64 digits and a line end.
const LONGEST: usize = 2 * BYTES + 3;

/// Why there is no master key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It can't be read or made.
    #[error("can't {what} the master key of secrets {}: {source}; a new one is made with `head -c 32 /dev/urandom > FILE` and `chmod 600 FILE`", path.display())]
    Io {
        /// What was being done.
        what: &'static str,
        /// Its file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Others may read it.
    #[error("the master key of secrets {} can be read by others (mode {mode:03o}); `chmod 600` it, and make a new one if others had access", path.display())]
    Loose {
        /// Its file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It is no key.
    #[error("the master key of secrets {} is neither 32 bytes nor 64 hexadecimal digits", path.display())]
    Form {
        /// Its file.
        path: PathBuf,
    },
    /// What is stored needs another one.
    #[error(
        "the database's secrets are encrypted with master key {needed}, and the one in {} is {found}; give the right one with --secrets-key, or as the systemd credential {CREDENTIAL}",
        path.display()
    )]
    Wrong {
        /// Its file.
        path: PathBuf,
        /// Of the key that is needed.
        needed: KeyId,
        /// Of the key that is there.
        found: KeyId,
    },
    /// What is stored needs one, and there is none.
    #[error(
        "the database's secrets are encrypted with master key {needed}, and there is no {}; put it back, or give it with --secrets-key or as the systemd credential {CREDENTIAL}",
        path.display()
    )]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
        /// Of the key that is needed.
        needed: KeyId,
    },
    /// The system gives no randomness.
    #[error("the host gives no random bytes for a master key: {0}")]
    Entropy(getrandom::Error),
    /// The work itself broke off.
    #[error("making the master key broke off: {0}")]
    Broken(String),
}

/// A master key.
pub struct MasterKey {
    bytes: Zeroizing<[u8; BYTES]>,
    id: KeyId,
}

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MasterKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl MasterKey {
    pub(super) fn new(bytes: Zeroizing<[u8; BYTES]>) -> Self {
        let id = KeyId::of(&bytes);
        Self { bytes, id }
    }

    pub(super) fn bytes(&self) -> &[u8; BYTES] {
        &self.bytes
    }

    /// Tells it from others.
    #[must_use]
    pub const fn id(&self) -> &KeyId {
        &self.id
    }
}

/// Where a master key is.
#[derive(Debug, Clone)]
pub enum KeyPlace {
    /// A systemd credential: its folder is private to the service, so its own mode may show a group.
    Credential(PathBuf),
    /// A file that was named.
    Named(PathBuf),
    /// The file of the state folder, made where it is missing.
    State(PathBuf),
}

impl KeyPlace {
    /// Where it is to be looked for. `credentials`: systemd's `CREDENTIALS_DIRECTORY`.
    #[must_use]
    pub fn find(credentials: Option<&Path>, named: Option<&Path>, state_dir: &Path) -> Self {
        let credential = credentials.map(|folder| folder.join(CREDENTIAL)).filter(|path| path.exists());
        match (credential, named) {
            (Some(path), _) => Self::Credential(path),
            (None, Some(path)) => Self::Named(path.to_owned()),
            (None, None) => Self::State(state_dir.join(FILE)),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Credential(path) | Self::Named(path) | Self::State(path) => path,
        }
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(io::Error) -> KeyError {
        let path = self.path().to_owned();
        move |source| KeyError::Io { what, path, source }
    }

    /// The key; none where its file in the state folder is still to be made.
    fn load(&self) -> Result<Option<MasterKey>, KeyError> {
        let path = || self.path().to_owned();
        let mut file = match File::open(self.path()) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound && matches!(self, Self::State(_)) => return Ok(None),
            Err(error) => return Err(self.failed("read")(error)),
        };
        let found = file.metadata().map_err(self.failed("read"))?;
        let others = if matches!(self, Self::Credential(_)) { 0o007 } else { 0o077 };
        let mode = found.mode() & 0o777;
        if !found.is_file() {
            return Err(KeyError::Form { path: path() });
        }
        if mode & others != 0 {
            return Err(KeyError::Loose { path: path(), mode });
        }
        let mut text = Zeroizing::new(Vec::with_capacity(LONGEST));
        (&mut file).take(LONGEST as u64).read_to_end(&mut text).map_err(self.failed("read"))?;
        let bytes = parse(&text).ok_or_else(|| KeyError::Form { path: path() })?;
        Ok(Some(MasterKey::new(bytes)))
    }

    /// A new key in a file of its own; durable when it returns.
    fn make(&self) -> Result<MasterKey, KeyError> {
        let mut bytes = Zeroizing::new([0; BYTES]);
        getrandom::fill(&mut *bytes).map_err(KeyError::Entropy)?;
        let made = || {
            let path = self.path();
            let draft = path.with_extension("key.new");
            if let Err(error) = fs::remove_file(&draft)
                && error.kind() != io::ErrorKind::NotFound
            {
                return Err(error);
            }
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
            file.write_all(&*bytes)?;
            file.sync_all()?;
            fs::rename(&draft, path)?;
            File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
        };
        made().map_err(self.failed("make"))?;
        Ok(MasterKey::new(bytes))
    }
}

fn parse(text: &[u8]) -> Option<Zeroizing<[u8; BYTES]>> {
    if let Ok(bytes) = <[u8; BYTES]>::try_from(text) {
        return Some(Zeroizing::new(bytes));
    }
    let digits = text.strip_suffix(b"\n").unwrap_or(text);
    let digits = digits.strip_suffix(b"\r").unwrap_or(digits);
    let mut bytes = Zeroizing::new([0; BYTES]);
    if digits.len() != 2 * BYTES {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// The master key of a host, made when it is needed first.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    place: Arc<KeyPlace>,
    key: Arc<Mutex<Option<Arc<MasterKey>>>>,
}

impl Keys {
    /// Takes the key, which must be that of all that is stored.
    pub(super) fn open(place: KeyPlace, needed: Vec<KeyId>) -> Result<Self, KeyError> {
        let key = place.load()?;
        for needed in needed {
            match &key {
                Some(key) if *key.id() == needed => {}
                Some(key) => return Err(KeyError::Wrong { path: place.path().to_owned(), needed, found: key.id().clone() }),
                None => return Err(KeyError::Missing { path: place.path().to_owned(), needed }),
            }
        }
        Ok(Self { place: Arc::new(place), key: Arc::new(Mutex::new(key.map(Arc::new))) })
    }

    /// The key of what is stored.
    pub(super) fn get(&self) -> Result<Arc<MasterKey>, KeyError> {
        let key = self.key.lock().unwrap_or_else(PoisonError::into_inner).clone();
        key.ok_or_else(|| self.place.failed("read")(io::ErrorKind::NotFound.into()))
    }

    /// The key, made where there is none. Blocks.
    pub(super) fn get_or_make(&self) -> Result<Arc<MasterKey>, KeyError> {
        let mut key = self.key.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = &*key {
            return Ok(Arc::clone(key));
        }
        let made = Arc::new(self.place.make()?);
        *key = Some(Arc::clone(&made));
        tracing::info!(key = %made.id(), file = %self.place.path().display(), "made a master key for secrets; without it they can't be read, so keep a copy");
        Ok(made)
    }
}
