//! `crypto/tls` of Go 1.18 and later.
//!
//! Functions: `crypto/tls/conn.go`. They are methods, called through interfaces, so the compiler cannot inline all calls of them. Results are
//! seen at the return instructions: stacks of Go move, and a return address that the kernel has altered would be found there.

use agent_common::abi::Direction::{Receive, Send};

use super::{Call, Exit, Finding, Hidden, Probe, complete};
use crate::image::{Image, ReadAt, go, returns};

const FUNCTIONS: [(&str, Call); 3] = [
    ("crypto/tls.(*Conn).Read", Call::Go(Receive)),
    ("crypto/tls.(*Conn).Write", Call::Go(Send)),
    ("crypto/tls.(*Conn).Close", Call::Close),
];

/// The library in a Go program; `None` where it is none, or speaks no TLS.
pub(super) fn examine<R: ReadAt + ?Sized>(image: &Image<'_, R>) -> Option<Finding> {
    let version = go::version(image)?;
    Some(Finding {
        library: "Go crypto/tls",
        version: version.strip_prefix("go").map(str::to_owned),
        probes: probes(image).transpose()?,
    })
}

fn probes<R: ReadAt + ?Sized>(image: &Image<'_, R>) -> Result<Option<Vec<Probe>>, Hidden> {
    let functions = go::functions(image, &FUNCTIONS.map(|(name, _)| name)).map_err(Hidden::Go)?;
    if functions.iter().all(Option::is_none) {
        return Ok(None);
    }
    let mut probes = Vec::new();
    for ((name, call), function) in FUNCTIONS.into_iter().zip(functions) {
        let Some(function) = function else {
            continue;
        };
        let entry = function.offset;
        let exit = if call.direction().is_some() {
            let returns = returns::find(image.machine, &function.code);
            let returns = returns.map_err(|error| Hidden::Returns {
                function: name,
                error,
            })?;
            Exit::Instructions(returns.iter().map(|distance| entry + distance).collect())
        } else {
            Exit::None
        };
        probes.push(Probe {
            function: name,
            call,
            entry,
            exit,
        });
    }
    complete(probes).map(Some)
}
