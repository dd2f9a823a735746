//! A recording through the pipeline to the outputs: no root, no clock, the same spans each time.

use std::{path::Path, sync::Arc};

use tracing::warn;

use super::{
    RunError,
    outputs::{Outputs, Printing},
};
use crate::{
    config::Config,
    event::{
        Input,
        recording::{self, Recording},
    },
    pipeline::{Pipeline, PipelineConfig},
    telemetry::Counters,
};

/// Pushes a recording through the pipeline.
///
/// # Errors
/// The recording cannot be read, or an output cannot be opened.
pub fn replay(path: &Path, config: &Config) -> Result<(), RunError> {
    let counters = Arc::new(Counters::default());
    let mut recording = Recording::open(path)?;
    let mut outputs = Outputs::open(config, &counters, Printing::Waiting)?;
    let mut pipeline = Pipeline::new(
        PipelineConfig {
            seed: super::live::seed_of(&recording.description().globals),
            sampling_threshold: config.sampler.threshold(),
            service_rules: config.service_rules.clone(),
            response_timeout: config.request_lifetime(),
            trusted: config.trust_context.clone(),
            record_query: config.query,
            parsers: super::live::parser_config(config),
            trace_otlp_exports: config.otlp_exports,
            ..PipelineConfig::default()
        },
        Arc::clone(&counters),
    );
    let mut spans = Vec::new();
    let replayed = recording::replay(&mut recording, &counters, |input| {
        pipeline.push(&input);
        pipeline.drain_spans(&mut spans);
        if !spans.is_empty() {
            outputs.push(std::mem::take(&mut spans));
        }
        if let Input::Tick(now_ns) = input {
            outputs.tick(now_ns);
        }
    })?;
    if let Some(error) = replayed.stopped_by {
        warn!(%error, "the recording was not read to its end");
    }
    pipeline.finish();
    pipeline.drain_spans(&mut spans);
    outputs.push(spans);
    let discrepancies = pipeline.balance();
    outputs.close(discrepancies)
}

#[cfg(test)]
mod tests {
    use std::{borrow::Cow, fs, path::PathBuf};

    use agent_common::abi::{Decision, Direction, Role, Source, decision_flags};

    use super::*;
    use crate::{
        config::Layer,
        event::{
            ClockPair,
            recording::{Description, Recorder},
        },
        process::{ProcessFacts, Resource},
        testing::{PROCESS, SegmentExt, Socket},
    };

    /// A folder that goes away with the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("undertrace-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).expect("the temporary folder is writable");
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// Two requests and their responses on one connection, as a live agent would have recorded them.
    fn record(path: &Path) {
        let mut socket = Socket::open(1, Role::Server);
        for path in ["/one", "/two"] {
            socket.receive(format!("GET {path} HTTP/1.1\r\nHost: shop\r\n\r\n").as_bytes());
            socket.send(RESPONSE);
        }
        socket.close(0);
        record_sockets(path, &[socket], false);
    }

    const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

    fn record_sockets(path: &Path, sockets: &[Socket], payload_stripped: bool) {
        let description = Description::of_this_machine(
            vec![
                ("PIPELINE_SEED_LOW".to_owned(), 7),
                ("PIPELINE_SEED_HIGH".to_owned(), 9),
            ],
            payload_stripped,
        );
        let mut recorder = Recorder::create(path, &description).expect("a new file");
        let facts = ProcessFacts {
            key: PROCESS,
            resource: Resource::new(vec![(Cow::Borrowed("service.name"), "shop".to_owned())]),
        };
        let clock = ClockPair {
            monotonic_ns: 0,
            unix_ns: 1_700_000_000_000_000_000,
        };
        recorder.clock(clock).expect("written");
        recorder.process(&facts).expect("written");
        for socket in sockets {
            for record in &socket.records {
                recorder.record(&record.bytes()).expect("written");
            }
            recorder.tick(socket.now_ns).expect("written");
        }
        recorder.finish().expect("written");
    }

    fn replayed(folder: &Folder, recording: &Path, name: &str) -> (Vec<u8>, serde_json::Value) {
        let (spans, stats) = (folder.0.join(name), folder.0.join("stats.json"));
        let layer = Layer {
            file: Some(spans.clone()),
            stats_json: Some(stats.clone()),
            ..Layer::default()
        };
        let config = Config::resolve(layer, &|_| None).expect("valid");
        replay(recording, &config).expect("a replay");
        let stats = fs::read_to_string(stats).expect("statistics were written");
        (
            fs::read(spans).expect("spans were written"),
            serde_json::from_str(&stats).expect("JSON"),
        )
    }

    #[test]
    fn gives_the_same_bytes_each_time_and_balanced_books() {
        let folder = Folder::new("replay");
        let recording = folder.0.join("recording");
        record(&recording);
        let (first, stats) = replayed(&folder, &recording, "first.jsonl");
        let (second, _) = replayed(&folder, &recording, "second.jsonl");
        assert_eq!(first, second);

        let text = String::from_utf8(first).expect("JSON is UTF-8");
        assert_eq!(text.matches("\"spanId\"").count(), 2);
        assert!(text.contains("/one") && text.contains("/two") && text.contains("\"shop\""));
        assert_eq!(stats["agent"]["spans_exported"], 2);
        let balance = stats["balance"].as_array().expect("a list");
        assert!(
            balance.iter().all(|equation| equation["holds"] == true),
            "{stats}"
        );
    }

    /// Without payload nothing is read; what others were told of by this kernel is still named, so that their parents exist.
    #[test]
    fn without_payload_only_the_ids_that_were_handed_over_become_spans() {
        let folder = Folder::new("stripped");
        let recording = folder.0.join("recording");
        let request = b"GET /secret HTTP/1.1\r\nHost: shop\r\n\r\n";
        let decision = |span: u8, decision_flags| Decision {
            trace_id: [7; 16],
            span_id: [span; 8],
            source: Source::Root as u8,
            trace_flags: 3,
            decision_flags,
            ..Decision::default()
        };
        let mut server = Socket::open(1, Role::Server);
        let mut client = Socket::open(2, Role::Client);
        let received = Decision {
            direction: Direction::Receive as u8,
            ..decision(1, 0)
        };
        server.receive(request).starts().decided(received);
        server.send(RESPONSE).starts();
        let sent = Decision {
            direction: Direction::Send as u8,
            ..decision(2, decision_flags::PROPAGATED)
        };
        client.send(request).starts().decided(sent);
        client.receive(RESPONSE).starts();
        for socket in [&mut server, &mut client] {
            socket.close(0);
        }
        record_sockets(&recording, &[server, client], true);
        let (text, stats) = replayed(&folder, &recording, "stripped.jsonl");

        let text = String::from_utf8(text).expect("JSON is UTF-8");
        assert_eq!(text.matches("\"spanId\"").count(), 1, "{text}");
        for expected in ["\"0202020202020202\"", "\"unobserved\"", "\"shop\""] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
        for absent in ["secret", "http.request", "url.", "http.response"] {
            assert!(!text.contains(absent), "{absent}: {text}");
        }
        let number = |name: &str| stats["agent"][name].as_u64().expect(name);
        assert_eq!(
            ["decisions", "decisions_unobserved", "messages_request"].map(number),
            [2, 2, 0]
        );
        let bytes = ["stream_bytes", "stream_passed_bytes", "stream_gap_bytes"].map(number);
        let whole = 2 * (request.len() + RESPONSE.len()) as u64;
        assert_eq!(bytes.iter().sum::<u64>(), whole, "{bytes:?}");
        let balance = stats["balance"].as_array().expect("a list");
        assert!(
            balance.iter().all(|equation| equation["holds"] == true),
            "{stats}"
        );
    }

    #[test]
    fn a_file_that_is_no_recording_is_refused_in_one_sentence() {
        let folder = Folder::new("no-recording");
        let path = folder.0.join("text");
        fs::write(&path, "hello, this is some text").expect("written");
        let config = Config::resolve(Layer::default(), &|_| None).expect("valid");
        let error = replay(&path, &config).expect_err("no recording");
        let expected = format!(
            "{} is not a recording of undertrace: give a file that `undertrace record` wrote",
            path.display()
        );
        assert_eq!(error.to_string(), expected);
    }
}
