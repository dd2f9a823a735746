//! What the programs of sends and receives go on with: which bodies there are, and which stands in which program array.
//!
//! Input: a loaded program's array. Output: a body in it, loaded for it or for another one before.

use aya::{Btf, Ebpf, maps::ProgramArray, programs::Program};

use super::{
    hooks::Attach,
    loader::{chain, load_program, refused, unload},
    plan::Reason,
};

/// A program that is attached nowhere: those of hooks jump to it. It is loaded for one function, and stands in every array that takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Body {
    /// Name of the program in the object.
    pub program: &'static str,
    /// The program array that it is meant for.
    pub array: &'static str,
    /// What it is loaded for.
    pub attach: Attach,
}

/// Every body of the object `capture`. They all do the same work; an array takes one whose function is of the type that its hooks attach to.
pub const BODIES: &[Body] = &[
    Body::new(
        "inet_sendmsg_body",
        "INET_SEND",
        Attach::Entry("inet_sendmsg"),
    ),
    Body::new(
        "inet6_sendmsg_body",
        "INET6_SEND",
        Attach::Entry("inet6_sendmsg"),
    ),
    Body::new(
        "unix_stream_sendmsg_body",
        "UNIX_SEND",
        Attach::Entry("unix_stream_sendmsg"),
    ),
    Body::new(
        "inet_recvmsg_body",
        "INET_RECEIVE",
        Attach::Exit("inet_recvmsg"),
    ),
    Body::new(
        "inet6_recvmsg_body",
        "INET6_RECEIVE",
        Attach::Exit("inet6_recvmsg"),
    ),
    Body::new(
        "unix_stream_recvmsg_body",
        "UNIX_RECEIVE",
        Attach::Exit("unix_stream_recvmsg"),
    ),
    Body::new("tls_body", "TLS_CALL", Attach::Library),
];

impl Body {
    const fn new(program: &'static str, array: &'static str, attach: Attach) -> Self {
        Self {
            program,
            array,
            attach,
        }
    }
}

/// The bodies that are loaded, and the arrays that have one.
#[derive(Default)]
pub(super) struct Bodies {
    programs: Vec<&'static str>,
    arrays: Vec<&'static str>,
}

impl Bodies {
    /// Puts a body into the array, if it has none: one that is there, or else its own. Large programs are so loaded once for each type of function,
    /// and once in all on kernels that do not tell these apart.
    pub(super) fn provide(
        &mut self,
        ebpf: &mut Ebpf,
        array: Option<&'static str>,
        btf: &Btf,
    ) -> Result<(), Reason> {
        let Some(array) = array.filter(|array| !self.arrays.contains(array)) else {
            return Ok(());
        };
        let taken = self
            .programs
            .iter()
            .find(|program| put(ebpf, array, program).is_ok());
        if taken.is_none() {
            let body = BODIES
                .iter()
                .find(|body| body.array == array)
                .ok_or(Reason::NotInObject)?;
            load_program(ebpf, body.program, body.attach, btf)?;
            put(ebpf, array, body.program).inspect_err(|_| unload(ebpf, body.program))?;
            self.programs.push(body.program);
        }
        self.arrays.push(array);
        Ok(())
    }
}

/// Makes a loaded program the one entry of a program array.
fn put(ebpf: &mut Ebpf, array: &str, program: &str) -> Result<(), Reason> {
    let fd = match ebpf.program(program) {
        Some(Program::FEntry(program)) => program.fd(),
        Some(Program::FExit(program)) => program.fd(),
        Some(Program::UProbe(program)) => program.fd(),
        _ => return Err(Reason::NotInObject),
    };
    let fd = fd.and_then(|fd| Ok(fd.try_clone()?)).map_err(refused)?;
    let map = ebpf.map_mut(array).ok_or(Reason::NotInObject)?;
    let refused = |error| Reason::Refused {
        error: chain(&error),
        log: Vec::new(),
    };
    ProgramArray::try_from(map)
        .and_then(|mut programs| programs.set(0, &fd, 0))
        .map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{examine::OBJECT, hooks::HOOKS, objects},
        *,
    };

    #[test]
    fn goes_on_with_a_body_of_its_own_function() {
        let hooks = HOOKS
            .iter()
            .filter_map(|hook| Some((hook, hook.goes_on_in?)));
        for body in BODIES {
            let hooks = hooks.clone().filter(|(_, array)| *array == body.array);
            // A first program and its spare; of TLS, both ways to write, and what sees calls return.
            let expected = if body.array == "TLS_CALL" { 3 } else { 2 };
            assert_eq!(hooks.count(), expected, "{}", body.array);
        }
        for (hook, array) in hooks {
            let body = BODIES.iter().find(|body| body.array == array);
            assert_eq!(
                body.map(|body| body.attach),
                Some(hook.attach),
                "{}",
                hook.program
            );
        }
    }

    /// Without one a body's functions would share variables between tasks, see agent-ebpf `hook/body.rs`.
    #[test]
    fn every_body_has_a_tail_call_of_its_own() {
        const CALL: u8 = 0x85;
        const TAIL_CALL: i32 = aya_obj::generated::bpf_func_id::BPF_FUNC_tail_call as i32;
        let Some(object) = objects::find(OBJECT) else {
            assert!(objects::OBJECTS.is_empty(), "built without kernel programs");
            return;
        };
        let object = aya_obj::Object::parse(object.bytes).expect("it was built with the agent");
        for body in BODIES {
            let program = &object.programs[body.program];
            let function = &object.functions[&program.function_key()];
            let calls = function.instructions.iter();
            let tail_calls = calls
                .filter(|call| call.code == CALL && call.src_reg() == 0 && call.imm == TAIL_CALL);
            assert_eq!(tail_calls.count(), 1, "{}", body.program);
        }
    }
}
