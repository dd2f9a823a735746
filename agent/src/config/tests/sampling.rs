//! Which traces are kept, and whose context is read.

use super::*;

#[test]
fn samplers_become_thresholds() {
    let threshold = |name: &str, arg: &str| {
        let variables = [
            ("OTEL_TRACES_SAMPLER", name),
            ("OTEL_TRACES_SAMPLER_ARG", arg),
        ];
        config(&[], &variables).sampler.threshold()
    };
    assert_eq!(threshold("always_on", ""), 0);
    assert_eq!(threshold("parentbased_always_off", ""), 1 << 56);
    assert_eq!(
        threshold("parentbased_traceidratio", "0.25"),
        0xc0_0000_0000_0000
    );
    assert_eq!(threshold("traceidratio", ""), 0);
}

#[test]
fn the_first_rule_that_matches_a_service_counts() {
    let rules = |arguments: &[&str], variables: &[(&str, &str)]| {
        let rules = config(arguments, variables).service_rules;
        ["cart", "api-v1", "api-v2", "a=b", "x/y"].map(|service| rules.threshold(service))
    };
    let (never, half) = (1 << 56, 1 << 55);
    let arguments = ["--sample", "api-v2=0,api-*=1", "--sample", "a=b=0.5"];
    let expected = [None, Some(0), Some(never), Some(half), None];
    assert_eq!(rules(&arguments, &[]), expected);
    let variable = ("UNDERTRACE_SAMPLE", "api-v2=0, api-*=1, a=b=0.5");
    assert_eq!(rules(&[], &[variable]), expected);
    assert_eq!(rules(&["--sample", "**=0"], &[variable]), [Some(never); 5]);
    let path = written("sample.yaml", "sample: [api-v2=0, \"api-*=1\", a=b=0.5]\n");
    assert_eq!(rules(&["--config", path.path()], &[]), expected);
    assert_eq!(rules(&[], &[]), [None; 5]);
    for wrong in ["cart", "cart=", "=0.5", "cart=2", "cart=NaN", "cart=half"] {
        assert_eq!(
            error(&[("UNDERTRACE_SAMPLE", wrong)]),
            format!(
                "UNDERTRACE_SAMPLE is {wrong:?}, but must be a pattern for service.name and a number from 0 to 1, such as checkout=0.1 or api-*=1"
            )
        );
    }
    let many = vec!["cart=1"; ServiceRules::LIMIT + 1].join(",");
    assert_eq!(
        error(&[("UNDERTRACE_SAMPLE", &many)]),
        "--sample is \"64\", but must be at most 63 rules"
    );
}

#[test]
fn a_rate_is_a_number_of_traces() {
    let rate = |arguments: &[&str], variables: &[(&str, &str)]| {
        config(arguments, variables)
            .sample_rate
            .map(NonZeroU32::get)
    };
    let variable = ("UNDERTRACE_SAMPLE_RATE", "20");
    assert_eq!(rate(&[], &[]), None);
    assert_eq!(rate(&[], &[variable]), Some(20));
    assert_eq!(rate(&["--sample-rate", "5"], &[variable]), Some(5));
    let path = written("rate.yaml", "sample_rate: 50\n");
    assert_eq!(rate(&["--config", path.path()], &[]), Some(50));
    for wrong in ["0", "-1", "1.5", "many"] {
        assert_eq!(
            error(&[("UNDERTRACE_SAMPLE_RATE", wrong)]),
            format!(
                "UNDERTRACE_SAMPLE_RATE is {wrong:?}, but must be a whole number of traces, at least 1"
            )
        );
    }
}

#[test]
fn propagators_are_one_list_wherever_they_stand() {
    let ranks = |arguments: &[&str], variables: &[(&str, &str)]| -> Vec<(u32, u32)> {
        let fields = config(arguments, variables)
            .propagators
            .into_iter()
            .flatten();
        fields
            .filter(|field| field.part != part::NONE)
            .map(|field| (field.part, field.rank))
            .collect()
    };
    let jaeger_then_b3 = [(part::JAEGER, 1), (part::B3, 2)];
    assert_eq!(ranks(&[], &[]), []);
    assert_eq!(
        ranks(&[], &[("OTEL_PROPAGATORS", "tracecontext,baggage")]),
        []
    );
    assert_eq!(
        ranks(&[], &[("OTEL_PROPAGATORS", "jaeger, b3")]),
        jaeger_then_b3
    );
    assert_eq!(
        ranks(
            &["--propagators", "jaeger,b3"],
            &[("OTEL_PROPAGATORS", "b3multi")]
        ),
        jaeger_then_b3
    );
    let file = written("propagators.yaml", "propagators: [jaeger, b3]\n");
    assert_eq!(ranks(&["--config", file.path()], &[]), jaeger_then_b3);
    let unknown = error(&[("OTEL_PROPAGATORS", "b3,xray")]);
    assert!(
        unknown.contains("tracecontext, baggage, b3, b3multi, jaeger"),
        "{unknown}"
    );
}
