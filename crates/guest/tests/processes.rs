//! The process service of a real agent, spoken to over loopback.

mod common;

use std::time::Duration;

use buffa::{EnumValue, MessageField};
use common::{Agent, Told, block_on, shell};
use connectrpc::client::{CallOptions, ClientConfig, HttpClient};
use connectrpc::{ConnectError, ErrorCode, Protocol};
use hearth_guest_proto::process::__buffa::oneof::process_input::Input;
use hearth_guest_proto::process::__buffa::oneof::process_selector::Selector;
use hearth_guest_proto::process::__buffa::oneof::stream_input_request::Event as InputEvent;
use hearth_guest_proto::process::{
    CloseStdinRequest, ConnectRequest, ListRequest, PTY, ProcessClient, ProcessInput,
    ProcessSelector, SendInputRequest, SendSignalRequest, Signal, StartRequest, StreamInputRequest,
    UpdateRequest, pty, stream_input_request,
};

type Client = ProcessClient<HttpClient>;

fn by_pid(pid: u32) -> MessageField<ProcessSelector, buffa::Inline<ProcessSelector>> {
    selector(Selector::Pid(pid))
}

fn selector(selector: Selector) -> MessageField<ProcessSelector, buffa::Inline<ProcessSelector>> {
    MessageField::some(ProcessSelector {
        selector: Some(selector),
        ..Default::default()
    })
}

fn stdin(bytes: &[u8]) -> MessageField<ProcessInput, buffa::Inline<ProcessInput>> {
    let input = Some(Input::Stdin(bytes.to_vec()));
    MessageField::some(ProcessInput {
        input,
        ..Default::default()
    })
}

async fn run(client: &Client, request: StartRequest) -> Result<Told, (Told, ConnectError)> {
    run_with(client, request, CallOptions::default()).await
}

/// Some protocols tell an early error in place of the stream.
async fn run_with(
    client: &Client,
    request: StartRequest,
    options: CallOptions,
) -> Result<Told, (Told, ConnectError)> {
    match client.start_with_options(request, options).await {
        Ok(stream) => told!(stream),
        Err(error) => Err((Told::default(), error)),
    }
}

/// Starts without reading further than the pid.
macro_rules! started {
    ($client:expr, $request:expr) => {{
        let mut stream = $client.start($request).await.expect("a stream");
        let message = stream
            .message()
            .await
            .expect("no error")
            .expect("a message");
        let mut told = Told::default();
        told.take(
            message
                .to_owned_message()
                .event
                .into_option()
                .expect("an event"),
        );
        (told.pid, stream)
    }};
}

/// Takes one message of a stream.
macro_rules! next {
    ($stream:expr, $told:expr) => {{
        let message = $stream
            .message()
            .await
            .expect("no error")
            .expect("a message");
        let event = message.to_owned_message().event;
        $told.take(event.into_option().expect("an event"));
    }};
}

async fn signal(client: &Client, pid: u32, signal: Signal) -> Result<(), ErrorCode> {
    let signal = EnumValue::from(signal);
    let request = SendSignalRequest {
        process: by_pid(pid),
        signal,
        ..Default::default()
    };
    client
        .send_signal(request)
        .await
        .map(|_| ())
        .map_err(|error| error.code)
}

#[test]
fn every_protocol_codec_and_http_version_runs_a_command() {
    let agent = Agent::start();
    let request = || shell("printf out; printf err >&2; exit 3");
    block_on(async {
        for protocol in [Protocol::Connect, Protocol::Grpc, Protocol::GrpcWeb] {
            for json in [true, false] {
                for http2 in [true, false] {
                    // gRPC needs the trailers of HTTP/2.
                    if protocol == Protocol::Grpc && !http2 {
                        continue;
                    }
                    let config = ClientConfig::new(agent.url()).with_protocol(protocol);
                    let config = if json { config.json() } else { config };
                    let transport = if http2 {
                        HttpClient::plaintext_http2_only()
                    } else {
                        HttpClient::plaintext()
                    };
                    let client = ProcessClient::new(transport, config);
                    let told = run(&client, request()).await.expect("no error");
                    let case = format!("{protocol:?} json={json} http2={http2}");
                    assert_eq!(told.stdout, b"out", "{case}");
                    assert_eq!(told.stderr, b"err", "{case}");
                    let end = told.end.expect("an end");
                    assert_eq!((end.exit_code, end.exited), (3, true), "{case}");
                    assert_eq!(end.error.as_deref(), Some("exit status 3"), "{case}");
                    let missing = run(
                        &client,
                        StartRequest {
                            process: MessageField::none(),
                            ..Default::default()
                        },
                    );
                    let (_, error) = missing.await.expect_err("an error");
                    assert_eq!(error.code, ErrorCode::InvalidArgument, "{case}");
                    client.list(ListRequest::default()).await.expect(&case);
                }
            }
        }
    });
}

#[test]
fn output_is_whole_and_untouched() {
    let agent = Agent::start();
    block_on(async {
        let client = agent.processes();
        let told = run(&client, shell("printf '\\377\\000\\303'; printf '\\251'")).await;
        assert_eq!(told.expect("no error").stdout, b"\xff\x00\xc3\xa9");
        // Far more than any buffer, so that the process has to wait for us.
        let script = "head -c 20000000 /dev/zero; printf end >&2";
        let told = run(&client, shell(script)).await.expect("no error");
        assert_eq!(
            (told.stdout.len(), told.stderr.as_slice()),
            (20_000_000, &b"end"[..])
        );
        assert_eq!(told.exit_code(), 0);
    });
}

#[test]
fn a_program_starts_in_the_environment_asked_for() {
    let agent = Agent::start();
    block_on(async {
        agent
            .init(serde_json::json!({"envVars": {"A": "1", "B": "1"}}))
            .await;
        let mut request =
            shell("echo $A$B$C $E2B_SANDBOX $HOME; pwd; cat /proc/self/oom_score_adj");
        let config = request.process.as_option_mut().expect("a process");
        config.cwd = Some("/usr/bin".into());
        config.envs.insert("B".into(), "2".into());
        config.envs.insert("C".into(), "3".into());
        let told = run(&agent.processes(), request).await.expect("no error");
        let home = std::fs::read_to_string("/etc/passwd").expect("users");
        let home = home
            .lines()
            .find_map(|line| line.strip_prefix("root:x:0:0:"));
        let home = home
            .and_then(|rest| rest.split(':').nth(1))
            .expect("root's home");
        let expected = format!("123 true {home}\n/usr/bin\n100\n");
        assert_eq!(String::from_utf8(told.stdout).expect("text"), expected);
    });
}

#[test]
fn a_command_that_cannot_run_says_so_as_under_a_shell() {
    let agent = Agent::start();
    block_on(async {
        let client = agent.processes();
        let command = |name: &str, arguments: Vec<String>| {
            let mut request = shell("");
            let config = request.process.as_option_mut().expect("a process");
            (config.cmd, config.args) = (name.to_owned(), arguments);
            request
        };
        let told = run(&client, command("no-such-command", vec![]))
            .await
            .expect("no error");
        assert_eq!(told.exit_code(), 127);
        assert_eq!(told.stderr, b"exec: no-such-command: not found\n");
        let told = run(&client, command("/etc/passwd", vec![]))
            .await
            .expect("no error");
        assert_eq!(told.exit_code(), 126);
        let scratch = tempfile::tempdir().expect("a directory");
        let script = scratch.path().join("script");
        std::fs::write(&script, "echo script $1 $0").expect("a file");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&script, mode).expect("a mode");
        let script = script.to_str().expect("text");
        let told = run(&client, command(script, vec!["x".into()]))
            .await
            .expect("no error");
        assert_eq!(told.stdout, format!("script x {script}\n").as_bytes());
        let long = "x".repeat(10 * 1024 * 1024);
        let (_, error) = run(&client, command("true", vec![long]))
            .await
            .expect_err("too long");
        assert_eq!(error.code, ErrorCode::InvalidArgument);
        let mut request = shell("true");
        request.process.as_option_mut().expect("a process").cwd = Some("/no/such".into());
        let (_, error) = run(&client, request).await.expect_err("no directory");
        assert_eq!(error.code, ErrorCode::InvalidArgument);
        assert_eq!(
            error.message.as_deref(),
            Some("cwd '/no/such' does not exist")
        );
    });
}

#[test]
fn the_deadline_kills_the_process_and_all_of_its_session() {
    let agent = Agent::start();
    block_on(async {
        let client = agent.processes();
        let options = CallOptions::default().with_header("connect-timeout-ms", "300");
        // With job control each job is a process group of its own.
        let script = "set -m; sleep 1000 & echo $!; wait";
        let (told, error) = run_with(&client, shell(script), options)
            .await
            .expect_err("a deadline");
        assert_eq!(error.code, ErrorCode::DeadlineExceeded);
        let child = String::from_utf8(told.stdout).expect("text");
        wait_until_gone(child.trim()).await;
        wait_until_gone(&told.pid.to_string()).await;
        // Zero means no deadline.
        let options = CallOptions::default().with_header("connect-timeout-ms", "0");
        let told = run_with(&client, shell("echo fine"), options)
            .await
            .expect("no error");
        assert_eq!(told.stdout, b"fine\n");
    });
}

/// A zombie counts as gone: whoever must reap it is somebody else here.
async fn wait_until_gone(pid: &str) {
    let is_there = || {
        std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| !stat.contains(") Z "))
    };
    while is_there() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn a_client_that_leaves_does_not_end_the_process() {
    let agent = Agent::start();
    block_on(async {
        let client = agent.processes();
        let command = StartRequest {
            stdin: Some(true),
            ..shell("echo early; read line; echo $line")
        };
        let (pid, mut stream) = started!(client, command);
        next!(stream, Told::default());
        drop(stream);
        let request = || ConnectRequest {
            process: by_pid(pid),
            ..Default::default()
        };
        let replay = || CallOptions::default().with_header("hearth-output-replay", "true");
        let new = client.connect(request()).await.expect("a stream");
        let all = client.connect_with_options(request(), replay());
        let all = all.await.expect("a stream");
        let input = SendInputRequest {
            process: by_pid(pid),
            input: stdin(b"late\n"),
            ..Default::default()
        };
        client.send_input(input).await.expect("written");
        let told = told!(new).expect("no error");
        assert_eq!((told.pid, told.stdout.as_slice()), (pid, &b"late\n"[..]));
        let told = told!(all).expect("no error");
        assert_eq!(told.stdout, b"early\nlate\n");
        // The end can be asked for once more, and with it the last output.
        let told = told!(client.connect(request()).await.expect("a stream")).expect("no error");
        assert_eq!((told.exit_code(), told.stdout.as_slice()), (0, &b""[..]));
        let again = client.connect_with_options(request(), replay()).await;
        let told = told!(again.expect("a stream")).expect("no error");
        assert_eq!(told.stdout, b"early\nlate\n");
        // For everything else it is gone.
        assert_eq!(
            signal(&client, pid, Signal::SIGNAL_SIGKILL).await,
            Err(ErrorCode::NotFound)
        );
    });
}

#[test]
fn a_terminal_ends_with_all_of_its_session() {
    let agent = Agent::start();
    block_on(async {
        let client = agent.processes();
        let terminal = |script: &str| StartRequest {
            pty: MessageField::some(PTY::default()),
            ..shell(script)
        };
        // Its own process group; stopped; and one that made a session of its own.
        let jobs = "set -m; sleep 1000 & echo $!; sleep 1000 & kill -STOP $!; echo $!; \
                    set +m; setsid sleep 1000 >/dev/null 2>&1 </dev/null & \
                    until [ \"$(cut -d' ' -f6 /proc/$!/stat)\" = $! ]; do :; done; echo $!; ";
        for (then, killed) in [("echo go; read line", true), ("echo go", false)] {
            let (pid, mut stream) = started!(client, terminal(&format!("{jobs}{then}")));
            let mut told = Told::default();
            while !told.pty.ends_with(b"go\r\n") {
                next!(stream, told);
            }
            if killed {
                assert_eq!(signal(&client, pid, Signal::SIGNAL_SIGKILL).await, Ok(()));
            }
            let text = String::from_utf8(told.pty).expect("text");
            let pids: Vec<&str> = text
                .lines()
                .filter(|line| line.parse::<u32>().is_ok())
                .collect();
            let [job, stopped, own] = pids[..] else {
                panic!("{text:?}");
            };
            let end = told!(stream).expect("no error").end.expect("an end");
            assert_eq!(end.exited, !killed, "{end:?}");
            wait_until_gone(job).await;
            wait_until_gone(stopped).await;
            let own = own.parse().ok().and_then(rustix::process::Pid::from_raw);
            let own = own.expect("a pid");
            let left = rustix::process::kill_process(own, rustix::process::Signal::KILL);
            assert_eq!(left, Ok(()), "a session of its own goes on");
        }
    });
}

#[test]
fn what_ignores_the_hang_up_does_not_hold_the_terminal() {
    let agent = Agent::start();
    block_on(async {
        let client = agent.processes();
        let request = StartRequest {
            pty: MessageField::some(PTY::default()),
            ..shell("trap '' HUP; sleep 1000 & echo $!; exit 3")
        };
        let told = run(&client, request).await.expect("no error");
        assert_eq!(told.exit_code(), 3);
        let pid = String::from_utf8(told.pty).expect("text").trim().parse();
        let pid = rustix::process::Pid::from_raw(pid.expect("a pid")).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("still there");
    });
}

#[test]
fn signals_reach_the_process_and_no_output_is_lost() {
    let agent = Agent::start();
    block_on(async {
        let client = agent.processes();
        let script = "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.05; done";
        let (pid, mut stream) = started!(client, shell(script));
        let ready = stream
            .message()
            .await
            .expect("no error")
            .expect("a message");
        let mut told = Told::default();
        told.take(
            ready
                .to_owned_message()
                .event
                .into_option()
                .expect("an event"),
        );
        assert_eq!(told.stdout, b"ready\n");
        assert_eq!(signal(&client, pid, Signal::SIGNAL_SIGTERM).await, Ok(()));
        let told = told!(stream).expect("no error");
        assert_eq!(
            (told.stdout.as_slice(), told.exit_code()),
            (&b"bye\n"[..], 7)
        );

        let (pid, stream) = started!(client, shell("sleep 1000"));
        assert_eq!(signal(&client, pid, Signal::SIGNAL_SIGKILL).await, Ok(()));
        let end = told!(stream).expect("no error").end.expect("an end");
        assert_eq!(
            (end.exit_code, end.exited, end.status.as_str()),
            (-1, false, "signal: killed")
        );
        let unspecified = signal(&client, pid, Signal::SIGNAL_UNSPECIFIED).await;
        assert_eq!(unspecified, Err(ErrorCode::Unimplemented));
    });
}

#[test]
fn children_left_behind_are_waited_for_until_somebody_kills() {
    let agent = Agent::start();
    block_on(async {
        let client = agent.processes();
        let told = run(&client, shell("(sleep 0.2; echo late) & echo early")).await;
        assert_eq!(told.expect("no error").stdout, b"early\nlate\n");
        let (pid, mut stream) = started!(client, shell("sleep 1000 & echo $!"));
        let mut early = Told::default();
        let message = stream
            .message()
            .await
            .expect("no error")
            .expect("a message");
        early.take(
            message
                .to_owned_message()
                .event
                .into_option()
                .expect("an event"),
        );
        while signal(&client, pid, Signal::SIGNAL_SIGKILL).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        told!(stream).expect("no error");
        wait_until_gone(String::from_utf8(early.stdout).expect("text").trim()).await;
    });
}

#[test]
fn input_arrives_in_order_until_it_is_closed() {
    let agent = Agent::start();
    block_on(async {
        let client = agent.processes();
        let request = StartRequest {
            stdin: None,
            tag: Some("t".into()),
            ..shell("cat")
        };
        let (pid, stream) = started!(client, request);
        let tagged = || selector(Selector::Tag("t".into()));
        for word in [b"one ", b"two "] {
            let input = SendInputRequest {
                process: tagged(),
                input: stdin(word),
                ..Default::default()
            };
            client.send_input(input).await.expect("written");
        }
        let start = stream_input_request::StartEvent {
            process: tagged(),
            ..Default::default()
        };
        let mut messages = vec![StreamInputRequest {
            event: Some(InputEvent::Start(Box::new(start))),
            ..Default::default()
        }];
        let mut expected = b"one two ".to_vec();
        for number in 0..2000_u32 {
            let line = format!("{number} ");
            expected.extend(line.as_bytes());
            let data = stream_input_request::DataEvent {
                input: stdin(line.as_bytes()),
                ..Default::default()
            };
            messages.push(StreamInputRequest {
                event: Some(InputEvent::Data(Box::new(data))),
                ..Default::default()
            });
            messages.push(StreamInputRequest {
                event: Some(InputEvent::Keepalive(Box::default())),
                ..Default::default()
            });
        }
        client
            .stream_input(connectrpc::stream_iter(messages))
            .await
            .expect("written");
        let close = || CloseStdinRequest {
            process: by_pid(pid),
            ..Default::default()
        };
        client.close_stdin(close()).await.expect("closed");
        let told = told!(stream).expect("no error");
        assert_eq!(told.stdout, expected);
        let gone = client.close_stdin(close()).await.expect_err("ended");
        assert_eq!(gone.code, ErrorCode::NotFound);
    });
}

#[test]
fn wrong_input_is_refused() {
    let agent = Agent::start();
    block_on(async {
        let client = agent.processes();
        let (pid, stream) = started!(client, shell("sleep 1000"));
        let send = |input| {
            let request = SendInputRequest {
                process: by_pid(pid),
                input,
                ..Default::default()
            };
            client.send_input(request)
        };
        let code = |error: ConnectError| error.code;
        let closed = send(stdin(b"x")).await.map(|_| ()).map_err(code);
        assert_eq!(closed, Err(ErrorCode::FailedPrecondition));
        let input = Some(Input::Pty(b"x".to_vec()));
        let input = MessageField::some(ProcessInput {
            input,
            ..Default::default()
        });
        let no_terminal = send(input).await.map(|_| ()).map_err(code);
        assert_eq!(no_terminal, Err(ErrorCode::FailedPrecondition));
        let early = client
            .stream_input(connectrpc::stream_iter(vec![StreamInputRequest {
                event: Some(InputEvent::Data(Box::default())),
                ..Default::default()
            }]))
            .await
            .map(|_| ());
        assert_eq!(early.map_err(code), Err(ErrorCode::InvalidArgument));
        for unknown in [Selector::Pid(u32::MAX), Selector::Tag("nobody".into())] {
            let request = ConnectRequest {
                process: selector(unknown),
                ..Default::default()
            };
            let (_, error) =
                told!(client.connect(request).await.expect("a stream")).expect_err("unknown");
            assert_eq!(error.code, ErrorCode::NotFound);
        }
        signal(&client, pid, Signal::SIGNAL_SIGKILL)
            .await
            .expect("killed");
        told!(stream).expect("no error");
    });
}

#[test]
fn tags_are_found_among_many() {
    let agent = Agent::start();
    block_on(async {
        let client = agent.processes();
        let mut streams = Vec::new();
        for tag in ["a", "b", "c"] {
            let request = StartRequest {
                tag: Some(tag.into()),
                ..shell("sleep 1000")
            };
            streams.push((tag, started!(client, request)));
        }
        let listed = client
            .list(ListRequest::default())
            .await
            .expect("a list")
            .into_owned();
        let listed: Vec<_> = listed
            .processes
            .iter()
            .map(|info| (info.tag.as_deref(), info.pid))
            .collect();
        for (tag, (pid, stream)) in streams {
            assert!(listed.contains(&(Some(tag), pid)));
            let request = SendSignalRequest {
                process: selector(Selector::Tag(tag.into())),
                signal: EnumValue::from(Signal::SIGNAL_SIGKILL),
                ..Default::default()
            };
            client.send_signal(request).await.expect("found");
            assert_eq!(told!(stream).expect("no error").pid, 0);
        }
    });
}

#[test]
fn a_terminal_has_a_size_and_takes_input() {
    let agent = Agent::start();
    block_on(async {
        let client = agent.processes();
        let size = |cols, rows| {
            let size = MessageField::some(pty::Size {
                cols,
                rows,
                ..Default::default()
            });
            MessageField::some(PTY {
                size,
                ..Default::default()
            })
        };
        let script = "stty -echo; stty size; read line; stty size; echo got $line; tty";
        let request = StartRequest {
            pty: size(101, 31),
            ..shell(script)
        };
        let (pid, mut stream) = started!(client, request);
        let mut told = Told::default();
        while !told.pty.ends_with(b"31 101\r\n") {
            let message = stream
                .message()
                .await
                .expect("no error")
                .expect("a message");
            told.take(
                message
                    .to_owned_message()
                    .event
                    .into_option()
                    .expect("an event"),
            );
        }
        let update = |pty| UpdateRequest {
            process: by_pid(pid),
            pty,
            ..Default::default()
        };
        client.update(update(size(90, 20))).await.expect("resized");
        let input = Some(Input::Pty(b"word\n".to_vec()));
        let input = MessageField::some(ProcessInput {
            input,
            ..Default::default()
        });
        let request = SendInputRequest {
            process: by_pid(pid),
            input,
            ..Default::default()
        };
        client.send_input(request).await.expect("written");
        let told = told!(stream).expect("no error");
        let text = String::from_utf8(told.pty.clone()).expect("text");
        assert!(
            text.starts_with("20 90\r\ngot word\r\n/dev/pts/"),
            "{text:?}"
        );
        assert_eq!(told.exit_code(), 0);
    });
}

#[test]
fn quiet_streams_are_kept_alive_as_asked() {
    let agent = Agent::start();
    block_on(async {
        let client = agent.processes();
        for (interval, expected) in [("1", true), ("0", false), ("soon", false), ("-1", false)] {
            let options = CallOptions::default().with_header("keepalive-ping-interval", interval);
            let told = run_with(&client, shell("sleep 1.5"), options)
                .await
                .expect("no error");
            assert_eq!(told.keepalives > 0, expected, "{interval}");
        }
    });
}

#[test]
fn users_are_who_the_request_says() {
    let agent = Agent::start();
    let basic = |name: &str| {
        use base64::Engine as _;
        let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{name}:"));
        CallOptions::default().with_header("authorization", format!("Basic {encoded}"))
    };
    block_on(async {
        let client = agent.processes();
        let unknown = run_with(&client, shell("id"), basic("no-such-user")).await;
        let (_, error) = unknown.expect_err("unknown user");
        assert_eq!(error.code, ErrorCode::Unauthenticated);
        if !rustix::process::geteuid().is_root() {
            println!("skipped: this needs root");
            return;
        }
        let script = "id -un; id -G; echo $USER $LOGNAME; cat /etc/shadow";
        let told = run_with(&client, shell(script), basic("daemon"))
            .await
            .expect("no error");
        assert_eq!(told.stdout, b"daemon\n1\ndaemon daemon\n");
        assert_ne!(told.exit_code(), 0, "another's file was read");
    });
}
