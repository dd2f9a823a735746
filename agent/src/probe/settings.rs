//! What the programs are told before they are loaded.
//!
//! Input: the configuration. Output: [`Settings`], values of read-only globals (agent-ebpf `globals.rs`) and sizes of maps. The verifier sees
//! the values as constants and leaves out the branches that cannot be taken.

use agent_common::{kernel_fields::ABSENT, wire::propagator::Table};

use crate::{
    config::{Config, Fault},
    kernel::offsets::Offsets,
};

/// A value for a read-only global.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// 32 bits.
    U32(u32),
    /// 64 bits.
    U64(u64),
}

/// What the programs are told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// (name of a global, its value); of two values for one name the later one counts. A global that no program reads is not in the object,
    /// which is fine.
    pub globals: Vec<(&'static str, Value)>,
    /// (name of a map, its entries, or its bytes for the ring buffer). A map that is not listed keeps the size in the object.
    pub map_sizes: Vec<(&'static str, u32)>,
    /// Headers of other propagators than `traceparent`, where there are any: the global `PROPAGATOR_FIELDS`.
    pub propagators: Option<Table>,
}

/// Bits of the global `FAULT`, agent-ebpf `globals::fault`.
const FAULTS: &[(Fault, u32)] = &[
    (Fault::RingFull, 1),
    (Fault::SocketsFull, 1 << 1),
    (Fault::ThreadsFull, 1 << 2),
    (Fault::HeadsFull, 1 << 3),
    (Fault::HandoversFull, 1 << 4),
    (Fault::ForwardsFull, 1 << 5),
    (Fault::ScratchBusy, 1 << 6),
    (Fault::Unreadable, 1 << 7),
    (Fault::WrongLink, 1 << 8),
    (Fault::NoHandover, 1 << 9),
    (Fault::NoCausality, 1 << 10),
    (Fault::InjectStale, 1 << 11),
    (Fault::BodiesMissing, 1 << 12),
    (Fault::CloseContended, 1 << 13),
    (Fault::InjectEagerly, 1 << 14),
    (Fault::StatesVanish, 1 << 15),
    (Fault::TlsCallsFull, 1 << 16),
    (Fault::TlsSessionsFull, 1 << 17),
];

/// Bytes of the ring buffer beside a reader that sleeps: what any machine fills meanwhile.
const SMALL_RING: u32 = 64 << 10;

impl Settings {
    /// Only what the kernel's layout demands; everything else stays as the object has it.
    #[must_use]
    pub fn from_offsets(offsets: &Offsets) -> Self {
        let globals = offsets.globals.iter();
        Self {
            globals: globals
                .map(|(name, value)| (*name, Value::U32(*value)))
                .collect(),
            ..Self::default()
        }
    }

    /// What the user asked for. `own_tgid` is the agent's process id in the initial pid namespace.
    #[must_use]
    pub fn from_config(config: &Config, own_tgid: u32) -> Self {
        let by_process = config.selectors.narrow_processes();
        let faults = FAULTS
            .iter()
            .filter(|(fault, _)| config.faults.contains(fault));
        let own_tgid = if config.faults.contains(&Fault::TraceOwn) {
            0
        } else {
            own_tgid
        };
        let mut settings = Self {
            globals: vec![
                ("OWN_TGID", Value::U32(own_tgid)),
                ("SELECT_UNKNOWN", Value::U32(u32::from(!by_process))),
                (
                    "PORT_FILTER",
                    Value::U32(u32::from(!config.selectors.ports.is_empty())),
                ),
                ("SAMPLE_THRESHOLD", Value::U64(config.sampler.threshold())),
                (
                    "SAMPLE_BY_PROCESS",
                    Value::U32(u32::from(!config.service_rules.is_empty())),
                ),
                (
                    "HIDE_UNSAMPLED",
                    Value::U32(u32::from(!config.faults.contains(&Fault::NothingHidden))),
                ),
                (
                    "SAMPLE_LIMITED",
                    Value::U32(u32::from(config.sample_rate.is_some())),
                ),
                (
                    "PROPAGATORS",
                    Value::U32(u32::from(config.propagators.is_some())),
                ),
                (
                    "REQUEST_LIFETIME_NS",
                    Value::U64(config.request_lifetime().as_nanos() as u64),
                ),
                (
                    "FAULT",
                    Value::U32(faults.fold(0, |all, (_, bit)| all | bit)),
                ),
            ],
            map_sizes: Vec::new(),
            propagators: config.propagators,
        };
        if config.faults.contains(&Fault::SlowReader) {
            settings.map_sizes.push(("EVENTS", SMALL_RING));
        }
        if config.service_rules.is_empty() || config.faults.contains(&Fault::RulesFull) {
            settings.map_sizes.push(("RULES", 1));
        }
        if config.faults.contains(&Fault::InjectionsFull) {
            settings.map_sizes.push(("INJECTIONS", 1));
        }
        if config.faults.contains(&Fault::StatesFull) {
            settings.map_sizes.push(("STATES", 1));
        }
        if config.faults.contains(&Fault::PacketsOpaque) {
            settings = settings.with("O_TCP_SKB_CB_SEQ", Value::U32(ABSENT));
        }
        settings
    }

    /// With one more global.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: Value) -> Self {
        self.globals.push((name, value));
        self
    }

    /// With everything in `other`, which outranks what is here.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.globals.extend(&other.globals);
        self.map_sizes.extend(&other.map_sizes);
        self.propagators = other.propagators.or(self.propagators);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layer;

    fn settings(layer: Layer) -> Settings {
        let config = Config::resolve(layer, &|_| None).expect("flags that can be used");
        Settings::from_config(&config, 42)
    }

    fn value(settings: &Settings, name: &str) -> Option<Value> {
        let mut globals = settings.globals.iter();
        globals
            .find(|(global, _)| *global == name)
            .map(|(_, value)| *value)
    }

    #[test]
    fn traces_everything_when_nothing_is_selected() {
        let settings = settings(Layer::default());
        assert_eq!(value(&settings, "SELECT_UNKNOWN"), Some(Value::U32(1)));
        assert_eq!(value(&settings, "PORT_FILTER"), Some(Value::U32(0)));
        assert_eq!(value(&settings, "SAMPLE_THRESHOLD"), Some(Value::U64(0)));
        assert_eq!(value(&settings, "OWN_TGID"), Some(Value::U32(42)));
        assert_eq!(value(&settings, "FAULT"), Some(Value::U32(0)));
        assert_eq!(value(&settings, "PROPAGATORS"), Some(Value::U32(0)));
        assert_eq!(settings.propagators, None);
    }

    #[test]
    fn tells_the_kernel_what_was_selected() {
        let by_process = settings(Layer {
            pid: vec![7],
            ..Layer::default()
        });
        assert_eq!(value(&by_process, "SELECT_UNKNOWN"), Some(Value::U32(0)));
        let by_port = settings(Layer {
            port: vec!["80".parse().expect("a port")],
            fault: vec![Fault::HeadsFull, Fault::SocketsFull],
            ..Layer::default()
        });
        assert_eq!(value(&by_port, "SELECT_UNKNOWN"), Some(Value::U32(1)));
        assert_eq!(value(&by_port, "PORT_FILTER"), Some(Value::U32(1)));
        assert_eq!(value(&by_port, "FAULT"), Some(Value::U32(0b1010)));
    }

    #[test]
    fn rules_for_services_need_room() {
        let without = settings(Layer::default());
        assert_eq!(value(&without, "SAMPLE_BY_PROCESS"), Some(Value::U32(0)));
        assert_eq!(without.map_sizes, [("RULES", 1)]);
        let with = settings(Layer {
            sample: vec!["cart=0.5".parse().expect("a rule")],
            ..Layer::default()
        });
        assert_eq!(value(&with, "SAMPLE_BY_PROCESS"), Some(Value::U32(1)));
        assert_eq!(with.map_sizes, []);
    }

    #[test]
    fn faults_of_the_tables_and_of_the_layout_need_no_program() {
        let faulty = settings(Layer {
            fault: vec![
                Fault::InjectionsFull,
                Fault::StatesFull,
                Fault::PacketsOpaque,
            ],
            ..Layer::default()
        });
        assert_eq!(
            faulty.map_sizes,
            [("RULES", 1), ("INJECTIONS", 1), ("STATES", 1)]
        );
        assert_eq!(value(&faulty, "FAULT"), Some(Value::U32(0)));
        let absent = value(&faulty, "O_TCP_SKB_CB_SEQ");
        assert_eq!(absent, Some(Value::U32(ABSENT)));
    }
}
