//! Another process that writes to the database for long: changes are refused whole, with a reason, and work goes on once it is done.

use super::*;
use sqlx::{Connection, SqliteConnection};

#[tokio::test]
async fn a_database_that_another_has_locked_refuses_whole_changes_and_recovers() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let mut ids = IdSource::default();
    let kept = fresh(&mut ids, &version("t", 'a'));
    insert(&store, &kept, b"1").await.unwrap();

    let mut other = SqliteConnection::connect(&format!("sqlite://{}", folder.path().join("torpor.db").display())).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    // Many at once, of which none waits for the others.
    let refused: Vec<Execution> = (0..100).map(|_| fresh(&mut ids, &version("t", 'a'))).collect();
    for result in futures_util::future::join_all(refused.iter().map(|execution| insert(&store, execution, b"2"))).await {
        assert!(matches!(result, Err(StoreError::Busy)), "{result:?}");
    }
    assert_eq!(store.unfinished().await.unwrap().len(), 1, "what is there can be read, and nothing is half-stored");
    let waits = insert(&store, &refused[0], b"3");
    let lets_go = async {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        sqlx::query("COMMIT").execute(&mut other).await.unwrap();
    };
    let (waited, ()) = tokio::join!(waits, lets_go);
    waited.unwrap();
    insert(&store, &refused[1], b"3").await.unwrap();
    assert_eq!(store.unfinished().await.unwrap().len(), 3);
}
