//! ONC RPC (RFC 5531): what a call says before its arguments, and how it is answered.

use crate::access::Credentials;
use crate::xdr::{Malformed, Reader, Writer};

const CALL: u32 = 0;
const REPLY: u32 = 1;
const RPC_VERSION: u32 = 2;
/// Longest credential and verifier.
const LONGEST_AUTH: usize = 400;
const AUTH_SYS: u32 = 1;
const LONGEST_MACHINE_NAME: usize = 255;
const MOST_GROUPS: u32 = 16;

/// A call's head.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) xid: u32,
    pub(crate) program: u32,
    pub(crate) version: u32,
    pub(crate) procedure: u32,
    pub(crate) credentials: Credentials,
}

/// Why a message is not answered by a procedure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No call at all: there is nobody to answer.
    NotACall,
    /// Another version of RPC.
    RpcVersion { xid: u32 },
    /// Credentials that cannot be read.
    BadCredentials { xid: u32 },
}

impl Call {
    /// Reads a head; what is left in `message` are the arguments.
    pub(crate) fn read(message: &mut Reader<'_>) -> Result<Self, Refusal> {
        let nothing = |_: Malformed| Refusal::NotACall;
        let xid = message.u32().map_err(nothing)?;
        if message.u32().map_err(nothing)? != CALL {
            return Err(Refusal::NotACall);
        }
        if message.u32().map_err(nothing)? != RPC_VERSION {
            return Err(Refusal::RpcVersion { xid });
        }
        let mut number = || message.u32().map_err(nothing);
        let (program, version, procedure) = (number()?, number()?, number()?);
        let credentials =
            credentials(message).map_err(|Malformed| Refusal::BadCredentials { xid })?;
        Ok(Self {
            xid,
            program,
            version,
            procedure,
            credentials,
        })
    }
}

/// The caller's ids, as it claims them. Whoever does not say is nobody.
fn credentials(message: &mut Reader<'_>) -> Result<Credentials, Malformed> {
    let flavor = message.u32()?;
    let body = message.opaque(LONGEST_AUTH)?;
    let _verifier_flavor = message.u32()?;
    message.opaque(LONGEST_AUTH)?;
    if flavor != AUTH_SYS {
        return Ok(Credentials::NOBODY);
    }
    let mut body = Reader::new(body);
    let _stamp = body.u32()?;
    body.opaque(LONGEST_MACHINE_NAME)?;
    let (uid, gid) = (body.u32()?, body.u32()?);
    let count = body.u32()?;
    if count > MOST_GROUPS {
        return Err(Malformed);
    }
    let groups = (0..count).map(|_| body.u32()).collect::<Result<_, _>>()?;
    Ok(Credentials { uid, gid, groups })
}

/// How a call was taken (`accept_stat`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accepted {
    Success,
    ProgramUnavailable,
    /// The one version that there is.
    ProgramMismatch(u32),
    ProcedureUnavailable,
    GarbageArguments,
}

/// Begins an answer; the results follow a success.
pub(crate) fn answer(xid: u32, accepted: Accepted) -> Writer {
    const ACCEPTED: u32 = 0;
    let mut reply = head(xid, ACCEPTED);
    // No verifier.
    reply.u32(0);
    reply.u32(0);
    match accepted {
        Accepted::Success => reply.u32(0),
        Accepted::ProgramUnavailable => reply.u32(1),
        Accepted::ProgramMismatch(version) => {
            reply.u32(2);
            reply.u32(version);
            reply.u32(version);
        }
        Accepted::ProcedureUnavailable => reply.u32(3),
        Accepted::GarbageArguments => reply.u32(4),
    }
    reply
}

/// The answer to what is refused before it reaches a program, if any.
pub(crate) fn refuse(refusal: Refusal) -> Option<Writer> {
    const DENIED: u32 = 1;
    match refusal {
        Refusal::NotACall => None,
        Refusal::RpcVersion { xid } => {
            let mut reply = head(xid, DENIED);
            for word in [0, RPC_VERSION, RPC_VERSION] {
                reply.u32(word);
            }
            Some(reply)
        }
        Refusal::BadCredentials { xid } => {
            const AUTH_ERROR: u32 = 1;
            const BAD_CREDENTIALS: u32 = 1;
            let mut reply = head(xid, DENIED);
            reply.u32(AUTH_ERROR);
            reply.u32(BAD_CREDENTIALS);
            Some(reply)
        }
    }
}

fn head(xid: u32, status: u32) -> Writer {
    let mut reply = Writer::default();
    for word in [xid, REPLY, status] {
        reply.u32(word);
    }
    reply
}
