//! Recordings written and read back, cut and damaged.

use std::{borrow::Cow, os::unix::fs::PermissionsExt};

use agent_common::abi::{Kind, LiveRequest, StreamState};
use proptest::prelude::*;
use zerocopy::IntoBytes;

use super::*;
use crate::{
    event::{ClockPair, Event, Input, decode::tests::record},
    process::{ProcessFacts, ProcessKey, Resource},
    telemetry::Counters,
};

fn description(payload_stripped: bool) -> Description {
    Description::of_this_machine(vec![("O_SOCKET_SK".to_owned(), 24)], payload_stripped)
}

fn facts() -> ProcessFacts {
    ProcessFacts {
        key: ProcessKey {
            tgid: 42,
            start_ns: 7,
        },
        resource: Resource::new(vec![(Cow::Borrowed("service.name"), "shop".to_owned())]),
    }
}

fn live() -> LiveRequest {
    LiveRequest {
        socket: 1,
        connection: 2,
        found: 1,
        sent: StreamState {
            position: 3,
            last_time_ns: 4,
            tail: *b"0123456789abcdef",
        },
        received: StreamState::default(),
    }
}

const PAIR: ClockPair = ClockPair {
    monotonic_ns: 11,
    unix_ns: 12,
};

/// One of everything.
fn sample(payload_stripped: bool) -> Vec<u8> {
    let mut recorder =
        Recorder::begin(Vec::new(), &description(payload_stripped)).expect("a Vec takes all");
    let segment = record(Kind::Segment, b"fill", b"GET /secret HTTP/1.1\r\n");
    let close = record(Kind::Close, b"fill", b"");
    let written = [
        recorder.clock(PAIR),
        recorder.process(&facts()),
        recorder.record(segment.bytes()),
        recorder.live(&[live(), live()]),
        recorder.record(close.bytes()),
        recorder.tick(99),
    ];
    assert!(written.iter().all(Result::is_ok));
    recorder.finish().expect("a Vec takes all")
}

/// What a replay pushes, as text, and how it ended.
fn replayed(bytes: &[u8]) -> Result<(Vec<String>, Replayed), RecordingError> {
    let mut recording = Recording::begin(bytes, "file".to_owned())?;
    let mut pushed = Vec::new();
    let counters = Counters::default();
    let ended = replay(&mut recording, &counters, |input| {
        pushed.push(match input {
            Input::Event(Event::Segment(segment, payload)) => {
                format!("{segment:?} {}", payload.escape_ascii())
            }
            other => format!("{other:?}"),
        });
    })?;
    Ok((pushed, ended))
}

#[test]
fn gives_back_everything_in_order() {
    let (pushed, ended) = replayed(&sample(false)).expect("a good recording");
    assert!(ended.stopped_by.is_none());
    assert_eq!(ended.entries, 6);
    let expected = [
        format!("{:?}", Input::Clock(PAIR)),
        format!("{:?}", Input::Process(&facts())),
        "GET /secret HTTP/1.1\\r\\n".to_owned(),
        format!("{:?}", Input::Live(&[live(), live()])),
        "Close".to_owned(),
        format!("{:?}", Input::Tick(99)),
    ];
    assert_eq!(pushed.len(), expected.len());
    for (pushed, expected) in pushed.iter().zip(&expected) {
        assert!(pushed.contains(expected.as_str()), "{pushed} {expected}");
    }
}

#[test]
fn keeps_records_byte_for_byte() {
    let segment = record(Kind::Segment, b"fill", b"payload");
    let mut recorder = Recorder::begin(Vec::new(), &description(false)).expect("a Vec takes all");
    recorder.record(segment.bytes()).expect("a Vec takes all");
    let bytes = recorder.finish().expect("a Vec takes all");
    let mut recording = Recording::begin(&bytes[..], "file".to_owned()).expect("good");
    assert_eq!(recording.description(), &description(false));
    let Some(Entry::Record(read)) = recording.next_entry().expect("complete") else {
        panic!("a record was written");
    };
    assert_eq!(read, segment.bytes());
}

#[test]
fn strips_every_payload_byte_and_keeps_lengths() {
    let whole = sample(false);
    let stripped = sample(true);
    let contains = |bytes: &[u8], text: &[u8]| bytes.windows(text.len()).any(|part| part == text);
    for secret in [&b"secret"[..], b"0123456789abcdef"] {
        assert!(contains(&whole, secret));
        assert!(!contains(&stripped, secret));
    }
    let (pushed, ended) = replayed(&stripped).expect("a good recording");
    assert_eq!(ended.entries, 6);
    let blank = "\\x00".repeat(b"GET /secret HTTP/1.1\r\n".len());
    assert!(pushed[2].ends_with(&blank), "{}", pushed[2]);
    assert!(pushed[2].contains("captured: 22"), "{}", pushed[2]);
    let blank_tail = format!("tail: {:?}", [0_u8; 16]);
    assert_eq!(pushed[4].matches(&blank_tail).count(), 2, "{}", pushed[4]);
}

#[test]
fn strips_records_that_it_does_not_know() {
    let mut unknown = record(Kind::Fork, b"secret", b"").bytes().to_vec();
    unknown[0..2].copy_from_slice(&999_u16.to_ne_bytes());
    let mut recorder = Recorder::begin(Vec::new(), &description(true)).expect("a Vec takes all");
    recorder.record(&unknown).expect("a Vec takes all");
    recorder.record(b"secret").expect("a Vec takes all");
    let bytes = recorder.finish().expect("a Vec takes all");
    let header = size_of::<agent_common::abi::Header>();
    let mut recording = Recording::begin(&bytes[..], "file".to_owned()).expect("good");
    let Some(Entry::Record(read)) = recording.next_entry().expect("complete") else {
        panic!("a record was written");
    };
    assert_eq!(&read[..header], &unknown[..header]);
    assert!(read[header..].iter().all(|byte| *byte == 0));
    let Some(Entry::Record(read)) = recording.next_entry().expect("complete") else {
        panic!("a record was written");
    };
    assert_eq!(read, [0; 6]);
}

#[test]
fn uses_every_complete_chunk_of_a_cut_file() {
    let whole = sample(false);
    let (all, _) = replayed(&whole).expect("a good recording");
    let mut seen = 0;
    for length in 0..whole.len() {
        match replayed(&whole[..length]) {
            Ok((pushed, ended)) => {
                assert_eq!(pushed, all[..pushed.len()]);
                assert!(pushed.len() >= seen);
                seen = pushed.len();
                let Some(RecordingError::Truncated { offset, .. }) = ended.stopped_by else {
                    panic!("{length} bytes are not the whole file: {ended:?}");
                };
                assert!(offset <= length as u64);
            }
            Err(error) => assert!(
                matches!(
                    error,
                    RecordingError::NotARecording { .. } | RecordingError::Damaged { .. }
                ),
                "{error}"
            ),
        }
    }
    assert_eq!(seen, all.len());
}

#[test]
fn refuses_another_version_in_one_sentence() {
    let mut bytes = sample(false);
    bytes[8..10].copy_from_slice(&77_u16.to_le_bytes());
    let error = replayed(&bytes).expect_err("another version");
    let sentence = error.to_string();
    assert!(sentence.contains("file was recorded with ABI version 77.1"));
    assert!(sentence.contains("replay it with the version that recorded it"));
    assert_eq!(sentence.lines().count(), 1);
}

#[test]
fn refuses_a_file_that_is_something_else() {
    for bytes in [
        &b""[..],
        b"short",
        b"\x7fELF\x02\x01\x01\0 and so on, for a while",
    ] {
        let error = replayed(bytes).expect_err("no recording");
        assert_eq!(
            error.to_string(),
            "file is not a recording of undertrace: give a file that `undertrace record` wrote"
        );
    }
}

#[test]
fn notices_missing_chunks() {
    let mut recorder = Recorder::begin(Vec::new(), &description(false)).expect("a Vec takes all");
    let header = recorder.tick(1).map(|()| 16).expect("a Vec takes all");
    recorder.tick(2).expect("a Vec takes all");
    let mut bytes = recorder.finish().expect("a Vec takes all");
    let ticks = bytes.len() - 3 * header;
    bytes.drain(ticks..ticks + header);
    let (pushed, ended) = replayed(&bytes).expect("the beginning is good");
    assert_eq!(pushed, ["Tick(2)"]);
    let sentence = ended.stopped_by.map(|error| error.to_string());
    assert!(sentence.is_some_and(|sentence| sentence.ends_with("chunks are missing")));
}

#[test]
fn makes_a_file_that_only_its_owner_reads_and_overwrites_none() {
    let folder = std::env::temp_dir().join(format!("undertrace-recording-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a temporary folder");
    let path = folder.join("recording");
    let recorder = Recorder::create(&path, &description(false)).expect("a new file");
    drop(recorder.finish().expect("room on the disk"));
    let mode = std::fs::metadata(&path).expect("it is there").permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    let again = Recorder::create(&path, &description(false));
    assert!(matches!(again, Err(RecordingError::Create { .. })));
    let mut recording = Recording::open(&path).expect("it was just written");
    assert!(recording.next_entry().expect("complete").is_none());
    std::fs::remove_dir_all(&folder).expect("it is ours");
}

proptest! {
    #[test]
    fn survives_damage(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = sample(false);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok((pushed, ended)) = replayed(&bytes) {
            prop_assert!(pushed.len() as u64 <= ended.entries);
            prop_assert!(ended.entries <= 6);
        }
    }

    #[test]
    fn survives_any_chunks(chunks in prop::collection::vec(any::<[u32; 4]>(), 0..40)) {
        let mut bytes = Recorder::begin(Vec::new(), &description(false))
            .and_then(Recorder::finish)
            .expect("a Vec takes all");
        bytes.truncate(bytes.len() - 16);
        for mut chunk in chunks {
            chunk[0] %= 8;
            chunk[1] %= 16;
            bytes.extend_from_slice(chunk.as_bytes());
        }
        let (pushed, ended) = replayed(&bytes).expect("the beginning is good");
        prop_assert!(pushed.len() as u64 <= ended.entries);
    }
}
