//! A full disk: a change is refused whole, what is there can be read, and work goes on once there is room.

use super::*;
use crate::testing::SmallDisk;

#[tokio::test]
async fn a_full_disk_refuses_whole_changes_and_recovers() {
    let disk = SmallDisk::new("8m");
    let store = open(disk.path()).await;
    let mut ids = IdSource::default();
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![0; 4 << 20]).unwrap();

    let (mut kept, mut refused) = (Vec::new(), Vec::new());
    while refused.len() < 3 {
        let execution = fresh(&mut ids, &version("t", 'a'));
        match insert(&store, &execution, &vec![b'7'; 300_000]).await {
            Ok(()) => kept.push(execution),
            Err(StoreError::DiskFull) => refused.push(execution),
            Err(other) => panic!("{other:?}"),
        }
        assert!(kept.len() < 100);
    }
    assert!(!kept.is_empty());
    for execution in &kept {
        assert_eq!(store.input(&execution.id).await.unwrap().len(), 300_000);
    }
    for execution in &refused {
        assert!(store.execution(&execution.id).await.unwrap().is_none(), "half-stored");
    }

    std::fs::remove_file(&ballast).unwrap();
    for execution in &refused {
        insert(&store, execution, b"0").await.unwrap();
    }
    assert_eq!(store.unfinished().await.unwrap().len(), kept.len() + refused.len());
}
