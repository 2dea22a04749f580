//! The steps of a build, from the cache where they are in it, else in a microVM
//! that is booted for the first one that is not.
//!
//! The guest's file system is held still after each step while its layer is
//! closed: a cached layer is a clean file system, never a torn one.

mod files;

use crate::{
    Context, Copy, Failure, Instruction, Part,
    cache::{Layer, State},
    log::Level,
    run::Run,
    shell::{self, Place},
    vm::Vm,
};
use hearth_snapshot::{Lease, StartCommand};
use std::path::{Path, PathBuf};

/// What the steps so far have made.
pub(crate) struct Stack {
    /// Raw ext4 image at the bottom.
    pub(crate) image: PathBuf,
    pub(crate) size_bytes: u64,
    /// Layers of the source upon it, the lowest first.
    pub(crate) below: Vec<PathBuf>,
    /// Those of the steps upon these, the lowest first.
    pub(crate) layers: Vec<Layer>,
    /// Keeps the source from being removed.
    pub(crate) _lease: Option<Lease>,
    pub(crate) state: State,
    pub(crate) context: Context,
    /// What the source starts.
    pub(crate) start: Option<StartCommand>,
    /// Nothing above may come from the cache.
    pub(crate) forced: bool,
}

impl Stack {
    pub(crate) fn layer_paths(&self) -> Vec<PathBuf> {
        let own = self.layers.iter().map(|layer| layer.path.clone());
        self.below.iter().cloned().chain(own).collect()
    }

    pub(crate) fn push(&mut self, layer: Layer) {
        self.state = layer.state();
        self.layers.push(layer);
    }
}

/// The VM of the steps, and the layer that it writes now.
#[derive(Default)]
pub(crate) struct Workbench {
    vm: Option<Vm>,
    writable: PathBuf,
    layers: usize,
}

impl Workbench {
    fn next_path(&mut self, work: &Path) -> PathBuf {
        self.layers += 1;
        work.join(format!("layer-{}", self.layers))
    }

    /// The VM, booted from the stack when there is none yet.
    pub(crate) async fn vm(
        &mut self,
        run: &Run<'_>,
        stack: &Stack,
        part: Part,
    ) -> Result<&Vm, Failure> {
        if self.vm.is_none() {
            self.writable = self.next_path(&run.work);
            let memory = run.work.join("steps.memory");
            let vm = run.boot(stack, self.writable.clone(), memory, part).await?;
            self.vm = Some(vm);
        }
        Ok(self.vm.as_ref().expect("booted just now"))
    }

    /// Closes the layer, puts it on the stack and into the cache under `key`.
    pub(crate) async fn close_layer(
        &mut self,
        run: &Run<'_>,
        stack: &mut Stack,
        key: hearth_snapshot::Digest,
        part: Part,
    ) -> Result<(), Failure> {
        let next = self.next_path(&run.work);
        let vm = self
            .vm
            .as_ref()
            .expect("a layer is closed after a step ran");
        vm.checkpoint(&next)
            .await
            .map_err(Failure::of(part, "keep the step's layer"))?;
        let done = std::mem::replace(&mut self.writable, next);
        let layer = run
            .shared
            .cache
            .insert(key, &done)
            .map_err(Failure::of(part, "keep the step's layer"))?;
        stack.push(layer);
        Ok(())
    }

    /// Ends the VM, if there is one; what it wrote since the last layer is lost.
    pub(crate) async fn finish(mut self) {
        if let Some(vm) = self.vm.take()
            && let Err(error) = vm.stop().await
        {
            tracing::error!(error = %crate::error::chain(&error), "ending a build's VM failed");
        }
    }
}

/// Carries all steps out.
pub(crate) async fn run_all(
    run: &Run<'_>,
    stack: &mut Stack,
    bench: &mut Workbench,
) -> Result<(), Failure> {
    for index in 0..run.spec.steps.len() {
        run_one(run, stack, bench, index).await?;
    }
    Ok(())
}

async fn run_one(
    run: &Run<'_>,
    stack: &mut Stack,
    bench: &mut Workbench,
    index: usize,
) -> Result<(), Failure> {
    let step = &run.spec.steps[index];
    let part = Part::Step(index + 1);
    let title = format!("[{}] {}", run.label(part), step.instruction);
    stack.forced |= step.force;
    let instruction = expanded(&step.instruction, &stack.context);
    if let Instruction::Env(pairs) = &instruction {
        let texts: Vec<&str> = pairs.iter().flat_map(|(n, v)| [n.as_str(), v]).collect();
        let parts = [&["ENV"], &texts[..]].concat();
        // There is nothing to be done; whether it is new tells the log's reader what
        // becomes of the steps after it.
        let known = run.shared.cache.note(stack.state.key(&parts));
        let cached = if known && !stack.forced {
            "CACHED "
        } else {
            ""
        };
        run.log
            .add(Some(part), Level::Info, &format!("{cached}{title}"));
        stack.context.set_env(pairs);
        stack.state = stack.state.then(&parts);
        return Ok(());
    }
    let key = key(stack.state, &instruction);
    let cached = (!stack.forced)
        .then(|| run.shared.cache.find(key))
        .flatten();
    if let Some(layer) = cached {
        run.log
            .add(Some(part), Level::Info, &format!("CACHED {title}"));
        stack.push(layer);
    } else {
        run.log.add(Some(part), Level::Info, &title);
        let vm = bench.vm(run, stack, part).await?;
        carry_out(run, vm, &stack.context, &instruction, part).await?;
        bench.close_layer(run, stack, key, part).await?;
    }
    match &instruction {
        Instruction::Workdir(path) => stack.context.workdir = stack.context.absolute(path),
        Instruction::User(user) => stack.context.user = user_name(user).to_owned(),
        _ => {}
    }
    Ok(())
}

/// With the values of variables in paths and names of users, as in a Dockerfile.
/// Commands have a shell for that, and variables see each other later.
fn expanded(instruction: &Instruction, context: &Context) -> Instruction {
    match instruction {
        Instruction::Copy(copy) => Instruction::Copy(Copy {
            destination: context.expand(&copy.destination),
            owner: copy.owner.as_deref().map(|owner| context.expand(owner)),
            ..copy.clone()
        }),
        Instruction::Workdir(path) => Instruction::Workdir(context.expand(path)),
        Instruction::User(user) => Instruction::User(context.expand(user)),
        Instruction::Run { .. } | Instruction::Env(_) => instruction.clone(),
    }
}

fn key(state: State, instruction: &Instruction) -> hearth_snapshot::Digest {
    match instruction {
        Instruction::Copy(copy) => state.key(&[
            "COPY",
            &copy.source,
            &copy.destination,
            copy.owner.as_deref().unwrap_or_default(),
            &copy.mode.map(|mode| mode.to_string()).unwrap_or_default(),
            copy.files.as_str(),
        ]),
        Instruction::Run { command, user } => {
            state.key(&["RUN", command, user.as_deref().unwrap_or_default()])
        }
        Instruction::Workdir(path) => state.key(&["WORKDIR", path]),
        Instruction::User(user) => state.key(&["USER", user]),
        Instruction::Env(_) => unreachable_env(),
    }
}

fn unreachable_env() -> ! {
    unreachable!("variables make no layer")
}

/// `USER name:group` names a user all the same.
fn user_name(text: &str) -> &str {
    text.split_once(':').map_or(text, |(user, _)| user)
}

async fn carry_out(
    run: &Run<'_>,
    vm: &Vm,
    context: &Context,
    instruction: &Instruction,
    part: Part,
) -> Result<(), Failure> {
    match instruction {
        Instruction::Run { command, user } => {
            let mut env = run.shared.config.build_env();
            env.extend(context.env.clone());
            let place = Place {
                user: user.as_deref().unwrap_or(&context.user),
                env: &env,
                ..Place::of(context)
            };
            let (exit, last) = shell::run(run, vm, part, place.line(command)).await?;
            if exit.exited && exit.code == 0 {
                Ok(())
            } else {
                Err(Failure::at(
                    part,
                    shell::unsuccessful(command, &exit, &last),
                ))
            }
        }
        Instruction::Copy(copy) => files::copy(run, vm, context, copy, part).await,
        Instruction::Workdir(path) => {
            let owner = owner(vm, &context.user, part).await?;
            const MAKE: &str = r#"[ -d "$1" ] || { mkdir -p "$1" && chown "$2" "$1"; }"#;
            let path = context.absolute(path);
            let owner = format!("{}:{}", owner.0, owner.1);
            root(run, vm, part, MAKE, &[&path, &owner], "make the directory").await
        }
        Instruction::User(user) => owner(vm, user, part).await.map(drop),
        Instruction::Env(_) => Ok(()),
    }
}

/// Runs a script of ours as root.
pub(crate) async fn root(
    run: &Run<'_>,
    vm: &Vm,
    part: Part,
    text: &str,
    args: &[&str],
    doing: &str,
) -> Result<(), Failure> {
    let mut command = shell::script(text, args);
    command.envs = run.shared.config.build_env();
    let (exit, last) = shell::run(run, vm, part, command).await?;
    if exit.exited && exit.code == 0 {
        return Ok(());
    }
    let why = if last.is_empty() { exit.status } else { last };
    Err(Failure::at(part, format!("cannot {doing}: {why}")))
}

/// Numbers of `user[:group]`, by the guest's own files.
async fn owner(vm: &Vm, text: &str, part: Part) -> Result<(u32, u32), Failure> {
    let file = |path| async move {
        let text = vm.file_read(path).await;
        text.map(Option::unwrap_or_default)
            .map_err(Failure::of(part, "read the template's users"))
    };
    let (passwd, group) = (file("/etc/passwd").await?, file("/etc/group").await?);
    resolve_owner(&passwd, &group, text).map_err(|why| Failure::at(part, why))
}

fn resolve_owner(passwd: &str, group: &str, text: &str) -> Result<(u32, u32), String> {
    let (user, group_name) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let field = |line: &str, index: usize| line.split(':').nth(index).map(str::to_owned);
    let entry = passwd.lines().find(|line| {
        field(line, 0).as_deref() == Some(user) || field(line, 2).as_deref() == Some(user)
    });
    let (uid, own_gid) = match entry {
        Some(line) => {
            let number = |index| field(line, index).and_then(|text| text.parse::<u32>().ok());
            let malformed = || format!("the entry of the user '{user}' is malformed");
            (
                number(2).ok_or_else(malformed)?,
                number(3).ok_or_else(malformed)?,
            )
        }
        None => match user.parse::<u32>() {
            Ok(uid) => (uid, uid),
            Err(_) => return Err(format!("the user '{user}' does not exist in the template")),
        },
    };
    let Some(name) = group_name.filter(|name| !name.is_empty()) else {
        return Ok((uid, own_gid));
    };
    let found = group
        .lines()
        .find(|line| field(line, 0).as_deref() == Some(name));
    let gid = match found {
        Some(line) => field(line, 2).and_then(|text| text.parse().ok()),
        None => name.parse().ok(),
    };
    match gid {
        Some(gid) => Ok((uid, gid)),
        None => Err(format!("the group '{name}' does not exist in the template")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_users_may_hold_variables() {
        let mut context = Context::default();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        context.set_env(&[pair("APP", "/app"), pair("ME", "me")]);
        let of = |instruction| expanded(&instruction, &context).to_string();
        assert_eq!(
            of(Instruction::Workdir("$APP/${SUB:-x}".to_owned())),
            "WORKDIR /app/x"
        );
        assert_eq!(of(Instruction::User("$ME".to_owned())), "USER me");
        let command = "echo $APP".to_owned();
        let run = of(Instruction::Run {
            command,
            user: None,
        });
        assert_eq!(run, "RUN echo $APP");
    }

    #[test]
    fn owners_are_found_by_name_or_number() {
        let passwd = "root:x:0:0::/root:/bin/sh\nuser:x:1000:1001::/home/user:/bin/bash\nbad:x\n";
        let group = "root:x:0:\nstaff:x:50:user\n";
        let of = |text| resolve_owner(passwd, group, text);
        assert_eq!(of("user"), Ok((1000, 1001)));
        assert_eq!(of("user:staff"), Ok((1000, 50)));
        assert_eq!(of("1000:7"), Ok((1000, 7)));
        assert_eq!(of("4242"), Ok((4242, 4242)));
        assert_eq!(of("user:"), Ok((1000, 1001)));
        assert!(of("nobody").unwrap_err().contains("nobody"));
        assert!(of("user:nobody").unwrap_err().contains("group"));
        assert!(of("bad").unwrap_err().contains("malformed"));
    }
}
