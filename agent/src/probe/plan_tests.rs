//! Plans of kernels that have everything, lack something, or refuse it.

use super::{
    super::hooks::{Attach, Stage},
    *,
};

const fn hook(program: &'static str, function: &'static str, feature: Feature) -> Hook {
    Hook {
        program,
        attach: Attach::Entry(function),
        arguments: &[],
        feature,
        stage: Stage::Data,
        instead_of: None,
        goes_on_in: None,
        until: None,
    }
}

fn types(names: &[&str]) -> Option<Vec<String>> {
    Some(names.iter().map(|name| (*name).to_owned()).collect())
}

fn chosen(plan: &Plan) -> Vec<&'static str> {
    plan.chosen().iter().map(|hook| hook.program).collect()
}

/// Any kernel that has all functions with the arguments that are written beside the hooks.
fn fitting(function: &str) -> Option<Vec<String>> {
    let hook = HOOKS
        .iter()
        .find(|hook| hook.attach.function() == Some(function));
    types(hook.map_or(&[], |hook| hook.arguments))
}

#[test]
fn uses_everything_on_a_kernel_that_has_everything() {
    let plan = Plan::from_hooks(HOOKS, &[], fitting);
    assert!(Feature::ALL.iter().all(|feature| plan.offers(*feature)));
    assert_eq!(plan.required_but_off(), None);
}

#[test]
fn attaches_cleanup_first_and_data_last() {
    let plan = Plan::from_hooks(HOOKS, &[], fitting);
    let stages: Vec<Stage> = plan.chosen().iter().map(|hook| hook.stage).collect();
    assert!(stages.is_sorted());
    assert_eq!(stages.first(), Some(&Stage::Cleanup));
    assert_eq!(stages.last(), Some(&Stage::Data));
}

#[test]
fn refuses_a_function_with_other_arguments() {
    let plan = Plan::from_hooks(HOOKS, &[], |function| {
        if function == "inet6_sendmsg" {
            types(&["struct sock *", "struct msghdr *", "size_t"])
        } else {
            fitting(function)
        }
    });
    let (program, reason) = plan.why_off(Feature::Inet6).expect("it is refused");
    assert_eq!(program, "inet6_sendmsg_enter");
    assert_eq!(
        reason.to_string(),
        "the function takes (struct sock *, struct msghdr *, size_t), \
         the program reads (struct socket *, struct msghdr *, size_t)"
    );
    assert!(
        !chosen(&plan).contains(&"inet6_recvmsg_exit"),
        "half a feature misleads"
    );
    assert!(plan.offers(Feature::Inet));
}

#[test]
fn loses_one_feature_by_one_refused_program() {
    let mut plan = Plan::from_hooks(HOOKS, &[], fitting);
    let refused = Reason::Refused {
        error: "Permission denied".to_owned(),
        log: vec!["R1 invalid mem access".to_owned()],
    };
    plan.turn_off("unix_stream_sendmsg_exit", refused.clone());
    assert_eq!(
        plan.why_off(Feature::Unix),
        Some(("unix_stream_sendmsg_exit", &refused))
    );
    assert_eq!(
        refused.to_string(),
        "the kernel refused to load it (Permission denied): R1 invalid mem access"
    );
    let off = Feature::ALL
        .iter()
        .filter(|feature| !plan.offers(**feature));
    assert_eq!(off.collect::<Vec<_>>(), [&Feature::Unix]);
    assert_eq!(plan.required_but_off(), None);
}

#[test]
fn says_so_when_nothing_is_left() {
    let plan = Plan::from_hooks(HOOKS, &[], |_| None);
    assert_eq!(plan.required_but_off(), Some(Feature::Inet));
    let (_, reason) = plan.why_off(Feature::Inet).expect("no function is there");
    assert_eq!(
        reason.to_string(),
        "this kernel has no function inet_sock_destruct"
    );
}

#[test]
fn keeps_the_spares_that_fit_when_one_does_not() {
    let mut plan = Plan::from_hooks(HOOKS, &[], fitting);
    plan.turn_off("inet6_sendmsg_spare", Reason::NotInObject);
    assert!(!plan.offers(Feature::Spares));
    assert!(chosen(&plan).contains(&"inet_sendmsg_spare"));
    assert!(plan.offers(Feature::Inet6));
}

#[test]
fn leaves_out_what_the_kernel_gives_no_occasion_for() {
    let plan = Plan::from_hooks(HOOKS, &[], fitting).without(Feature::Spares);
    assert!(!plan.needs(Feature::Spares) && plan.needs(Feature::Inet));
    assert!(
        !chosen(&plan)
            .iter()
            .any(|program| program.ends_with("_spare"))
    );
}

/// As [`fitting`], for a kernel from Linux 6.5 on.
fn without_sendpage(function: &str) -> Option<Vec<String>> {
    let gone = function == "unix_stream_sendpage";
    (!gone).then(|| fitting(function)).flatten()
}

#[test]
fn misses_no_function_whose_work_another_hook_sees() {
    let plan = Plan::from_hooks(HOOKS, &[], without_sendpage);
    let off = plan.entries.iter().filter(|entry| !entry.is_chosen());
    let off: Vec<_> = off
        .map(|entry| (entry.hook.program, entry.reason().map(Reason::to_string)))
        .collect();
    let reason = "not needed: on this kernel unix_stream_sendmsg sees all of it";
    let expected = ["unix_stream_sendpage_spare", "unix_stream_sendpage_exit"]
        .map(|program| (program, Some(reason.to_owned())));
    assert_eq!(off, expected);
    assert!(!plan.needs(Feature::UnixFiles) && plan.needs(Feature::Spares));
    assert_eq!(plan.why_off(Feature::UnixFiles), None);
    assert!(plan.offers(Feature::Spares) && plan.offers(Feature::Unix));
    let quiet = Plan::from_hooks(HOOKS, &[], without_sendpage).without(Feature::Spares);
    assert!(!quiet.needs(Feature::Spares));
}

#[test]
fn misses_the_same_function_where_no_hook_sees_it() {
    let plan = Plan::from_hooks(HOOKS, &[], |function| {
        let newer = function == "splice_to_socket";
        (!newer).then(|| without_sendpage(function)).flatten()
    });
    let (program, reason) = plan.why_off(Feature::UnixFiles).expect("it is off");
    assert_eq!(program, "unix_stream_sendpage_exit");
    assert!(matches!(reason, Reason::NoFunction { .. }));
    assert!(plan.needs(Feature::UnixFiles) && plan.offers(Feature::Unix));
}

#[test]
fn leaves_out_what_the_user_switched_off() {
    let plan = Plan::from_hooks(HOOKS, &[Feature::Waits], fitting);
    assert!(!plan.offers(Feature::Waits));
    let (_, reason) = plan.why_off(Feature::Waits).expect("it is off");
    assert_eq!(*reason, Reason::SwitchedOff);
}

#[test]
fn puts_another_program_in_the_place_of_one_that_does_not_fit() {
    let first = Hook {
        arguments: &["int"],
        ..hook("accept_4", "accept", Feature::Accepts)
    };
    let second = Hook {
        arguments: &["long"],
        instead_of: Some("accept_4"),
        ..hook("accept_2", "accept", Feature::Accepts)
    };
    let both = Hook {
        instead_of: Some("accept_4"),
        ..hook("accept_any", "accept", Feature::Accepts)
    };
    let hooks = [first, second, both];
    let with = |kind: &'static str| Plan::from_hooks(&hooks, &[], move |_| types(&[kind]));

    assert_eq!(chosen(&with("int")), ["accept_4"]);
    let mut newer = with("long");
    assert_eq!(chosen(&newer), ["accept_2"]);
    assert!(newer.offers(Feature::Accepts));
    newer.turn_off("accept_2", Reason::NotInObject);
    assert_eq!(chosen(&newer), ["accept_any"]);
    newer.turn_off("accept_any", Reason::NotInObject);
    assert!(chosen(&newer).is_empty());
    assert!(!newer.offers(Feature::Accepts));
    let (program, reason) = newer.why_off(Feature::Accepts).expect("nothing is left");
    assert_eq!(program, "accept_4");
    assert!(matches!(reason, Reason::Prototype { .. }));
}
