//! Asks the kernel where idle connections are.
//!
//! Input: (socket, connection) pairs. Output: how far each direction is, by one run of the program `live_positions` for up to 64 of them.
//! Nothing is added to the path of a send.

use agent_common::abi::{LIVE_BATCH, LiveRequest};
use aya::{
    Ebpf,
    maps::{Array, MapData, MapError},
    programs::{Program, ProgramError, RawTracePointRunOptions, TestRun},
};
use zerocopy::transmute;

use super::{attach::Attached, error::ProbeError, maps};

const PROGRAM: &str = "live_positions";

/// [`LiveRequest`] as plain words.
type Words = [u64; size_of::<LiveRequest>() / 8];

/// The map through which questions and answers go.
pub struct LivePositions {
    requests: Array<MapData, Words>,
    answers: Vec<LiveRequest>,
}

impl Attached {
    /// Takes the map out; a second call fails.
    ///
    /// # Errors
    /// When the object lacks it, or has it with another value.
    pub fn take_live_positions(&mut self) -> Result<LivePositions, ProbeError> {
        Ok(LivePositions {
            requests: maps::take(&mut self.ebpf, "LIVE")?,
            answers: Vec::new(),
        })
    }

    /// Answers for as many questions as there are; see [`LiveRequest`].
    ///
    /// # Errors
    /// When a system call fails.
    pub fn live_positions<'a>(
        &self,
        live: &'a mut LivePositions,
        questions: &[LiveRequest],
    ) -> Result<&'a [LiveRequest], ProbeError> {
        live.answers.clear();
        for batch in questions.chunks(LIVE_BATCH as usize) {
            live.ask(batch).map_err(map_error)?;
            run(&self.ebpf).map_err(|source| ProbeError::Run {
                program: PROGRAM,
                source,
            })?;
            live.collect(batch.len()).map_err(map_error)?;
        }
        Ok(&live.answers)
    }
}

impl LivePositions {
    fn ask(&mut self, questions: &[LiveRequest]) -> Result<(), MapError> {
        // A socket of 0 ends a batch that does not fill the map.
        let end = LiveRequest::default();
        let questions = questions
            .iter()
            .copied()
            .chain([end])
            .take(LIVE_BATCH as usize);
        for (index, question) in (0..).zip(questions) {
            let words: Words = transmute!(question);
            self.requests.set(index, words, 0)?;
        }
        Ok(())
    }

    fn collect(&mut self, count: usize) -> Result<(), MapError> {
        for index in (0..).take(count) {
            let words: Words = self.requests.get(&index, 0)?;
            self.answers.push(transmute!(words));
        }
        Ok(())
    }
}

fn run(ebpf: &Ebpf) -> Result<(), ProgramError> {
    match ebpf.program(PROGRAM) {
        Some(Program::RawTracePoint(program)) => program
            .test_run(RawTracePointRunOptions::new())
            .map(|_result| ()),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

fn map_error(source: MapError) -> ProbeError {
    ProbeError::Map {
        name: "LIVE",
        source: Some(source),
    }
}
