//! TLS of the TCP listener: certificate and key from two PEM files, which are read again when they change, as when a certificate is renewed.

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio_rustls::TlsAcceptor;

/// How often the files are looked at, at most.
const LOOK: Duration = Duration::from_secs(10);

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read.
    #[error("can't read {}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{} is not a PEM file of {what}: {why}", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// Of what.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// Others may read the key.
    #[error("the key {} can be read by anybody (mode {mode:03o}); `chmod 600` it, and make a new one if others had access", path.display())]
    Loose {
        /// Its file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// They do not fit together.
    #[error("certificate {} and key {} can't be used: {source}", cert.display(), key.display())]
    Unusable {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

/// Tells a file from what it was before.
type Stamp = (u64, i64, i64);

#[derive(Debug)]
struct Current {
    config: Arc<ServerConfig>,
    stamps: [Stamp; 2],
    looked: Instant,
}

/// Certificate and key.
#[derive(Debug)]
pub struct Tls {
    cert: PathBuf,
    key: PathBuf,
    current: Mutex<Current>,
}

fn stamp(path: &Path) -> Result<Stamp, TlsError> {
    let meta = fs::metadata(path).map_err(|source| TlsError::Io { path: path.to_owned(), source })?;
    Ok((meta.ino(), meta.mtime(), meta.mtime_nsec()))
}

fn read(cert: &Path, key: &Path) -> Result<ServerConfig, TlsError> {
    let pem = |path: &Path, what, why: rustls::pki_types::pem::Error| TlsError::Pem { path: path.to_owned(), what, why: why.to_string() };
    let file = |path: &Path| fs::read(path).map_err(|source| TlsError::Io { path: path.to_owned(), source });
    let mode = fs::metadata(key).map_err(|source| TlsError::Io { path: key.to_owned(), source })?.mode() & 0o777;
    if mode & 0o007 != 0 {
        return Err(TlsError::Loose { path: key.to_owned(), mode });
    }
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(&file(cert)?).collect::<Result<_, _>>().map_err(|why| pem(cert, "certificates", why))?;
    let text = zeroize::Zeroizing::new(file(key)?);
    let private = PrivateKeyDer::from_pem_slice(&text).map_err(|why| pem(key, "a private key", why))?;
    let unusable = |source| TlsError::Unusable { cert: cert.to_owned(), key: key.to_owned(), source };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(unusable)?;
    let mut config = versions.with_no_client_auth().with_single_cert(chain, private).map_err(unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

impl Tls {
    /// Reads both files.
    pub fn open(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let stamps = [stamp(cert)?, stamp(key)?];
        let config = Arc::new(read(cert, key)?);
        let current = Mutex::new(Current { config, stamps, looked: Instant::now() });
        Ok(Self { cert: cert.to_owned(), key: key.to_owned(), current })
    }

    /// For the next connection. Files that changed and can't be used leave it at what was there before.
    #[must_use]
    pub fn acceptor(&self) -> TlsAcceptor {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.looked.elapsed() >= LOOK {
            current.looked = Instant::now();
            self.look(&mut current);
        }
        TlsAcceptor::from(Arc::clone(&current.config))
    }

    fn look(&self, current: &mut Current) {
        let Ok(cert) = stamp(&self.cert) else { return };
        let Ok(key) = stamp(&self.key) else { return };
        if current.stamps == [cert, key] {
            return;
        }
        current.stamps = [cert, key];
        match read(&self.cert, &self.key) {
            Ok(config) => {
                current.config = Arc::new(config);
                tracing::info!(cert = %self.cert.display(), "the certificate was read anew");
            }
            Err(error) => tracing::error!(%error, "the certificate has changed and can't be used; the one before stays"),
        }
    }
}

#[cfg(test)]
impl Tls {
    /// As if the files had not been looked at for long.
    pub(crate) fn look_now(&self) {
        self.look(&mut self.current.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
