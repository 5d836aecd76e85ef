//! The store of secrets on a real database, and every key that is refused.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::state::id::ExecutionId;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

const VALUE: &str = "hunter2-Ünïcode-7f3a9c";

fn name(text: &str) -> SecretName {
    SecretName::try_from(text.to_owned()).unwrap()
}

fn text(value: &str) -> Zeroizing<String> {
    Zeroizing::new(value.to_owned())
}

async fn on(folder: &Path, named: Option<&Path>) -> Result<(Store, Secrets), SecretError> {
    let store = Store::open(&folder.join("torpor.db"), |_, _| {}).await.unwrap();
    let secrets = Secrets::open(&store, KeyPlace::find(None, named, folder)).await?;
    Ok((store, secrets))
}

fn key_file(folder: &Path, bytes: &[u8], mode: u32) -> std::path::PathBuf {
    let path = folder.join("own.key");
    fs::write(&path, bytes).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

fn contains(folder: &Path, needle: &[u8]) -> bool {
    fs::read_dir(folder).unwrap().any(|entry| fs::read(entry.unwrap().path()).unwrap().windows(needle.len()).any(|at| at == needle))
}

#[tokio::test]
async fn what_is_set_is_given_after_a_restart_and_is_nowhere_in_plain() {
    let folder = tempfile::tempdir().unwrap();
    let (store, secrets) = on(folder.path(), None).await.unwrap();
    assert!(!folder.path().join(key::FILE).exists(), "no key before it is needed");
    assert!(matches!(secrets.get(&AccountName::default(), &name("a")), Err(SecretError::Unknown(_))));
    let (first, new) = secrets.set(&AccountName::default(), name("a"), text("old")).await.unwrap();
    assert!(new);
    let (again, new) = secrets.set(&AccountName::default(), name("a"), text(VALUE)).await.unwrap();
    assert!(!new && again.created_at == first.created_at && again.changed_at >= first.changed_at);
    secrets.set(&AccountName::default(), name("b"), text(VALUE)).await.unwrap();
    assert_ne!(secrets.list(&AccountName::default())[0].sealed.bytes, secrets.list(&AccountName::default())[1].sealed.bytes);
    assert_eq!(fs::metadata(folder.path().join(key::FILE)).unwrap().mode() & 0o777, 0o600);
    store.close().await;
    drop((store, secrets));
    let (_store, secrets) = on(folder.path(), None).await.unwrap();
    assert_eq!(*secrets.get(&AccountName::default(), &name("a")).unwrap(), VALUE);
    assert!(
        secrets.remove(&AccountName::default(), &name("b")).await.unwrap()
            && !secrets.remove(&AccountName::default(), &name("b")).await.unwrap()
    );
    assert_eq!(
        (secrets.list(&AccountName::default()).len(), secrets.missing(&AccountName::default(), [&name("a"), &name("b")])),
        (1, Some(&name("b")))
    );
    assert!(!contains(folder.path(), VALUE.as_bytes()) && contains(folder.path(), again.sealed.bytes.as_slice()));
}

#[tokio::test]
async fn values_that_are_none_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, secrets) = on(folder.path(), None).await.unwrap();
    for value in [String::new(), "x".repeat(MAX_SECRET + 1)] {
        assert!(matches!(secrets.set(&AccountName::default(), name("a"), text(&value)).await, Err(SecretError::Value(_))));
    }
    secrets.set(&AccountName::default(), name("a"), text(&"x".repeat(MAX_SECRET))).await.unwrap();
    assert_eq!(secrets.get(&AccountName::default(), &name("a")).unwrap().len(), MAX_SECRET);
}

#[tokio::test]
async fn another_key_or_none_is_refused_at_start() {
    let folder = tempfile::tempdir().unwrap();
    let (store, secrets) = on(folder.path(), None).await.unwrap();
    secrets.set(&AccountName::default(), name("a"), text(VALUE)).await.unwrap();
    store.close().await;
    drop((store, secrets));
    let other = key_file(folder.path(), &[7; 32], 0o600);
    let refused = on(folder.path(), Some(&other)).await.unwrap_err().to_string();
    assert!(refused.contains("master key") && refused.contains("own.key") && refused.contains("--secrets-key"), "{refused}");
    let aside = folder.path().join("aside");
    fs::rename(folder.path().join(key::FILE), &aside).unwrap();
    let refused = on(folder.path(), None).await.unwrap_err();
    assert!(matches!(refused, SecretError::Key(KeyError::Missing { .. })), "{refused}");
    let (_store, secrets) = on(folder.path(), Some(&aside)).await.unwrap();
    assert_eq!(*secrets.get(&AccountName::default(), &name("a")).unwrap(), VALUE);
}

#[tokio::test]
async fn a_key_is_bytes_or_digits_that_nobody_else_reads() {
    let folder = tempfile::tempdir().unwrap();
    let digits = "0123456789abcdefABCDEF0123456789".repeat(2);
    for good in [&[9; 32][..], digits.as_bytes(), format!("{digits}\n").as_bytes(), format!("{digits}\r\n").as_bytes()] {
        on(folder.path(), Some(&key_file(folder.path(), good, 0o600))).await.unwrap();
    }
    for bad in [&b""[..], &[9; 31], &[9; 33], &digits.as_bytes()[..63], &[b'g'; 64], format!("{digits}\n\n\n\n").as_bytes()] {
        let refused = on(folder.path(), Some(&key_file(folder.path(), bad, 0o600))).await.unwrap_err();
        assert!(matches!(refused, SecretError::Key(KeyError::Form { .. })), "{bad:?}: {refused}");
    }
    let refused = on(folder.path(), Some(&key_file(folder.path(), &[9; 32], 0o640))).await.unwrap_err().to_string();
    assert!(refused.contains("mode 640") && refused.contains("chmod 600"), "{refused}");
    let refused = on(folder.path(), Some(&folder.path().join("none"))).await.unwrap_err().to_string();
    assert!(refused.contains("No such file") && refused.contains("head -c 32"), "{refused}");
}

#[test]
fn a_credential_comes_before_a_file_that_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let find = |named: Option<&Path>| KeyPlace::find(Some(folder.path()), named, Path::new("/state"));
    assert!(matches!(find(None), KeyPlace::State(path) if path == Path::new("/state/secrets.key")));
    assert!(matches!(find(Some(Path::new("/k"))), KeyPlace::Named(_)));
    fs::write(folder.path().join(key::CREDENTIAL), [1; 32]).unwrap();
    assert!(matches!(find(Some(Path::new("/k"))), KeyPlace::Credential(_)));
}

#[test]
fn a_parked_machine_opens_for_its_account_and_no_other() {
    let master = key::MasterKey::new(Zeroizing::new([3; 32]));
    let id = ExecutionId::first_of(Timestamp(1));
    let [first, a, b] = ["default", "a", "b"].map(|name| AccountName::try_from(name.to_owned()).unwrap());
    for account in [&first, &a, &b] {
        let sealed = master.seal(&Bound::Parked { account, id: &id }, b"key").unwrap();
        for other in [&first, &a, &b] {
            assert_eq!(master.open(&Bound::Parked { account: other, id: &id }, &sealed).is_ok(), account == other, "{account} {other}");
        }
    }
}

#[test]
fn a_value_opens_only_where_it_belongs_and_whole() {
    let master = key::MasterKey::new(Zeroizing::new([3; 32]));
    let (a, b, id) = (name("a"), name("b"), ExecutionId::first_of(Timestamp(1)));
    let (own, foreign) = (AccountName::default(), AccountName::try_from("other".to_owned()).unwrap());
    let sealed = master.seal(&bound(&own, &a), b"value").unwrap();
    assert_eq!(*master.open(&bound(&own, &a), &sealed).unwrap(), b"value");
    for other in [bound(&own, &b), Bound::Secret { account: &foreign, name: &a }, Bound::Parked { account: &own, id: &id }] {
        assert!(matches!(master.open(&other, &sealed), Err(SealError::Damaged)));
    }
    for at in 0..sealed.bytes.len() {
        let mut bad = sealed.clone();
        bad.bytes[at] ^= 1;
        assert!(master.open(&bound(&own, &a), &bad).is_err());
    }
    for nonce in [vec![], vec![0; 24], vec![0; 25]] {
        assert!(master.open(&bound(&own, &a), &Sealed { nonce, ..sealed.clone() }).is_err());
    }
    let other = key::MasterKey::new(Zeroizing::new([4; 32]));
    assert!(matches!(other.open(&bound(&own, &a), &sealed), Err(SealError::OtherKey { .. })));
    assert!(!format!("{master:?}").contains("3, 3"));
}
