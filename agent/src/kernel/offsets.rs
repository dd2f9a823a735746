//! Resolves the table of kernel struct members against one kernel's BTF.
//!
//! Input: [`Btf`] and the table of `agent_common::kernel_fields`. Output: [`Offsets`], one `u32` for each global of the
//! kernel programs. It does not touch the programs; the loader writes the values into their read-only globals.

use agent_common::kernel_fields::{ABSENT, ENUM_VALUES, FIELDS, WIDTHS, globals};
use serde::{Deserialize, Serialize};

use super::btf::{Btf, LookupError, Member};

/// A value for every global of the kernel programs, and what this kernel lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Stored", try_from = "Stored")]
pub struct Offsets {
    /// (name of the global, its value), in the order of the table; [`ABSENT`] where this kernel has nothing.
    pub globals: Vec<(&'static str, u32)>,
    /// The entries that are [`ABSENT`], each with its reason; empty after a recording was read back.
    pub missing: Vec<Missing>,
}

/// An entry of the table that this kernel does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Name of the global.
    pub global: &'static str,
    /// What was looked for, as C spells it: `struct iov_iter.ubuf`.
    pub member: String,
    /// Why it has no answer.
    pub reason: Refusal,
}

/// Why a member has no usable offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// BTF does not tell.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// The programs read another width: its offset would be right and its value wrong.
    #[error("it is {found} bytes wide, the programs read {expected}")]
    Width {
        /// Width in this kernel, in bytes.
        found: u32,
        /// Width in the table, in bytes.
        expected: u32,
    },
    /// A value that a 32-bit global cannot hold.
    #[error("its value {value} does not fit")]
    Value {
        /// The enumerator's value.
        value: u64,
    },
}

/// The kernel cannot be observed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OffsetsError {
    /// A member without which nothing can be read is not there.
    #[error(
        "kernel type information has no usable {member} ({reason}): this kernel is not supported, \
         please report `uname -a` and the output of `undertrace doctor`"
    )]
    Required {
        /// Name of the global that stays without a value.
        global: &'static str,
        /// What was looked for, as C spells it.
        member: String,
        /// Why it has no answer.
        reason: Refusal,
    },
    /// A recording names a global that this version does not have.
    #[error("offset {global} of the recording is not known to this version")]
    UnknownGlobal {
        /// The name as it was stored.
        global: String,
    },
}

impl Offsets {
    /// Looks every entry of the table up.
    ///
    /// # Errors
    /// When a required member is not there.
    pub fn resolve(btf: &Btf<'_>) -> Result<Self, OffsetsError> {
        let mut offsets = Self {
            globals: Vec::new(),
            missing: Vec::new(),
        };
        for field in FIELDS {
            let found = first(btf, field.candidates).and_then(|member| {
                let right = field.bytes == 0 || field.bytes == member.bytes;
                let refusal = Refusal::Width {
                    found: member.bytes,
                    expected: field.bytes,
                };
                if right {
                    Ok(member.offset)
                } else {
                    Err(refusal)
                }
            });
            offsets.note(
                field.global,
                &|| spelled(field.candidates),
                field.required,
                found,
            )?;
        }
        for value in ENUM_VALUES {
            let found = btf
                .enumerator(value.enumeration, value.enumerator)
                .map_err(Refusal::from);
            let found = found.and_then(|value| {
                let narrow = u32::try_from(value).ok().filter(|value| *value != ABSENT);
                narrow.ok_or(Refusal::Value { value })
            });
            let member = || format!("enum {} {}", value.enumeration, value.enumerator);
            offsets.note(value.global, &member, value.required, found)?;
        }
        for width in WIDTHS {
            let found = first(btf, width.candidates).map(|member| member.bytes);
            offsets.note(
                width.global,
                &|| spelled(width.candidates),
                width.required,
                found,
            )?;
        }
        Ok(offsets)
    }

    /// Value of the global `name`; `None` where this kernel has none.
    pub fn get(&self, name: &str) -> Option<u32> {
        let found = self.globals.iter().find(|(global, _)| *global == name)?.1;
        (found != ABSENT).then_some(found)
    }

    fn note(
        &mut self,
        global: &'static str,
        member: &dyn Fn() -> String,
        required: bool,
        found: Result<u32, Refusal>,
    ) -> Result<(), OffsetsError> {
        match found {
            Ok(value) => self.globals.push((global, value)),
            Err(reason) if required => {
                return Err(OffsetsError::Required {
                    global,
                    member: member(),
                    reason,
                });
            }
            Err(reason) => {
                self.globals.push((global, ABSENT));
                self.missing.push(Missing {
                    global,
                    member: member(),
                    reason,
                });
            }
        }
        Ok(())
    }
}

/// The first candidate that is there. One that is there and unusable is not passed over for a later one: the later
/// ones are names of other kernels.
fn first(btf: &Btf<'_>, candidates: &[(&str, &str)]) -> Result<Member, Refusal> {
    let mut refusal = LookupError::NoType;
    for (structure, path) in candidates {
        match btf.member(structure, path) {
            Err(LookupError::NoMember) => refusal = LookupError::NoMember,
            Err(LookupError::NoType) => {}
            found => return found.map_err(Refusal::from),
        }
    }
    Err(refusal.into())
}

/// `struct iov_iter.__iov, struct iov_iter.iov`.
fn spelled(candidates: &[(&str, &str)]) -> String {
    let spelled = candidates
        .iter()
        .map(|(structure, path)| format!("struct {structure}.{path}"));
    spelled.collect::<Vec<_>>().join(", ")
}

/// The form in a recording: names and values only.
#[derive(Serialize, Deserialize)]
struct Stored(Vec<(String, u32)>);

impl From<Offsets> for Stored {
    fn from(offsets: Offsets) -> Self {
        Self(
            offsets
                .globals
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        )
    }
}

impl TryFrom<Stored> for Offsets {
    type Error = OffsetsError;

    fn try_from(stored: Stored) -> Result<Self, OffsetsError> {
        let known = |(name, value): (String, u32)| match globals().find(|global| **global == name) {
            Some(global) => Ok((global, value)),
            None => Err(OffsetsError::UnknownGlobal { global: name }),
        };
        Ok(Self {
            globals: stored.0.into_iter().map(known).collect::<Result<_, _>>()?,
            missing: Vec::new(),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::kernel::btf::tests::Encoder;

    /// The smallest kernel that has every required member and nothing else. `change` may alter (struct, member, width).
    pub(crate) fn kernel(change: impl Fn(&mut (&'static str, &'static str, u32))) -> Vec<u8> {
        let required = FIELDS.iter().filter(|field| field.required);
        let members = required.map(|field| {
            let (structure, path) = field.candidates[0];
            let mut member = (structure, path, field.bytes.max(1));
            change(&mut member);
            member
        });
        let members: Vec<_> = members.collect();
        let mut to = Encoder::new();
        for (position, (structure, ..)) in members.iter().enumerate() {
            if members[..position]
                .iter()
                .any(|member| member.0 == *structure)
            {
                continue;
            }
            let own: Vec<_> = members
                .iter()
                .filter(|member| member.0 == *structure)
                .collect();
            let own: Vec<_> = own
                .iter()
                .zip((0..).step_by(64))
                .map(|(member, bits)| {
                    let width = to.int("int", member.2);
                    match member.1.split_once('.') {
                        Some((outer, inner)) => {
                            let of = to.structure("", member.2, &[(inner, width, 0)]);
                            (outer, of, bits)
                        }
                        None => (member.1, width, bits),
                    }
                })
                .collect();
            to.structure(structure, 512, &own);
        }
        to.enumeration("iter_type", &[("ITER_IOVEC", 4)]);
        to.bytes()
    }

    fn resolve(bytes: &[u8]) -> Result<Offsets, OffsetsError> {
        Offsets::resolve(&Btf::parse(bytes).expect("the encoder writes valid BTF"))
    }

    #[test]
    fn gives_every_global_a_value_and_names_what_is_absent() {
        let offsets = resolve(&kernel(|_| ())).expect("all required members are there");
        assert!(offsets.globals.iter().map(|(name, _)| *name).eq(globals()));
        assert_eq!(offsets.get("V_ITER_IOVEC"), Some(4));
        assert_eq!(offsets.get("O_IOV_ITER_IOV_OFFSET"), Some(8));
        assert_eq!(offsets.get("O_IOV_ITER_UBUF"), None);
        let ubuf = offsets
            .missing
            .iter()
            .find(|missing| missing.global == "O_IOV_ITER_UBUF");
        let ubuf = ubuf.expect("a kernel without ubuf says so");
        assert_eq!(ubuf.member, "struct iov_iter.ubuf");
        assert_eq!(ubuf.reason, Refusal::Lookup(LookupError::NoMember));
        let absent = offsets
            .globals
            .iter()
            .filter(|(_, value)| *value == ABSENT)
            .count();
        assert_eq!(absent, offsets.missing.len());
    }

    #[test]
    fn takes_the_older_name_where_the_newer_is_not_there() {
        let offsets = resolve(&kernel(|member| match member.1 {
            "iter_type" => (member.1, member.2) = ("type", 4),
            "__iov" => member.1 = "iov",
            "start_boottime" => member.1 = "real_start_time",
            _ => {}
        }));
        let offsets = offsets.expect("the older names are candidates");
        assert_eq!(offsets.get("W_ITER_TYPE"), Some(4));
        assert_eq!(offsets.get("O_IOV_ITER_IOV"), Some(24));
    }

    #[test]
    fn refuses_a_kernel_without_a_required_member() {
        let error = resolve(&kernel(|member| {
            if member.1 == "write_seq" {
                member.1 = "renamed";
            }
        }));
        let error = error.expect_err("write_seq is required").to_string();
        assert!(
            error.contains("struct tcp_sock.write_seq (no such member)"),
            "{error}"
        );
        assert!(error.contains("undertrace doctor"), "{error}");
    }

    #[test]
    fn refuses_a_member_of_another_width_than_the_programs_read() {
        let error = resolve(&kernel(|member| {
            if member.1 == "sk_protocol" {
                member.2 = 1;
            }
        }));
        let error = error
            .expect_err("one byte is not the two that are read")
            .to_string();
        assert!(
            error.contains("struct sock.sk_protocol (it is 1 bytes wide, the programs read 2)"),
            "{error}"
        );
    }

    #[test]
    fn survives_a_recording_with_its_values() {
        let offsets = resolve(&kernel(|_| ())).expect("all required members are there");
        let text = serde_json::to_string(&offsets).expect("names and numbers");
        let read: Offsets = serde_json::from_str(&text).expect("what was written");
        assert_eq!(read.globals, offsets.globals);
        let foreign = serde_json::from_str::<Offsets>(r#"[["O_FROM_THE_FUTURE", 1]]"#);
        let error = foreign
            .expect_err("the name is not in the table")
            .to_string();
        assert!(error.contains("O_FROM_THE_FUTURE"), "{error}");
    }
}
