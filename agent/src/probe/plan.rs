//! Which hooks are used on this kernel, and why the others are not.
//!
//! Input: the table of hooks, the kernel's BTF, and what the user switched off. Output: a [`Plan`]. It is pure; what only loading and
//! attaching can tell is added to the plan by [`loader`](super::loader) and [`attach`](super::attach), with the same reasons.

use serde::Serialize;

use super::hooks::{Feature, HOOKS, Hook, UNREAD};
use crate::kernel::btf::Btf;

/// What becomes of each hook.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Every hook of the table, in its order.
    pub entries: Vec<Entry>,
}

/// What becomes of one hook.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The hook.
    pub hook: Hook,
    /// Used or not.
    pub state: State,
}

/// Whether a hook is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// It fits this kernel; after loading and attaching: it works.
    Chosen,
    /// It is not used.
    Off {
        /// Why not.
        #[serde(flatten)]
        reason: Reason,
    },
}

/// Why a hook is not used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Reason {
    /// The kernel has no such function, or compiled it into its callers.
    #[error("this kernel has no function {function}")]
    NoFunction {
        /// The function.
        function: String,
    },
    /// The function takes other arguments than the program reads.
    #[error("the function takes ({found}), the program reads ({expected})")]
    Prototype {
        /// Its argument types in this kernel.
        found: String,
        /// Those written beside the hook.
        expected: String,
    },
    /// Another program does the same work.
    #[error("{program} does its work")]
    Replaced {
        /// That program.
        program: String,
    },
    /// The kernel gives no occasion for it.
    #[error("not needed: this kernel does not preempt tasks in the kernel")]
    NotNeeded,
    /// What the function was called for passes another hook on this kernel.
    #[error("not needed: on this kernel {function} sees all of it")]
    Covered {
        /// The function of that hook.
        function: &'static str,
    },
    /// The user switched the feature off.
    #[error("switched off by configuration")]
    SwitchedOff,
    /// Another hook of the same feature does not work, and half a feature misleads.
    #[error("of no use without {program}")]
    Incomplete {
        /// The program that does not work.
        program: String,
    },
    /// The object has no such program.
    #[error("the object has no such program of that type")]
    NotInObject,
    /// The kernel did not load the program.
    #[error("the kernel refused to load it ({error}){}", log.last().map(|line| format!(": {line}")).unwrap_or_default())]
    Refused {
        /// What the system call said.
        error: String,
        /// The last lines of the verifier's log.
        log: Vec<String>,
    },
    /// The kernel did not attach the program.
    #[error("the kernel refused to attach it ({error})")]
    NotAttached {
        /// What the system call said.
        error: String,
    },
}

impl Plan {
    /// Decides from the kernel's types which hooks fit; features in `switched_off` are left out.
    #[must_use]
    pub fn new(btf: &Btf<'_>, switched_off: &[Feature]) -> Self {
        Self::from_hooks(HOOKS, switched_off, |function| {
            btf.function(function).map(|prototype| prototype.args)
        })
    }

    /// Without the hooks of a feature that this kernel gives no occasion for.
    #[must_use]
    pub fn without(mut self, feature: Feature) -> Self {
        let entries = self.entries.iter_mut();
        for entry in entries.filter(|entry| entry.hook.feature == feature && entry.is_chosen()) {
            entry.state = State::Off {
                reason: Reason::NotNeeded,
            };
        }
        self
    }

    /// Whether this kernel gives occasion for the feature.
    #[must_use]
    pub fn needs(&self, feature: Feature) -> bool {
        let not_needed = |entry: &Entry| entry.reason() == Some(&Reason::NotNeeded);
        !self.of(feature).any(not_needed) && !self.of(feature).all(Entry::is_covered)
    }

    /// As [`Plan::new`], from any table and any source of argument types.
    fn from_hooks(
        hooks: &[Hook],
        switched_off: &[Feature],
        arguments_of: impl Fn(&str) -> Option<Vec<String>>,
    ) -> Self {
        let judged = |hook: &Hook| {
            let state = if switched_off.contains(&hook.feature) {
                State::Off {
                    reason: Reason::SwitchedOff,
                }
            } else {
                judge(hook, &arguments_of)
            };
            Entry { hook: *hook, state }
        };
        let mut plan = Self {
            entries: hooks.iter().map(judged).collect(),
        };
        plan.settle();
        plan
    }

    /// Entries that are used, in the order in which they are attached.
    #[must_use]
    pub fn chosen(&self) -> Vec<Hook> {
        let chosen = self.entries.iter().filter(|entry| entry.is_chosen());
        let mut chosen: Vec<Hook> = chosen.map(|entry| entry.hook).collect();
        chosen.sort_by_key(|hook| hook.stage);
        chosen
    }

    /// Notes that a program does not work; what depends on it goes, and what was waiting to replace it comes.
    pub fn turn_off(&mut self, program: &str, reason: Reason) {
        let entry = self
            .entries
            .iter_mut()
            .find(|entry| entry.hook.program == program);
        if let Some(entry) = entry {
            entry.state = State::Off { reason };
        }
        self.settle();
    }

    /// Whether all of the feature's work is done by some hook.
    #[must_use]
    pub fn offers(&self, feature: Feature) -> bool {
        self.failing(feature).is_none() && self.of(feature).any(Entry::is_chosen)
    }

    /// Why a feature is off: the first of its hooks that does not work, with a reason of its own.
    #[must_use]
    pub fn why_off(&self, feature: Feature) -> Option<(&'static str, &Reason)> {
        let entry = self.failing(feature)?;
        entry.reason().map(|reason| (entry.hook.program, reason))
    }

    /// The first required feature that is off.
    #[must_use]
    pub fn required_but_off(&self) -> Option<Feature> {
        let mut required = Feature::ALL.iter().filter(|feature| feature.is_required());
        required.find(|feature| !self.offers(**feature)).copied()
    }

    fn of(&self, feature: Feature) -> impl Iterator<Item = &Entry> {
        self.entries
            .iter()
            .filter(move |entry| entry.hook.feature == feature)
    }

    /// The entry that keeps a feature from working: off for a reason of its own, with nobody in its place.
    fn failing(&self, feature: Feature) -> Option<&Entry> {
        self.of(feature).find(|entry| {
            let own = entry.reason().is_some_and(|reason| {
                !matches!(reason, Reason::Replaced { .. } | Reason::Incomplete { .. })
            }) && !entry.is_covered();
            let role = entry.hook.role();
            own && !self
                .of(feature)
                .any(|other| other.hook.role() == role && other.can_be_used())
        })
    }

    /// Gives each role to the first hook that can take it, then closes features that have a role without one.
    fn settle(&mut self) {
        for at in 0..self.entries.len() {
            if !self.entries[at].can_be_used() {
                continue;
            }
            let role = self.entries[at].hook.role();
            let taken = self.entries[..at]
                .iter()
                .find(|entry| entry.hook.role() == role && entry.can_be_used())
                .map(|entry| entry.hook.program.to_owned());
            self.entries[at].state = match taken {
                Some(program) => State::Off {
                    reason: Reason::Replaced { program },
                },
                None => State::Chosen,
            };
        }
        let whole = Feature::ALL
            .iter()
            .filter(|feature| !feature.is_separable());
        for feature in whole {
            let Some(program) = self.failing(*feature).map(|entry| entry.hook.program) else {
                continue;
            };
            let others = self
                .entries
                .iter_mut()
                .filter(|entry| entry.hook.feature == *feature && entry.is_chosen());
            for entry in others {
                entry.state = State::Off {
                    reason: Reason::Incomplete {
                        program: program.to_owned(),
                    },
                };
            }
        }
    }
}

impl Entry {
    /// Whether it is used.
    #[must_use]
    pub fn is_chosen(&self) -> bool {
        self.state == State::Chosen
    }

    /// Why it is not used.
    #[must_use]
    pub fn reason(&self) -> Option<&Reason> {
        match &self.state {
            State::Chosen => None,
            State::Off { reason } => Some(reason),
        }
    }

    /// Not missed by anybody.
    fn is_covered(&self) -> bool {
        matches!(self.reason(), Some(Reason::Covered { .. }))
    }

    /// Chosen, or only standing back for another one.
    fn can_be_used(&self) -> bool {
        self.reason()
            .is_none_or(|reason| matches!(reason, Reason::Replaced { .. }))
    }
}

fn judge(hook: &Hook, arguments_of: &impl Fn(&str) -> Option<Vec<String>>) -> State {
    let Some(function) = hook.attach.function() else {
        return State::Chosen;
    };
    let Some(found) = arguments_of(function) else {
        let gone = hook
            .until
            .filter(|until| arguments_of(until.function).is_some());
        let reason = match gone {
            Some(until) => Reason::Covered {
                function: until.through,
            },
            None => Reason::NoFunction {
                function: function.to_owned(),
            },
        };
        return State::Off { reason };
    };
    if hook.arguments.is_empty() || fits(&found, hook.arguments) {
        return State::Chosen;
    }
    State::Off {
        reason: Reason::Prototype {
            found: found.join(", "),
            expected: hook.arguments.join(", "),
        },
    }
}

/// Whether a function takes these arguments; [`UNREAD`] stands for any type.
fn fits(found: &[String], expected: &[&str]) -> bool {
    let same = |(found, expected): (&String, &&str)| *expected == UNREAD || found == expected;
    found.len() == expected.len() && found.iter().zip(expected).all(same)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
