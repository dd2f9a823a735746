use std::{path::Path, time::Duration};

use agent_common::wire::propagator::part;
use clap::Parser;

use super::*;
use crate::export::otlp::settings::Protocol;

mod sampling;

fn env_of<'a>(variables: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
    |name| {
        variables
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| (*value).to_owned())
    }
}

fn flags(arguments: &[&str]) -> Layer {
    let all = ["undertrace", "run"].iter().chain(arguments);
    match Cli::try_parse_from(all)
        .expect("the flags are valid")
        .command
    {
        Command::Run(layer) => layer,
        other => panic!("parsed as {other:?}"),
    }
}

fn resolve(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::resolve(flags(arguments), &env_of(variables))
}

fn config(arguments: &[&str], variables: &[(&str, &str)]) -> Config {
    resolve(arguments, variables).expect("the configuration is valid")
}

fn error(variables: &[(&str, &str)]) -> String {
    resolve(&[], variables)
        .expect_err("the configuration is not valid")
        .to_string()
}

/// A file that goes away with the test.
struct Written(PathBuf);

impl Written {
    fn path(&self) -> &str {
        self.0.to_str().expect("a UTF-8 path")
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn written(name: &str, text: &str) -> Written {
    let path = std::env::temp_dir().join(format!("undertrace-{}-{name}", std::process::id()));
    std::fs::write(&path, text).expect("the temporary folder is writable");
    Written(path)
}

fn ports(config: &Config) -> Vec<String> {
    let ranges = config.selectors.ports.iter();
    ranges.map(ToString::to_string).collect()
}

#[test]
fn trusts_private_networks_unless_told() {
    assert_eq!(config(&[], &[]).trust_context, Network::private());
    let told = config(&["--trust-context", "192.0.2.0/24,fd00::/8"], &[]);
    let shown: Vec<String> = told.trust_context.iter().map(Network::to_string).collect();
    assert_eq!(shown, ["192.0.2.0/24", "fd00::/8"]);
    let variable = ("UNDERTRACE_TRUST_CONTEXT", "10.1.0.0/16");
    assert_eq!(config(&[], &[variable]).trust_context.len(), 1);
    let wrong = error(&[("UNDERTRACE_TRUST_CONTEXT", "10.1.0.0/40")]);
    assert!(wrong.contains("UNDERTRACE_TRUST_CONTEXT"), "{wrong}");
}

#[test]
fn writes_into_older_connections_only_when_told_and_only_where_it_writes() {
    assert!(!config(&["--inject"], &[]).inject_existing);
    assert!(config(&["--inject", "--inject-existing"], &[]).inject_existing);
    let variables = [
        ("UNDERTRACE_INJECT", "true"),
        ("UNDERTRACE_INJECT_EXISTING", "true"),
    ];
    assert!(config(&[], &variables).inject_existing);
    let expected = "--inject-existing is \"true\", but must be given together with --inject";
    assert_eq!(error(&variables[1..]), expected);
    let unwanted = resolve(&["--inject=false"], &variables);
    assert_eq!(unwanted.expect_err("it writes none").to_string(), expected);
}

#[test]
fn carries_context_in_an_option_only_when_told() {
    assert!(config(&["--inject"], &[]).option_to.is_empty());
    let told = config(&["--tcp-option"], &[]);
    assert_eq!(told.option_to, Network::private());
    assert!(told.inject_to.is_empty());
    let variable = ("UNDERTRACE_TCP_OPTION", "true");
    let there = config(&["--inject-to", "192.0.2.0/24"], &[variable]);
    let shown: Vec<String> = there.option_to.iter().map(Network::to_string).collect();
    assert_eq!(shown, ["192.0.2.0/24"]);
    assert!(
        config(&["--tcp-option=false"], &[variable])
            .option_to
            .is_empty()
    );
    let path = written("option.yaml", "tcp_option: true\n");
    let from_file = config(&["--config", path.path()], &[]);
    assert_eq!(from_file.option_to, Network::private());
}

#[test]
fn leaves_out_exports_of_telemetry_unless_told() {
    assert!(!config(&[], &[]).otlp_exports);
    assert!(config(&["--otlp-exports"], &[]).otlp_exports);
    assert!(config(&[], &[("UNDERTRACE_OTLP_EXPORTS", "true")]).otlp_exports);
}

#[test]
fn ports_of_the_file_are_numbers_or_ranges() {
    let path = written("ports.yaml", "port: [80, 8000-8099, \"443\"]\n");
    let config = config(&["--config", path.path()], &[]);
    assert_eq!(ports(&config), ["80", "8000-8099", "443"]);
}

#[test]
fn nothing_configured_is_the_console_alone() {
    let config = config(&[], &[]);
    assert!(config.console);
    assert_eq!(
        (config.traces, config.metrics, config.file),
        (None, None, None)
    );
    assert_eq!(config.sampler, Sampler { ratio: 1.0 });
    assert_eq!(config.selectors, Selectors::default());
}

#[test]
fn an_endpoint_or_a_file_replaces_the_console_unless_it_is_asked_for() {
    let endpoint = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318")];
    assert!(!config(&[], &endpoint).console);
    assert!(!config(&["--file", "x"], &[]).console);
    assert!(config(&["--console"], &endpoint).console);
    assert!(!config(&["--console=false"], &[]).console);
    let none = [("OTEL_TRACES_EXPORTER", "none")];
    assert!(!config(&[], &none).console);
}

#[test]
fn flags_outrank_variables_and_variables_outrank_the_file() {
    let path = written(
        "layers.yaml",
        "port: [1, 2]\nexe: [/from/file]\npid: [7]\nsampler: traceidratio\nsampler_arg: 0.25\nquery: true\n",
    );
    let config = config(
        &["--port", "80", "--port", "81,82-90"],
        &[
            ("UNDERTRACE_CONFIG", path.path()),
            ("UNDERTRACE_PORT", "90"),
            ("UNDERTRACE_EXE", "/from/env, /b*"),
        ],
    );
    assert_eq!(ports(&config), ["80", "81", "82-90"]);
    let executables = config.selectors.exe.iter().map(ToString::to_string);
    assert_eq!(executables.collect::<Vec<_>>(), ["/from/env", "/b*"]);
    assert_eq!(config.selectors.pids, [7]);
    assert_eq!(config.sampler, Sampler { ratio: 0.25 });
    assert!(config.query);
}

#[test]
fn the_endpoint_of_the_file_is_used_where_no_variable_is_set() {
    let path = written(
        "otlp.yaml",
        "otlp:\n  endpoint: http://file:4317\n  protocol: grpc\n  timeout: 500\n",
    );
    let of = |variables: &[(&str, &str)]| {
        let settings = config(&["--config", path.path()], variables).traces;
        settings.map(|settings| (settings.endpoint, settings.timeout))
    };
    let half = Duration::from_millis(500);
    assert_eq!(of(&[]), Some(("http://file:4317".to_owned(), half)));
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://env:4317")];
    assert_eq!(of(&variables), Some(("http://env:4317".to_owned(), half)));
}

#[test]
fn errors_of_the_file_name_line_and_column() {
    let error = |text: &str| {
        file::parse(text, Path::new("u.yaml"))
            .expect_err("the file is not valid")
            .to_string()
    };
    let unknown = error("port: [80]\nprot: [81]\n");
    assert!(
        unknown.starts_with("u.yaml:2:1: unknown field `prot`, "),
        "{unknown}"
    );
    assert!(
        !unknown.contains(" line "),
        "the position is said once: {unknown}"
    );
    let wrong = error("port: [80]\nexe: 5\n");
    assert!(wrong.starts_with("u.yaml:2:6: "), "{wrong}");
    let range = error("port:\n  - 80\n  - 70000\n");
    assert!(range.starts_with("u.yaml:3:5: "), "{range}");
    let malformed = error("port: [80\nexe: x\n");
    assert!(malformed.starts_with("u.yaml:"), "{malformed}");
    assert!(!malformed.contains(":0:"), "{malformed}");
    assert_eq!(malformed.lines().count(), 1, "{malformed}");
    assert_eq!(
        file::parse("# nothing\n", Path::new("u.yaml")).expect("an empty file is valid"),
        Layer::default()
    );
}

#[test]
fn errors_of_variables_are_one_sentence_with_what_is_allowed() {
    assert_eq!(
        error(&[("UNDERTRACE_PORT", "80,http")]),
        "UNDERTRACE_PORT is \"80,http\", but must be ports (1 to 65535) or ranges such as 8000-8099, separated by commas"
    );
    assert_eq!(
        error(&[("OTEL_TRACES_SAMPLER", "sometimes")]),
        "OTEL_TRACES_SAMPLER is \"sometimes\", but must be one of always_on, always_off, traceidratio, \
         parentbased_always_on, parentbased_always_off, parentbased_traceidratio"
    );
    assert_eq!(
        error(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "udp")
        ]),
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL is \"udp\", but must be one of grpc, http/protobuf, http/json"
    );
    let sampler = [
        ("OTEL_TRACES_SAMPLER", "traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "2"),
    ];
    assert!(error(&sampler).contains("a number from 0 to 1"));
    let secret = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "hunter2"),
    ];
    assert!(!error(&secret).contains("hunter2"));
    let missing = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nonexistent/ca.pem"),
    ];
    assert_eq!(
        error(&missing),
        "cannot read /nonexistent/ca.pem, named by OTEL_EXPORTER_OTLP_CERTIFICATE"
    );
}

#[test]
fn endpoints_follow_the_specification() {
    let endpoint = |variables: &[(&str, &str)]| {
        let settings = config(&[], variables).traces.expect("an endpoint");
        (settings.endpoint, settings.protocol)
    };
    let general = "OTEL_EXPORTER_OTLP_ENDPOINT";
    let own = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
    let protocol = "OTEL_EXPORTER_OTLP_PROTOCOL";
    let http = Protocol::HttpProtobuf;
    for (variables, expected) in [
        (
            vec![(general, "http://c:4318")],
            ("http://c:4318/v1/traces", http),
        ),
        (
            vec![(general, "http://c/base/")],
            ("http://c/base/v1/traces", http),
        ),
        (vec![(own, "http://c/as/is")], ("http://c/as/is", http)),
        (
            vec![(own, "http://own/x"), (general, "http://c")],
            ("http://own/x", http),
        ),
        (
            vec![(general, "http://c:4317"), (protocol, "grpc")],
            ("http://c:4317", Protocol::Grpc),
        ),
        (
            vec![(general, "c:4317"), (protocol, "grpc")],
            ("https://c:4317", Protocol::Grpc),
        ),
        (
            vec![
                (general, "c:4317"),
                (protocol, "grpc"),
                ("OTEL_EXPORTER_OTLP_INSECURE", "true"),
            ],
            ("http://c:4317", Protocol::Grpc),
        ),
    ] {
        let (expected_endpoint, expected_protocol) = expected;
        assert_eq!(
            endpoint(&variables),
            (expected_endpoint.to_owned(), expected_protocol),
            "{variables:?}"
        );
    }
    assert!(resolve(&[], &[(general, "c:4318")]).is_err());
    assert!(
        resolve(&[], &[(general, "")])
            .expect("empty is absent")
            .traces
            .is_none()
    );
}

#[test]
fn each_signal_has_its_own_variables() {
    let config = config(
        &[],
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "none"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "1500"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "20"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20b%2C, x=1=2"),
        ],
    );
    let traces = config.traces.expect("an endpoint");
    let metrics = config.metrics.expect("an endpoint");
    assert_eq!((traces.gzip, metrics.gzip), (true, false));
    assert_eq!(traces.timeout, Duration::from_millis(20));
    assert_eq!(metrics.timeout, Duration::from_millis(1500));
    assert_eq!(metrics.endpoint, "http://c/v1/metrics");
    let headers = [("api-key", "a b,"), ("x", "1=2")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert_eq!(traces.headers, headers);
    assert!(
        !format!("{traces:?}").contains("a b,"),
        "header values are secrets"
    );
}

#[test]
fn a_disabled_sdk_sends_nothing() {
    let config = config(
        &[],
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c"),
            ("OTEL_SDK_DISABLED", "TRUE"),
        ],
    );
    assert_eq!((config.traces, config.metrics), (None, None));
    assert!(config.console);
}

#[test]
fn the_queue_follows_the_variables_of_the_batch_processor() {
    let queue = config(
        &[],
        &[
            ("OTEL_BSP_MAX_QUEUE_SIZE", "100"),
            ("OTEL_BSP_SCHEDULE_DELAY", "250"),
        ],
    )
    .queue;
    assert_eq!((queue.spans, queue.batch_spans), (100, 100));
    assert_eq!(queue.delay, Duration::from_millis(250));
}

#[test]
fn unknown_flags_are_usage_errors() {
    for arguments in [
        &["undertrace", "run", "--prot", "80"][..],
        &["undertrace", "run", "--port", "70000"],
        &["undertrace", "run", "--fault", "bogus"],
        &["undertrace", "dance"],
    ] {
        let error = Cli::try_parse_from(arguments).expect_err("not valid");
        assert_eq!(error.exit_code(), 2, "{arguments:?}");
    }
}

#[test]
fn the_command_line_is_consistent() {
    use clap::CommandFactory;
    Cli::command().debug_assert();
}

#[test]
fn every_fault_is_found_by_its_name() {
    for name in Fault::NAMES {
        assert_eq!(name.parse::<Fault>().map(Fault::name), Ok(*name));
    }
    assert!("bogus".parse::<Fault>().is_err());
}
