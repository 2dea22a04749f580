//! The suite of the store, over a file and in memory.

use hearth_store::Store;
use std::sync::Arc;

mod in_memory {
    use super::*;

    async fn fresh() -> (Arc<dyn Store>, ()) {
        let store = hearth_store_sqlite::in_memory().await.expect("opens");
        (Arc::new(store), ())
    }

    hearth_store::store_suite!(fresh);
}

mod file {
    use super::*;

    async fn fresh() -> (Arc<dyn Store>, tempfile::TempDir) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("hearth.db");
        let store = hearth_store_sqlite::open(path).await.expect("opens");
        (Arc::new(store), directory)
    }

    hearth_store::store_suite!(fresh);
}
