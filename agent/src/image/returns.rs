//! Where a function returns.
//!
//! Input: the machine code of one function. Output: the places of its return instructions. A probe on each of them sees results without
//! an altered return address, which a runtime that moves stacks (Go) does not survive.
//!
//! On x86-64 instructions are found by decoding from the first one on, with a decoder, since a byte that looks like a return is mostly a
//! part of another instruction: a probe there would destroy it. What the decoder does not know makes the whole function unknown. On
//! AArch64 each word is one instruction, and returns are told by a mask.

use super::Machine;

/// Bytes of a function that are looked at; the largest one that is wanted (`crypto/tls.(*Conn).Write`) has 2 KB.
pub const MAX_CODE: usize = 64 << 10;
/// Returns of a function; each will be a probe.
const MAX_RETURNS: usize = 64;

/// Why a function's returns are not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReturnsError {
    /// Instructions of this machine are not known.
    #[error("machine code for this processor is not known")]
    Machine,
    /// An instruction is not known, or goes on behind the function's end.
    #[error("its machine code is not understood")]
    Code,
    /// It does not return, or in more places than any real one.
    #[error("it has no return instruction, or too many")]
    Count,
}

/// Distances of the return instructions from the function's first byte, ascending.
///
/// # Errors
/// When it cannot be told for certain where they are.
pub fn find(machine: Machine, code: &[u8]) -> Result<Vec<u64>, ReturnsError> {
    let returns = match machine {
        Machine::X86_64 => x86_64(code)?,
        Machine::Aarch64 => aarch64(code)?,
        Machine::Other => return Err(ReturnsError::Machine),
    };
    if returns.is_empty() || returns.len() > MAX_RETURNS {
        return Err(ReturnsError::Count);
    }
    Ok(returns)
}

fn x86_64(code: &[u8]) -> Result<Vec<u64>, ReturnsError> {
    use iced_x86::{Code, Decoder, DecoderOptions, Instruction};
    let mut decoder = Decoder::with_ip(64, code, 0, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    let mut returns = Vec::new();
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        match instruction.code() {
            Code::INVALID => return Err(ReturnsError::Code),
            Code::Retnq | Code::Retnq_imm16 => returns.push(instruction.ip()),
            _ => {}
        }
    }
    Ok(returns)
}

fn aarch64(code: &[u8]) -> Result<Vec<u64>, ReturnsError> {
    let (words, []) = code.as_chunks::<4>() else {
        return Err(ReturnsError::Code);
    };
    // RET {Xn}: 1101011 0 0 10 11111 0000 0 0 Rn 00000 (Arm ARM, C6.2).
    let is_return = |word: &[u8; 4]| u32::from_le_bytes(*word) & 0xffff_fc1f == 0xd65f_0000;
    let places = (0..).step_by(4).zip(words);
    Ok(places
        .filter_map(|(at, word)| is_return(word).then_some(at))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_returns_from_bytes_that_look_like_one() {
        // mov eax, 0xc3c3c3c3; add rsp, 0xc3; ret; int3; ret 8
        let code = [
            0xb8, 0xc3, 0xc3, 0xc3, 0xc3, 0x48, 0x81, 0xc4, 0xc3, 0, 0, 0, 0xc3, 0xcc, 0xc2, 8, 0,
        ];
        assert_eq!(find(Machine::X86_64, &code), Ok(vec![12, 14]));
    }

    #[test]
    fn knows_nothing_of_a_function_that_it_cannot_decode() {
        // 0x06 (push es) is no instruction in 64-bit mode.
        assert_eq!(
            find(Machine::X86_64, &[0x06, 0xc3]),
            Err(ReturnsError::Code)
        );
        // The last instruction is cut.
        let cut = [0xc3, 0xb8, 1, 2];
        assert_eq!(find(Machine::X86_64, &cut), Err(ReturnsError::Code));
        assert_eq!(find(Machine::X86_64, &[0x90]), Err(ReturnsError::Count));
        assert_eq!(find(Machine::X86_64, &[]), Err(ReturnsError::Count));
        let many = [0xc3; MAX_RETURNS + 1];
        assert_eq!(find(Machine::X86_64, &many), Err(ReturnsError::Count));
        assert_eq!(find(Machine::Other, &[0xc3]), Err(ReturnsError::Machine));
    }

    #[test]
    fn knows_returns_of_the_other_machine() {
        let words = [0xd503_201f_u32, 0xd65f_03c0, 0xd61f_0000, 0xd65f_0200];
        let code: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(find(Machine::Aarch64, &code), Ok(vec![4, 12]));
        assert_eq!(find(Machine::Aarch64, &code[1..]), Err(ReturnsError::Code));
    }
}
