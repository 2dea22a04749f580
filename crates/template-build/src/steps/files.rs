//! The step COPY: an archive of the author's files is checked and rewritten on the host,
//! and unpacked by the guest.

use super::{owner, root};
use crate::{
    Context, Copy, Failure, FilesHash, Part,
    copy::{self, Ownership, Selection},
    run::Run,
    shell,
    vm::Vm,
};
use std::{fs::File, path::Path};

/// Unpacks what was uploaded for the step where it belongs.
pub(super) async fn copy(
    run: &Run<'_>,
    vm: &Vm,
    context: &Context,
    step: &Copy,
    part: Part,
) -> Result<(), Failure> {
    let files = &run.shared.files;
    if !files.has(&run.spec.scope, &step.files) {
        let text = format!("the files of COPY {} were not uploaded", step.source);
        return Err(Failure::at(part, text));
    }
    let archive = files.path(&run.spec.scope, &step.files);
    let numbers = owner(vm, step.owner.as_deref().unwrap_or(&context.user), part).await?;
    let ownership = Ownership {
        uid: numbers.0,
        gid: numbers.1,
        mode: step.mode,
    };
    let selection = {
        let (archive, step) = (archive.clone(), step.clone());
        let forget = forgetting(run, &step.files);
        blocking(run, part, move || forget(copy::select(&archive, &step))).await?
    };
    let (directory, rename) = destination(vm, context, step, &selection, part).await?;
    let limit = (run.shared.config.limits.max_disk_mib << 20).min(run.free_disk()?);
    let local = run.work.join("copy.tar");
    let length = {
        let local = local.clone();
        let forget = forgetting(run, &step.files);
        blocking(run, part, move || {
            let mut out = File::create(&local).map_err(copy::CopyError::Write)?;
            forget(copy::rewrite(
                &archive,
                &selection,
                Path::new(&rename),
                ownership,
                limit,
                &mut out,
            ))?;
            out.metadata()
                .map(|data| data.len())
                .map_err(copy::CopyError::Write)
        })
        .await?
    };
    // In memory where it is small: what is removed from the disk again still
    // takes room in the layer.
    let remote = if length < (run.spec.memory_mib << 20) / 8 {
        "/run/hearth-copy.tar"
    } else {
        "/var/tmp/.hearth-copy.tar"
    };
    vm.file_send(&local, remote)
        .await
        .map_err(Failure::of(part, "send the files to the template"))?;
    let _ = std::fs::remove_file(&local);
    let owner = format!("{}:{}", ownership.uid, ownership.gid);
    root(
        run,
        vm,
        part,
        UNPACK,
        &[&directory, remote, &owner],
        "unpack the copied files",
    )
    .await
}

/// Removes an archive that turns out to be none: it is then uploaded again.
fn forgetting<T>(
    run: &Run<'_>,
    files: &FilesHash,
) -> impl FnOnce(Result<T, copy::CopyError>) -> Result<T, copy::CopyError> + Send + use<T> {
    let (all, scope, files) = (
        run.shared.files.clone(),
        run.spec.scope.clone(),
        files.clone(),
    );
    move |result| {
        if let Err(copy::CopyError::Archive(_)) = &result {
            all.forget(&scope, &files);
        }
        result
    }
}

const UNPACK: &str = r#"
command -v tar >/dev/null || { rm -f "$2"; echo "the image has no tar, which COPY needs" >&2; exit 127; }
[ -d "$1" ] || { mkdir -p "$1" && chown "$3" "$1"; } || exit
tar -xpf "$2" -C "$1"
status=$?
rm -f "$2"
exit $status
"#;

/// The directory to unpack in, and what a single file is called there.
async fn destination(
    vm: &Vm,
    context: &Context,
    step: &Copy,
    selection: &Selection,
    part: Part,
) -> Result<(String, String), Failure> {
    let target = context.absolute(&step.destination);
    let Selection::One(source) = selection else {
        return Ok((target, String::new()));
    };
    let own_name = source
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let means_directory = step.destination.ends_with('/')
        || step.destination == "."
        || step.destination.ends_with("/.")
        || shell::succeeds(vm, shell::script(r#"[ -d "$1" ]"#, &[&target]))
            .await
            .map_err(|why| Failure::at(part, why))?;
    if means_directory {
        return Ok((target, own_name));
    }
    match target.rsplit_once('/') {
        Some((parent, name)) if !name.is_empty() => {
            let parent = if parent.is_empty() { "/" } else { parent };
            Ok((parent.to_owned(), name.to_owned()))
        }
        _ => Ok((target, own_name)),
    }
}

async fn blocking<T: Send + 'static>(
    run: &Run<'_>,
    part: Part,
    work: impl FnOnce() -> Result<T, copy::CopyError> + Send + 'static,
) -> Result<T, Failure> {
    match run.tasks.spawn_blocking(work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Failure::at(part, crate::error::chain(&error))),
        Err(error) => Err(Failure::at(part, error.to_string())),
    }
}
