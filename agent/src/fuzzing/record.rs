//! Records of the ring buffer, and recordings of them.

use std::sync::Arc;

use agent_common::abi::{ABI_VERSION, Header};
use zerocopy::{FromBytes as _, IntoBytes as _};

use crate::{
    event::{
        Event,
        decode::{decode, decode_counted},
        recording::{Description, Entry, Recorder, Recording, replay},
    },
    pipeline::{Pipeline, PipelineConfig},
    telemetry::Counters,
    testing,
};

/// Bytes of the chunk that ends a recording in order.
const END: usize = 16;

/// A record of the ring buffer, as it is and with the version that is read, so that what follows it is reached.
pub fn event_decode(bytes: &[u8]) -> bool {
    let mut words = vec![0_u64; bytes.len().div_ceil(8)];
    words.as_mut_bytes()[..bytes.len()].copy_from_slice(bytes);
    let record = &mut words.as_mut_bytes()[..bytes.len()];
    let taken = decoded(record);
    if let Ok((header, _)) = Header::mut_from_prefix(record) {
        header.version = ABI_VERSION;
        header.kind %= 16;
    }
    decoded(record);
    taken
}

/// A recording, and one that begins well and goes on with these bytes. It can be written again, and its replay balances.
pub fn recording(bytes: &[u8]) -> bool {
    let taken = replayed(bytes);
    let begun = Recorder::begin(Vec::new(), &description(false)).and_then(Recorder::finish);
    let mut begun = begun.expect("a Vec takes all");
    begun.truncate(begun.len() - END);
    begun.extend_from_slice(bytes);
    replayed(&begun) || taken
}

fn decoded(record: &[u8]) -> bool {
    let counters = Counters::default();
    let event = decode_counted(record, &counters);
    let refused = counters.records_malformed.get() + counters.records_unknown_kind.get();
    assert_eq!(u64::from(event.is_some()) + refused, 1);
    let blanked = through_recording(record, true);
    assert_eq!(blanked.as_bytes().len(), record.len().next_multiple_of(8));
    let blanked = &blanked.as_bytes()[..record.len()];
    assert_eq!(decode(blanked).is_ok(), event.is_some());
    let Some(event) = event else { return false };
    let encoded = testing::encoded(event);
    assert!(record.starts_with(&encoded));
    if let Ok(Event::Segment(segment, payload)) = decode(blanked) {
        assert!(payload.iter().all(|byte| *byte == 0));
        assert_eq!((segment.own.tail, segment.peer.tail), ([0; 16], [0; 16]));
    }
    let again = through_recording(record, false);
    assert_eq!(&again.as_bytes()[..record.len()], record);
    true
}

/// A record as a recording gives it back, in words so that it is aligned.
fn through_recording(record: &[u8], payload_stripped: bool) -> Vec<u64> {
    let mut recorder =
        Recorder::begin(Vec::new(), &description(payload_stripped)).expect("a Vec takes all");
    recorder
        .record(record)
        .expect("a record is shorter than a chunk");
    let bytes = recorder.finish().expect("a Vec takes all");
    let mut recording =
        Recording::begin(bytes.as_slice(), String::new()).expect("it was just written");
    let Ok(Some(Entry::Record(bytes))) = recording.next_entry() else {
        panic!("a record was written");
    };
    let mut words = vec![0_u64; bytes.len().div_ceil(8)];
    words.as_mut_bytes()[..bytes.len()].copy_from_slice(bytes);
    words
}

/// Whether these bytes are a recording that ends in order.
fn replayed(bytes: &[u8]) -> bool {
    let begin = || Recording::begin(bytes, String::new());
    let Ok(mut recording) = begin() else {
        return false;
    };
    let (entries, copy) = copied(&mut recording);
    let mut copy = Recording::begin(copy.as_slice(), String::new()).expect("it was just written");
    let (again, _) = copied(&mut copy);
    assert_eq!(entries, again);

    let counters = Arc::new(Counters::default());
    let mut pipeline = Pipeline::new(PipelineConfig::default(), Arc::clone(&counters));
    let mut pushed = 0;
    let mut recording = begin().expect("it was read before");
    let ended = replay(&mut recording, &counters, |input| {
        pipeline.push(&input);
        pushed += 1;
    });
    let ended = ended.expect("bytes in memory can be read");
    assert!(pushed <= ended.entries);
    assert_eq!(ended.entries, entries.len() as u64);
    assert_eq!(pipeline.balance(), Vec::<String>::new());
    pipeline.finish();
    pipeline.drain_spans(&mut Vec::new());
    assert_eq!(pipeline.balance(), Vec::<String>::new());
    assert_eq!(pipeline.buffered(), 0);
    ended.stopped_by.is_none()
}

/// What stands in a recording as far as it can be read, as text; and a recording of that.
fn copied(recording: &mut Recording<&[u8]>) -> (Vec<String>, Vec<u8>) {
    let description = Description {
        payload_stripped: false,
        ..recording.description().clone()
    };
    let mut copy = Recorder::begin(Vec::new(), &description).expect("it was a description before");
    let mut entries = Vec::new();
    while let Ok(Some(entry)) = recording.next_entry() {
        entries.push(format!("{entry:?}"));
        let written = match &entry {
            Entry::Record(record) => copy.record(record),
            Entry::Process(facts) => copy.process(facts),
            Entry::Clock(pair) => copy.clock(*pair),
            Entry::Live(answers) => copy.live(answers),
            Entry::Tick(now_ns) => copy.tick(*now_ns),
        };
        written.expect("it was a chunk before");
    }
    (entries, copy.finish().expect("a Vec takes all"))
}

fn description(payload_stripped: bool) -> Description {
    Description {
        agent_version: String::new(),
        kernel_release: String::new(),
        boot_id: String::new(),
        globals: Vec::new(),
        payload_stripped,
    }
}
