//! What every place for blobs has to do.

use super::*;
use proptest::prelude::*;
use std::collections::HashMap;

fn place() -> (tempfile::TempDir, FileBlobs) {
    let directory = tempfile::tempdir().unwrap();
    let blobs = FileBlobs::open(directory.path().join("blobs")).unwrap();
    (directory, blobs)
}

/// The file that holds a blob.
fn file_of(directory: &tempfile::TempDir, digest: Digest) -> std::path::PathBuf {
    let name = digest.to_string();
    directory.path().join("blobs").join(&name[..2]).join(name)
}

#[derive(Debug, Clone)]
enum Call {
    Put(Vec<u8>),
    Delete(u8),
    Get(u8),
    Range(u8, u64, u64),
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    // Few different contents, so that calls meet.
    let content = (0u8..4, 0usize..3000).prop_map(|(byte, length)| vec![byte; length / 500]);
    let call = prop_oneof![
        content.prop_map(Call::Put),
        any::<u8>().prop_map(Call::Delete),
        any::<u8>().prop_map(Call::Get),
        (any::<u8>(), 0u64..8, 0u64..8).prop_map(|(which, from, to)| Call::Range(which, from, to)),
    ];
    proptest::collection::vec(call, 1..24)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// A place is a map from digests to contents.
    #[test]
    fn a_place_is_a_map(calls in calls()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (directory, blobs) = place();
            let mut model: HashMap<Digest, Vec<u8>> = HashMap::new();
            let mut seen = vec![Digest::of(b"never put")];
            for call in calls {
                match call {
                    Call::Put(content) => {
                        let digest = blobs.put(content.clone().into()).await.unwrap();
                        assert_eq!(digest, Digest::of(&content));
                        model.insert(digest, content);
                        seen.push(digest);
                    }
                    Call::Delete(which) => {
                        let digest = seen[usize::from(which) % seen.len()];
                        blobs.delete(digest).await.unwrap();
                        model.remove(&digest);
                    }
                    Call::Get(which) => {
                        let digest = seen[usize::from(which) % seen.len()];
                        match (blobs.get(digest).await, model.get(&digest)) {
                            (Ok(found), Some(wanted)) => assert_eq!(&found, wanted),
                            (Err(BlobError::NotFound(of)), None) => assert_eq!(of, digest),
                            (found, wanted) => panic!("{found:?}, but {wanted:?}"),
                        }
                    }
                    Call::Range(which, from, to) => {
                        let digest = seen[usize::from(which) % seen.len()];
                        let part = model.get(&digest).map(|content| {
                            let range = usize::try_from(from).unwrap()..usize::try_from(to).unwrap();
                            content.get(range).filter(|part| !part.is_empty())
                        });
                        match (blobs.range(digest, from..to).await, part) {
                            (Ok(found), Some(Some(wanted))) => assert_eq!(&found, wanted),
                            (Err(BlobError::Range { .. }), Some(None))
                            | (Err(BlobError::NotFound(_)), None) => {}
                            (found, wanted) => panic!("{found:?}, but {wanted:?}"),
                        }
                    }
                }
            }
            // Another process finds the same.
            let again = FileBlobs::open(directory.path().join("blobs")).unwrap();
            let listed: HashMap<Digest, u64> = again
                .list()
                .await
                .unwrap()
                .into_iter()
                .map(|found| (found.digest, found.size_bytes))
                .collect();
            let wanted = model.iter().map(|(digest, content)| (*digest, content.len() as u64));
            assert_eq!(listed, wanted.collect());
        });
    }
}

#[tokio::test]
async fn damage_is_named_and_mended_by_another_put() {
    let (directory, blobs) = place();
    let content = Bytes::from_static(b"content of a blob");
    let digest = blobs.put(content.clone()).await.unwrap();
    let file = file_of(&directory, digest);
    std::fs::write(&file, b"Content of a blob").unwrap();
    match blobs.get(digest).await {
        Err(BlobError::Corrupt { digest: of, found }) => {
            assert_eq!((of, found), (digest, Digest::of(b"Content of a blob")));
        }
        other => panic!("{other:?}"),
    }
    blobs.put(content.clone()).await.unwrap();
    assert_eq!(blobs.get(digest).await.unwrap(), content);
    std::fs::write(&file, b"cont").unwrap();
    assert!(matches!(
        blobs.get(digest).await,
        Err(BlobError::Corrupt { .. })
    ));
    blobs.put(content.clone()).await.unwrap();
    assert_eq!(blobs.get(digest).await.unwrap(), content);
}

#[tokio::test]
async fn what_a_crash_left_is_no_blob_and_goes_in_time() {
    let (directory, blobs) = place();
    let incoming = directory.path().join("blobs/incoming");
    let (old, new) = (incoming.join("old"), incoming.join("new"));
    for path in [&old, &new] {
        std::fs::write(path, b"half").unwrap();
    }
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(48 * 3600);
    let file = std::fs::File::options().write(true).open(&old).unwrap();
    file.set_modified(long_ago).unwrap();
    assert_eq!(blobs.list().await.unwrap(), []);
    FileBlobs::open(directory.path().join("blobs")).unwrap();
    assert!(!old.exists() && new.exists());
}

#[tokio::test]
async fn a_blob_has_a_bound() {
    let (_directory, blobs) = place();
    let longest = Bytes::from(vec![1; MAX_BLOB_BYTES]);
    let digest = blobs.put(longest.clone()).await.unwrap();
    assert_eq!(blobs.get(digest).await.unwrap(), longest);
    let longer = Bytes::from(vec![1; MAX_BLOB_BYTES + 1]);
    assert!(matches!(
        blobs.put(longer).await,
        Err(BlobError::TooLong(length)) if length == MAX_BLOB_BYTES + 1
    ));
}

#[tokio::test]
async fn a_place_that_does_not_work_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let error = FileBlobs::open(file.join("blobs")).unwrap_err();
    assert!(matches!(error, BlobError::Unavailable { .. }), "{error}");
}
