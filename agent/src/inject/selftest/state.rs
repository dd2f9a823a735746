//! A `tracestate` line goes in behind the other one, whole, or not at all.
//!
//! Input: a [`Pair`], and what a request is said to have brought along. Output: nothing, or that other bytes arrived.

use std::io::Write as _;

use agent_common::{
    abi::{Injection, KeptState},
    wire::{
        inject::Action,
        state_line::{LONGEST, SHORTEST},
    },
};

use super::{
    Failure, Pair, When as _, pattern, receive,
    writing::{instruction, request, with_lines, with_lines_and},
};
use crate::probe::inject::Bench;

impl Pair {
    /// Short and long lines, also in two requests of one send; and none of a state that is not the one that was meant.
    pub(super) fn states(&mut self, bench: &mut Bench, thread: u64) -> Result<(), Failure> {
        let message = request(300, 2000);
        let at = [(298, Action::Insert)];
        for length in (SHORTEST..SHORTEST + 16).chain(LONGEST - 8..=LONGEST) {
            let (state, line) = state(length as usize);
            bench.keep(state).when("state")?;
            let instruction = naming(&state, instruction(thread, message.len(), &at));
            bench.instruct(instruction).when("instruction")?;
            self.client.write_all(&message).when("send")?;
            let expected = with_lines_and(&message, &[298], &line);
            receive(&mut self.server, &expected, "a state beside a header")?;
        }
        let (state, line) = state(100);
        bench.keep(state).when("state")?;
        let two = [request(300, 0), request(200, 10)].concat();
        let places = [298, 498];
        let at = places.map(|at| (at, Action::Insert));
        let both = naming(&state, instruction(thread, two.len(), &at));
        bench.instruct(both).when("instruction")?;
        self.client.write_all(&two).when("send")?;
        let expected = with_lines_and(&two, &places, &line);
        receive(&mut self.server, &expected, "a state in two requests")?;

        let at = [(298, Action::Insert)];
        let torn = {
            let mut torn = state;
            torn.text[5] ^= 1;
            torn
        };
        let mut other = state;
        other.position += 1;
        other.seal = other.seal_of();
        for replaced in [torn, other] {
            bench.keep(replaced).when("state")?;
            let instruction = naming(&state, instruction(thread, message.len(), &at));
            bench.instruct(instruction).when("instruction")?;
            self.client.write_all(&message).when("send")?;
            let expected = with_lines(&message, &[298]);
            receive(&mut self.server, &expected, "a state that was replaced")?;
        }
        Ok(())
    }
}

/// A state whose line has this length, and the line.
fn state(length: usize) -> (KeptState, Vec<u8>) {
    let line = [b"tracestate: ", &pattern(length - 14)[..], b"\r\n"].concat();
    let mut state = KeptState {
        connection: 7,
        position: 100,
        length: length as u64,
        ..KeptState::default()
    };
    for (word, bytes) in state.text.iter_mut().zip(line.chunks(8)) {
        let mut padded = [0; 8];
        padded[..bytes.len()].copy_from_slice(bytes);
        *word = u64::from_le_bytes(padded);
    }
    state.seal = state.seal_of();
    (state, line)
}

/// With the line in every slot.
fn naming(state: &KeptState, injection: Injection) -> Injection {
    Injection {
        state_sk: 0,
        state_connection: state.connection,
        state_position: state.position,
        state_length: state.length as u32,
        state_slots: (1 << injection.count) - 1,
        ..injection
    }
}
