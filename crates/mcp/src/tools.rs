//! The tools: what an agent may do, in words for a model.

use crate::{
    output::Excerpt,
    sandboxes::{NoSandbox, Sandboxes},
};
use hearth_client::{Command, CommandEvent, Error, NewSandbox, Sandbox, SandboxClient};
use rmcp::{
    ServerHandler,
    handler::server::{router::tool::ToolRouter, wrapper::Parameters},
    model::{CallToolResult, ContentBlock, Implementation, ServerCapabilities, ServerConfig},
    tool, tool_handler, tool_router,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Seconds that a command may take where none are named, and at most.
const COMMAND_SECONDS: u64 = 120;
const MAX_COMMAND_SECONDS: u64 = 24 * 3600;
/// How much longer than a command its call may take.
const CALL_MARGIN: Duration = Duration::from_secs(30);
/// Bytes of a file that can be read at once, before the text is cut to what a model is shown.
const MAX_FILE_BYTES: usize = 16 << 20;
/// Time for calls that move files.
const FILE_LIMIT: Duration = Duration::from_secs(120);

const INSTRUCTIONS: &str = "\
Sandboxes: Linux virtual machines of your own, where you may install and run anything. \
`run_command` makes one at its first use and goes on using it, so files and installed packages \
stay between calls; `create_sandbox` makes more, whose `sandbox_id` the other tools take. A \
process that goes on in the background is started with `nohup … &`; its port has a URL by \
`get_url`. Sandboxes that you made end with this session.";

#[derive(Debug, Deserialize, JsonSchema)]
struct RunCommand {
    /// A line for bash.
    command: String,
    /// Which sandbox; without it the one of this session.
    sandbox_id: Option<String>,
    /// Directory to run it in; the user's home without it.
    cwd: Option<String>,
    /// Variables of the environment.
    envs: Option<BTreeMap<String, String>>,
    /// User to run it as, such as `root`; without it the template's, `user` in most.
    user: Option<String>,
    /// Seconds after which it is killed (120 without it).
    timeout_seconds: Option<u64>,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct CreateSandbox {
    /// Template: an ID, or `name[:tag]`; without it the server's default.
    template: Option<String>,
    /// Seconds that it lives, at least; using it prolongs that.
    timeout_seconds: Option<u32>,
    /// Variables of the environment of all its commands.
    envs: Option<BTreeMap<String, String>>,
    /// Notes to find it by.
    metadata: Option<BTreeMap<String, String>>,
    /// Whether it may reach the internet (true without it).
    internet_access: Option<bool>,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct OneSandbox {
    /// Which sandbox.
    sandbox_id: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct ReadFile {
    /// Path in the sandbox; relative ones start at the user's home.
    path: String,
    /// Which sandbox; without it the one of this session.
    sandbox_id: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct WriteFile {
    /// Path in the sandbox; directories above it are made.
    path: String,
    /// The whole new content.
    content: String,
    /// Which sandbox; without it the one of this session.
    sandbox_id: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct ListFiles {
    /// Directory in the sandbox; without it the user's home.
    path: Option<String>,
    /// Which sandbox; without it the one of this session.
    sandbox_id: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct GetUrl {
    /// Port that a program in the sandbox listens on.
    port: u16,
    /// Which sandbox; without it the one of this session.
    sandbox_id: Option<String>,
}

/// One session's tools.
#[derive(Clone)]
pub(crate) struct Server {
    sandboxes: Arc<Sandboxes>,
    tool_router: ToolRouter<Self>,
}

/// What a tool answers: text for the model. A failure is told, too, so that it can do better.
type Answer = Result<String, Failure>;

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    NoSandbox(#[from] NoSandbox),
    #[error(transparent)]
    Client(#[from] Error),
    #[error("{0}")]
    Input(String),
    #[error("{0}")]
    Command(String),
}

#[tool_router]
impl Server {
    pub(crate) fn new(sandboxes: Arc<Sandboxes>) -> Self {
        Self {
            sandboxes,
            tool_router: Self::tool_router(),
        }
    }

    #[tool(
        description = "Run a bash command line in a sandbox and return its exit code, standard \
                       output and standard error. Without sandbox_id it runs in this session's \
                       sandbox, which is made at the first call and keeps its files."
    )]
    async fn run_command(&self, Parameters(asked): Parameters<RunCommand>) -> CallToolResult {
        told(self.run(asked).await)
    }

    #[tool(description = "Make another sandbox, a virtual machine of its own, and return its ID.")]
    async fn create_sandbox(&self, Parameters(asked): Parameters<CreateSandbox>) -> CallToolResult {
        told(self.create(asked).await)
    }

    #[tool(description = "List the sandboxes that there are, with their states and metadata.")]
    async fn list_sandboxes(&self) -> CallToolResult {
        told(self.list().await)
    }

    #[tool(description = "End a sandbox. Its files are gone for good.")]
    async fn kill_sandbox(&self, Parameters(asked): Parameters<OneSandbox>) -> CallToolResult {
        told(self.kill(&asked.sandbox_id).await)
    }

    #[tool(description = "Read a text file of a sandbox.")]
    async fn read_file(&self, Parameters(asked): Parameters<ReadFile>) -> CallToolResult {
        told(self.read(asked).await)
    }

    #[tool(description = "Write a text file in a sandbox, replacing it where there is one.")]
    async fn write_file(&self, Parameters(asked): Parameters<WriteFile>) -> CallToolResult {
        told(self.write(asked).await)
    }

    #[tool(description = "List a directory of a sandbox.")]
    async fn list_files(&self, Parameters(asked): Parameters<ListFiles>) -> CallToolResult {
        told(self.files(asked).await)
    }

    #[tool(
        description = "Return the URL at which a port of a sandbox is reached from outside, where \
                       a server in it listens."
    )]
    async fn get_url(&self, Parameters(asked): Parameters<GetUrl>) -> CallToolResult {
        told(self.url(asked).await)
    }
}

#[tool_handler(router = self.tool_router)]
impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(
                Implementation::new("hearth", env!("CARGO_PKG_VERSION")).with_title("Hearth"),
            )
            .with_instructions(INSTRUCTIONS)
    }
}

impl Server {
    async fn run(&self, asked: RunCommand) -> Answer {
        let seconds = asked.timeout_seconds.unwrap_or(COMMAND_SECONDS);
        if !(1..=MAX_COMMAND_SECONDS).contains(&seconds) {
            let input =
                format!("timeout_seconds is {seconds}: 1 to {MAX_COMMAND_SECONDS} are possible");
            return Err(Failure::Input(input));
        }
        let timeout = Duration::from_secs(seconds);
        let (sandbox, agent) = self.agent(asked.sandbox_id, timeout + CALL_MARGIN).await?;
        let mut command = Command::shell(asked.command).timeout(timeout);
        command.cwd = asked.cwd;
        command.user = asked.user;
        command.envs = asked.envs.unwrap_or_default();
        let text = run(&agent, command, timeout).await?;
        Ok(format!("sandbox {}\n{text}", sandbox.sandbox_id))
    }

    async fn create(&self, asked: CreateSandbox) -> Answer {
        let new = NewSandbox {
            template_id: asked.template.unwrap_or_default(),
            timeout: asked.timeout_seconds.map(i64::from),
            env_vars: asked.envs,
            metadata: asked.metadata,
            allow_internet_access: asked.internet_access,
            ..NewSandbox::default()
        };
        let made = self.sandboxes.create(new).await?;
        Ok(json!({ "sandbox_id": made.sandbox_id, "template_id": made.template_id }).to_string())
    }

    async fn list(&self) -> Answer {
        let found = self.sandboxes.list().await?;
        let rows: Vec<_> = found
            .iter()
            .map(|one| {
                json!({
                    "sandbox_id": one.sandbox_id,
                    "template_id": one.template_id,
                    "state": one.state,
                    "started_at": one.started_at,
                    "end_at": one.end_at,
                    "metadata": one.metadata,
                    "made_in_this_session": self.sandboxes.is_own(&one.sandbox_id),
                })
            })
            .collect();
        Ok(serde_json::Value::from(rows).to_string())
    }

    async fn kill(&self, id: &str) -> Answer {
        Ok(if self.sandboxes.kill(id).await? {
            format!("ended {id}")
        } else {
            format!("{id} had ended already")
        })
    }

    async fn read(&self, asked: ReadFile) -> Answer {
        let (_, agent) = self.agent(asked.sandbox_id, FILE_LIMIT).await?;
        let bytes = match agent.file_read(&asked.path, MAX_FILE_BYTES).await {
            Err(Error::TooLarge { limit }) => {
                let path = asked.path;
                let input =
                    format!("{path} is larger than {limit} bytes: read a part with run_command");
                return Err(Failure::Input(input));
            }
            other => other?,
        };
        if bytes.contains(&0) {
            let input = format!("{} is no text: look at it with run_command", asked.path);
            return Err(Failure::Input(input));
        }
        let mut text = Excerpt::default();
        text.push(&bytes);
        Ok(text.text())
    }

    async fn write(&self, asked: WriteFile) -> Answer {
        let (_, agent) = self.agent(asked.sandbox_id, FILE_LIMIT).await?;
        let bytes = asked.content.len();
        agent.file_write(&asked.path, asked.content).await?;
        Ok(format!("wrote {bytes} bytes to {}", asked.path))
    }

    async fn files(&self, asked: ListFiles) -> Answer {
        let (_, agent) = self.agent(asked.sandbox_id, FILE_LIMIT).await?;
        // As an argument, so that nothing in it is the shell's.
        let path = asked.path.unwrap_or_else(|| ".".to_owned());
        let command = Command::new("ls")
            .args(["-lA", "--time-style=long-iso", "--"])
            .args([path])
            .timeout(FILE_LIMIT);
        run(&agent, command, FILE_LIMIT).await
    }

    async fn url(&self, asked: GetUrl) -> Answer {
        if asked.port == 0 {
            return Err(Failure::Input("port is 0".to_owned()));
        }
        let sandbox = self.sandboxes.get(asked.sandbox_id.as_deref()).await?;
        let url = self.sandboxes.url(&sandbox, asked.port);
        Ok(match sandbox.traffic_access_token {
            None => url,
            Some(token) => {
                format!("{url}\nRequests need the header e2b-traffic-access-token: {token}")
            }
        })
    }

    async fn agent(
        &self,
        named: Option<String>,
        limit: Duration,
    ) -> Result<(Sandbox, SandboxClient), Failure> {
        let sandbox = self.sandboxes.get(named.as_deref()).await?;
        let agent = self.sandboxes.agent(&sandbox, limit)?;
        Ok((sandbox, agent))
    }
}

/// Runs a command to its end; its output is bounded while it comes.
async fn run(agent: &SandboxClient, command: Command, timeout: Duration) -> Answer {
    let (mut stdout, mut stderr) = (Excerpt::default(), Excerpt::default());
    let mut stream = agent.start(command).await?;
    let mut ended = None;
    let failed = loop {
        match stream.next().await {
            Ok(Some(CommandEvent::Stdout(bytes) | CommandEvent::Pty(bytes))) => stdout.push(&bytes),
            Ok(Some(CommandEvent::Stderr(bytes))) => stderr.push(&bytes),
            Ok(Some(CommandEvent::Ended(exit))) => ended = Some(exit),
            Ok(Some(CommandEvent::Started { .. })) => {}
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    let how = match (&ended, failed) {
        (Some(exit), _) if exit.exited => format!("exit code {}", exit.code),
        (Some(exit), _) => exit.status.clone(),
        (None, Some(Error::Rpc { code, .. })) if code == "deadline_exceeded" => {
            format!("killed after {} s (timeout_seconds)", timeout.as_secs())
        }
        (None, Some(error)) => return Err(error.into()),
        (None, None) => "it ended without a word".to_owned(),
    };
    let text = format!(
        "{how}\n--- stdout\n{}\n--- stderr\n{}",
        stdout.text(),
        stderr.text()
    );
    match ended {
        Some(exit) if exit.exited && exit.code == 0 => Ok(text),
        _ => Err(Failure::Command(text)),
    }
}

fn told(answer: Answer) -> CallToolResult {
    match answer {
        Ok(text) => CallToolResult::success(vec![ContentBlock::text(text)]),
        Err(failure) => CallToolResult::error(vec![ContentBlock::text(failure.to_string())]),
    }
}
