//! Who is who, over the time and over restarts.
#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;
use std::path::Path;

async fn open(folder: &Path) -> Accounts {
    let store = Store::open(&folder.join("torpor.db"), |_, _| ()).await.unwrap();
    Accounts::open(&store, Unmapped::default(), 1000).await.unwrap()
}

fn name(name: &str) -> AccountName {
    name.to_owned().try_into().unwrap()
}

#[tokio::test]
async fn a_token_is_good_until_its_time_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let accounts = open(folder.path()).await;
    let hour = Duration::from_secs(3600);
    let (token, text) = accounts.create_token("default", Role::Owner, Some(hour), "note".into()).await.unwrap();
    let (_, always) = accounts.create_token("default", Role::Invoker, None, String::new()).await.unwrap();
    let at = |seconds: i64| Timestamp(token.created_at.0 + seconds * 1_000_000);
    let owner = Identity { account: AccountName::default(), role: Role::Owner };
    assert_eq!(accounts.by_token(&text, at(0)).as_ref(), Some(&owner));
    assert_eq!(accounts.by_token(&text, at(3599)).as_ref(), Some(&owner));
    assert_eq!(accounts.by_token(&text, at(3600)), None);
    assert!(accounts.by_token(&always, at(1_000_000_000)).is_some());
    // With the right id and a wrong end, or the other way round.
    let mixed = format!("{}{}", &text[..20], &always[20..]);
    assert_eq!((accounts.by_token(&mixed, at(0)), accounts.by_token("", at(0))), (None, None));
    for lasts in [Duration::ZERO, token::LONGEST + hour] {
        assert!(matches!(accounts.create_token("default", Role::Owner, Some(lasts), String::new()).await, Err(AccountError::Expiry)));
    }
}

#[tokio::test]
async fn all_of_it_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (text, known) = {
        let accounts = open(folder.path()).await;
        assert!(accounts.put(name("us"), Some(7)).await.unwrap().1);
        assert!(!accounts.put(name("us"), None).await.unwrap().1);
        accounts.put(name("gone"), None).await.unwrap();
        accounts.allow(4711, "us", Role::Invoker).await.unwrap();
        accounts.allow(12, "gone", Role::Owner).await.unwrap();
        accounts.allow(13, "us", Role::Owner).await.unwrap();
        accounts.deny(13).await.unwrap();
        accounts.create_token("gone", Role::Owner, None, String::new()).await.unwrap();
        accounts.remove(&name("gone")).await.unwrap();
        let (_, text) = accounts.create_token("us", Role::Admin, None, String::new()).await.unwrap();
        let (removed, _) = accounts.create_token("us", Role::Admin, None, String::new()).await.unwrap();
        accounts.remove_token(removed.id.as_str()).await.unwrap();
        (text, accounts.known())
    };
    let accounts = open(folder.path()).await;
    let again = accounts.known();
    assert_eq!((&again.accounts, &again.uids, &again.tokens), (&known.accounts, &known.uids, &known.tokens));
    assert_eq!((again.accounts.len(), again.uids.len(), again.tokens.len()), (2, 1, 1));
    assert_eq!(accounts.account("us").unwrap().weight, 7);
    assert_eq!(accounts.by_token(&text, Timestamp::now()), Some(Identity { account: name("us"), role: Role::Admin }));
    assert_eq!(accounts.by_uid(4711), Some(Identity { account: name("us"), role: Role::Invoker }));
    // Nobody takes these away, in whatever way they came into the database.
    for uid in [0, 1000] {
        assert!(matches!(accounts.allow(uid, "us", Role::Invoker).await, Err(AccountError::Fixed(_))));
        assert_eq!(accounts.by_uid(uid), Some(Identity { account: AccountName::default(), role: Role::Admin }));
    }
}

proptest! {
    #[test]
    fn any_text_is_a_token_or_not(text in "\\PC{0,100}", id in "[0-9a-f]{11,13}", end in "[0-9a-f]{63,65}") {
        prop_assert!(TokenId::of(&text).is_none() || text.len() == 84);
        let formed = format!("torpor_{id}_{end}");
        prop_assert_eq!(TokenId::of(&formed).is_some(), id.len() == 12 && end.len() == 64);
        let odd = format!("{id}é");
        prop_assert!(TokenId::parse(&odd).is_none());
    }
}
