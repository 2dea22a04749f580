//! The answers to a sandbox's requests. Synchronous: a request is bytes, and so is its
//! answer.

use crate::exports::Exports;
use crate::mountd;
use crate::procedures::{self, Request};
use crate::rpc::{self, Accepted, Call};
use crate::xdr::{Malformed, Reader, Writer};

impl Exports {
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
