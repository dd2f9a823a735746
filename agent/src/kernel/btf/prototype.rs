//! Prototypes of kernel functions as BTF tells them, spelled as C does.
//!
//! Input: a function's name. Output: its argument types and return type, for comparison with the prototype that stands
//! beside a hook. It does not tell whether the function can be attached to.

use super::{Btf, Kind, Type};

/// Pointers, qualifiers and arrays in a row that are spelled out; deeper ones read `...`.
const MAX_SPELLED: usize = 16;

/// Arguments and return type of a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prototype {
    /// Type of each argument, for instance `struct msghdr *` or `size_t`; `...` for a variable rest.
    pub args: Vec<String>,
    /// Type of the result; `void` for none.
    pub returns: String,
}

impl std::fmt::Display for Prototype {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "{} ({})", self.returns, self.args.join(", "))
    }
}

impl Btf<'_> {
    /// Prototype of the function `name`; `None` when it is not there, or when functions of that name differ.
    ///
    /// That a function is here does not mean that it may be attached to; only attaching tells.
    pub fn function(&self, name: &str) -> Option<Prototype> {
        let mut agreed = None;
        for function in self
            .named(name)
            .filter(|found| found.kind == Kind::Function)
        {
            let prototype = self.prototype(self.get(function.size_or_type)?)?;
            if agreed.as_ref().is_some_and(|earlier| *earlier != prototype) {
                return None;
            }
            agreed = Some(prototype);
        }
        agreed
    }

    fn prototype(&self, found: Type<'_>) -> Option<Prototype> {
        if found.kind != Kind::Prototype {
            return None;
        }
        let args = (0..found.count).map(|index| {
            let [name, id] = found.entry(index);
            // A last parameter without name and type is C's ellipsis.
            if name == 0 && id == 0 {
                "...".to_owned()
            } else {
                self.spelling(id)
            }
        });
        Some(Prototype {
            args: args.collect(),
            returns: self.spelling(found.size_or_type),
        })
    }

    /// The type as a C programmer writes it, without the places of names inside function pointers and arrays.
    fn spelling(&self, id: u32) -> String {
        let mut id = id;
        // What stands to the right of the innermost name, and qualifiers that belong to what is still to come.
        let mut right = String::new();
        for _ in 0..MAX_SPELLED {
            let Some(found) = self.get(id) else {
                return joined(if id == 0 { "void" } else { "?" }, &right);
            };
            let name = String::from_utf8_lossy(self.name_bytes(found.name));
            match found.kind {
                Kind::Pointer => right.insert(0, '*'),
                Kind::Array => {
                    let [element, _index, count] = found.entry(0);
                    right.push_str(&format!("[{count}]"));
                    id = element;
                    continue;
                }
                Kind::Alias => match found.number {
                    8 => return joined(&name, &right),
                    9 => right.insert_str(0, " volatile "),
                    10 => right.insert_str(0, " const "),
                    11 => right.insert_str(0, " restrict "),
                    // Type tags such as `__user` say nothing about the layout.
                    _ => {}
                },
                Kind::Struct => return joined(&format!("struct {name}"), &right),
                Kind::Union => return joined(&format!("union {name}"), &right),
                Kind::Forward if found.flag => return joined(&format!("union {name}"), &right),
                Kind::Forward => return joined(&format!("struct {name}"), &right),
                Kind::Enum | Kind::Enum64 => return joined(&format!("enum {name}"), &right),
                Kind::Prototype => return joined("fn", &right),
                _ => return joined(&name, &right),
            }
            id = found.size_or_type;
        }
        joined("...", &right)
    }
}

/// `struct sock` and ` const *` make `const struct sock *`.
fn joined(base: &str, right: &str) -> String {
    let mut left = String::new();
    let mut right = right;
    // Qualifiers next to the base read better in front of it.
    while let Some((word, rest)) = ["const", "volatile", "restrict"]
        .into_iter()
        .find_map(|word| {
            right
                .trim_start()
                .strip_prefix(word)
                .map(|rest| (word, rest))
        })
    {
        left.push_str(word);
        left.push(' ');
        right = rest;
    }
    let right = right.trim();
    format!(
        "{left}{base}{}{right}",
        if right.is_empty() || right.starts_with('[') {
            ""
        } else {
            " "
        }
    )
}
