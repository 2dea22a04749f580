use std::time::Duration;

use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::process::State;
use crate::process::exit::Exit;
use crate::process::input::Input;

const LIMIT: Duration = Duration::from_secs(10);

fn process(stall_limit: Duration) -> Arc<Process> {
    let (_, exit) = tokio::sync::watch::channel(None);
    Arc::new(Process {
        pid: 1,
        config: Default::default(),
        tag: None,
        output: Output::new(stall_limit),
        input: Input::pipe(None).unwrap(),
        logged: true,
        state: Mutex::new(State::Ended),
        hurry: CancellationToken::new(),
        exit,
        deadline: None,
        streams: Mutex::default(),
        forgotten: Mutex::default(),
    })
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { tokio::time::timeout(LIMIT, future).await.expect("in time") })
}

async fn write(process: &Process, bytes: usize) {
    process
        .output
        .append(Source::Stdout, vec![b'x'; bytes].into())
        .await;
}

/// All data up to the end; `Err` with what came before when the place was lost.
async fn read_all(reader: &mut Reader) -> Result<Vec<u8>, usize> {
    let mut all = Vec::new();
    loop {
        match reader.next().await {
            Item::Data(_, data) => all.extend_from_slice(&data),
            Item::End(_) => return Ok(all),
            Item::Lagged => return Err(all.len()),
        }
    }
}

async fn is_stuck(future: impl Future<Output = ()>) -> bool {
    tokio::time::timeout(Duration::from_millis(50), future)
        .await
        .is_err()
}

#[test]
fn without_readers_the_last_output_is_kept_for_a_late_one() {
    block_on(async {
        let process = process(LIMIT);
        for number in 0..200_u32 {
            let data = format!("{number:04}").repeat(256);
            process.output.append(Source::Stderr, data.into()).await;
        }
        process.output.end(Exit::Code(0).event());
        let mut reader = Reader::attach(Arc::clone(&process), Begin::Kept);
        let replay = read_all(&mut reader).await.unwrap();
        assert_eq!(replay.len() as u64, REPLAY_BYTES);
        assert!(replay.ends_with(b"0199") && replay.starts_with(b"0136"));
        assert!(process.output.log().chunks.len() <= 65);
    });
}

#[test]
fn a_late_reader_gets_new_output_unless_it_asks_for_more() {
    block_on(async {
        let process = process(LIMIT);
        process.output.append(Source::Stdout, "early ".into()).await;
        let mut new = Reader::attach(Arc::clone(&process), Begin::Now);
        let mut all = Reader::attach(Arc::clone(&process), Begin::Kept);
        process.output.append(Source::Stdout, "late".into()).await;
        process.output.end(Exit::Code(0).event());
        assert_eq!(read_all(&mut new).await.as_deref(), Ok(&b"late"[..]));
        assert_eq!(read_all(&mut all).await.as_deref(), Ok(&b"early late"[..]));
        let mut ended = Reader::attach(Arc::clone(&process), Begin::Now);
        assert_eq!(read_all(&mut ended).await.as_deref(), Ok(&b""[..]));
    });
}

#[test]
fn a_single_slow_reader_loses_nothing() {
    block_on(async {
        let process = process(LIMIT);
        let mut reader = Reader::attach(Arc::clone(&process), Begin::Kept);
        let total = 4 * LAG_BYTES as usize;
        let writer = async {
            for _ in 0..total / 4096 {
                write(&process, 4096).await;
            }
            process.output.end(Exit::Code(0).event());
        };
        let reading = async {
            let mut count = 0;
            loop {
                tokio::task::yield_now().await;
                assert!(process.output.log().total - count < WINDOW_BYTES + 4096);
                match reader.next().await {
                    Item::Data(_, data) => count += data.len() as u64,
                    Item::End(_) => return count,
                    Item::Lagged => panic!("lost its place"),
                }
            }
        };
        let ((), count) = tokio::join!(writer, reading);
        assert_eq!(count, total as u64);
    });
}

#[test]
fn a_reader_that_stops_stalls_neither_others_nor_the_process() {
    block_on(async {
        let process = process(LIMIT);
        let mut stopped = Reader::attach(Arc::clone(&process), Begin::Kept);
        let mut lively = Reader::attach(Arc::clone(&process), Begin::Kept);
        let total = 3 * LAG_BYTES as usize;
        let writer = async {
            for _ in 0..total / 32_768 {
                write(&process, 32_768).await;
            }
            process.output.end(Exit::Code(0).event());
        };
        let ((), read) = tokio::join!(writer, read_all(&mut lively));
        assert_eq!(read.map(|read| read.len()), Ok(total));
        assert_eq!(read_all(&mut stopped).await, Err(0));
        assert!(
            process
                .output
                .log()
                .chunks
                .iter()
                .map(|chunk| chunk.data.len() as u64)
                .sum::<u64>()
                <= REPLAY_BYTES + 32_768
        );
    });
}

#[test]
fn a_process_waits_for_its_only_reader_but_not_for_ever() {
    block_on(async {
        let process = process(Duration::from_millis(200));
        let mut reader = Reader::attach(Arc::clone(&process), Begin::Kept);
        write(&process, WINDOW_BYTES as usize).await;
        assert!(is_stuck(write(&process, 1)).await);
        // One more chunk taken, and there is room.
        assert!(matches!(reader.next().await, Item::Data(..)));
        write(&process, WINDOW_BYTES as usize).await;
        // Nothing is taken now: after the limit the process goes on.
        write(&process, 1).await;
        assert!(matches!(reader.next().await, Item::Lagged));
    });
}

#[test]
fn a_reader_that_leaves_frees_the_process() {
    block_on(async {
        let process = process(LIMIT);
        let reader = Reader::attach(Arc::clone(&process), Begin::Kept);
        write(&process, WINDOW_BYTES as usize).await;
        let leave = async {
            tokio::task::yield_now().await;
            drop(reader);
        };
        tokio::join!(write(&process, 1), leave);
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn readers_that_keep_up_see_every_byte_in_order(
        chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..3000), 1..80),
        joins in proptest::collection::vec(0_usize..80, 0..4),
    ) {
        block_on(async {
            let process = process(LIMIT);
            let mut readers = vec![(0, Reader::attach(Arc::clone(&process), Begin::Kept))];
            let mut written = Vec::new();
            for (index, chunk) in chunks.iter().enumerate() {
                for _ in joins.iter().filter(|join| **join == index) {
                    let log = process.output.log();
                    let replayed: usize = log.chunks.iter()
                        .filter(|kept| kept.start >= log.total.saturating_sub(REPLAY_BYTES))
                        .map(|kept| kept.data.len()).sum();
                    drop(log);
                    readers.push((written.len() - replayed, Reader::attach(Arc::clone(&process), Begin::Kept)));
                }
                process.output.append(Source::Stdout, chunk.clone().into()).await;
                written.extend_from_slice(chunk);
            }
            process.output.end(Exit::Code(0).event());
            for (from, reader) in &mut readers {
                assert_eq!(read_all(reader).await.as_deref(), Ok(&written[*from..]));
            }
        });
    }
}
