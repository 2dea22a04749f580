//! What one sandbox is served, and the answers to its requests. Synchronous: a request
//! is bytes, and so is its answer.

use crate::procedures::{self, Request};
use crate::replay::Replies;
use crate::rpc::{self, Accepted, Call};
use crate::sys::KernelHandle;
use crate::tree::Tree;
use crate::xdr::{Malformed, Reader, Writer};
use crate::{Losses, mountd};
use std::sync::Arc;

/// The volumes of one sandbox, by the names that it mounts them by.
#[derive(Debug)]
pub(crate) struct Exports {
    volumes: Vec<(String, Arc<Tree>)>,
    replies: Replies,
    losses: Arc<Losses>,
}

impl Exports {
    pub(crate) fn new(volumes: Vec<(String, Arc<Tree>)>, losses: Arc<Losses>) -> Self {
        Self {
            volumes,
            replies: Replies::default(),
            losses,
        }
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.volumes.iter().map(|(name, _)| name.as_str())
    }

    /// The handle of the root of the volume of this name.
    pub(crate) fn root(&self, name: &[u8]) -> Option<Vec<u8>> {
        let mut volumes = self.volumes.iter();
        let (_, tree) = volumes.find(|(known, _)| known.as_bytes() == name)?;
        Some(tree.root_handle())
    }

    /// The tree that a handle was made for, if it is one of this sandbox's.
    pub(crate) fn unseal(&self, sealed: &[u8]) -> Option<(Arc<Tree>, KernelHandle)> {
        self.volumes
            .iter()
            .find_map(|(_, tree)| Some((Arc::clone(tree), tree.unseal(sealed)?)))
    }

    /// What changes when written data may be lost that was not on disk yet.
    pub(crate) fn write_verifier(&self) -> [u8; 8] {
        self.losses.verifier()
    }

    /// Data did not get to the disk: clients send again what they still have.
    pub(crate) fn data_lost(&self) {
        self.losses.note();
    }

    /// Answers a message. `None`: it is no call, and the connection of no use.
    pub(crate) fn answer(&self, message: &[u8]) -> Option<Vec<u8>> {
        let mut arguments = Reader::new(message);
        let call = match Call::read(&mut arguments) {
            Ok(call) => call,
            Err(refusal) => return rpc::refuse(refusal).map(Writer::into_bytes),
        };
        Some(self.answer_call(call, arguments, message))
    }

    fn answer_call(&self, call: Call, arguments: Reader<'_>, message: &[u8]) -> Vec<u8> {
        const NULL: u32 = 0;
        let xid = call.xid;
        let accepted = |accepted| rpc::answer(xid, accepted).into_bytes();
        let version = match call.program {
            procedures::PROGRAM => procedures::VERSION,
            mountd::PROGRAM => mountd::VERSION,
            _ => return accepted(Accepted::ProgramUnavailable),
        };
        if call.version != version {
            return accepted(Accepted::ProgramMismatch(version));
        }
        match (call.program, call.procedure) {
            (_, NULL) => accepted(Accepted::Success),
            (mountd::PROGRAM, number) if mountd::has(number) => answered(xid, |reply| {
                mountd::run(number, self, &mut arguments.clone(), reply)
            }),
            (procedures::PROGRAM, number) => match procedures::procedure(number) {
                Some(procedure) => self.serve(procedure, call, arguments, message),
                None => accepted(Accepted::ProcedureUnavailable),
            },
            _ => accepted(Accepted::ProcedureUnavailable),
        }
    }

    fn serve(
        &self,
        procedure: procedures::Procedure,
        call: Call,
        arguments: Reader<'_>,
        message: &[u8],
    ) -> Vec<u8> {
        let xid = call.xid;
        let request = Request {
            exports: self,
            who: call.credentials,
        };
        let run = || {
            answered(xid, |reply| {
                procedure.run(&request, &mut arguments.clone(), reply)
            })
        };
        match procedure.once {
            true => self.replies.once(xid, message, run),
            false => run(),
        }
    }
}

fn answered(xid: u32, results: impl FnOnce(&mut Writer) -> Result<(), Malformed>) -> Vec<u8> {
    let mut reply = rpc::answer(xid, Accepted::Success);
    match results(&mut reply) {
        Ok(()) => reply.into_bytes(),
        Err(Malformed) => rpc::answer(xid, Accepted::GarbageArguments).into_bytes(),
    }
}
