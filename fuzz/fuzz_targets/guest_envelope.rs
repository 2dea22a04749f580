//! Whatever a body holds, in whatever protocol it claims to be, it is answered.
//! Methods that would change the machine are left out.

#![no_main]

use std::cell::LazyCell;
use std::sync::Arc;

use bytes::Bytes;
use hearth_guest::http::route::Routes;
use hearth_guest::settings::Settings;
use hearth_guest::{Agent, Config};
use http_body_util::{BodyExt as _, Full};
use libfuzzer_sys::fuzz_target;
use tokio_util::sync::CancellationToken;

const METHODS: [&str; 7] = [
    "/process.Process/List",
    "/process.Process/Connect",
    "/process.Process/SendInput",
    "/process.Process/StreamInput",
    "/process.Process/CloseStdin",
    "/filesystem.Filesystem/Stat",
    "/filesystem.Filesystem/GetWatcherEvents",
];
const CODECS: [&str; 7] = [
    "application/json",
    "application/proto",
    "application/connect+json",
    "application/connect+proto",
    "application/grpc",
    "application/grpc-web+proto",
    "application/grpc-web+json",
];

struct Fixture {
    runtime: tokio::runtime::Runtime,
    routes: Routes,
}

thread_local! {
    static FIXTURE: LazyCell<Fixture> = LazyCell::new(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let config = Config {
            listen: ([127, 0, 0, 1], 0).into(),
            user_root: "/".into(),
            manage_system: false,
            log: Arc::default(),
        };
        let routes = runtime.block_on(async {
            let stop = CancellationToken::new();
            Routes::new(Arc::new(Agent::new(config, stop, Settings::default(), 0)))
        });
        Fixture { runtime, routes }
    });
}

fuzz_target!(|input: (u8, u8, bool, &[u8])| {
    let (method, codec, gzip, body) = input;
    let request = http::Request::post(METHODS[usize::from(method) % METHODS.len()])
        .header("content-type", CODECS[usize::from(codec) % CODECS.len()])
        .header("connect-content-encoding", if gzip { "gzip" } else { "identity" })
        .header("te", "trailers")
        .body(Full::new(Bytes::copy_from_slice(body)))
        .expect("a request");
    FIXTURE.with(|fixture| {
        fixture.runtime.block_on(async {
            let answer = fixture.routes.answer(request).await;
            // It ends, one way or another: there is no process to wait for.
            let _ = answer.into_body().collect().await;
        });
    });
});
