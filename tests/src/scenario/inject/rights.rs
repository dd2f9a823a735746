//! Headers written by an agent with exactly the rights that the files of `cargo xtask dist` grant for it, and what is left out with one right less.
//!
//! The unit's rights are tried as they are written down: the user, the capabilities and the filter of system calls that systemd makes of its lines.

use std::{fs, os::unix::fs::PermissionsExt as _};

use anyhow::{Context as _, Result, ensure};

use super::{
    REFUSAL,
    conversation::{Conversation, enrolled},
    existing::wait_for_counts,
    injects, none_enrolled, refused,
};
use crate::{
    harness::{
        Context, Refused,
        agent::{Setup, Statistics},
        kernel_is_at_least, service,
    },
    scenario::{
        Scenario,
        namespaces::{assert_holds_no_more, confined_to, granted_by},
    },
};

pub(in crate::scenario) const SCENARIOS: &[Scenario] = &[
    Scenario::full("safety_header_with_the_rights_of_the_unit", of_the_unit),
    Scenario::full(
        "safety_header_with_the_rights_of_the_manifest",
        of_the_manifest,
    ),
    Scenario::full(
        "safety_header_refused_without_a_right_of_the_unit",
        without_a_right,
    )
    .within(480),
];

/// What is given to systemd, and to Kubernetes.
const UNIT: &str = include_str!("../../../../dist/undertrace.service");
const DROP_IN: &str = include_str!("../../../../dist/undertrace-inject.conf");
const PATCH: &str = include_str!("../../../../dist/daemonset-inject.yaml");

/// A user who owns nothing, as `DynamicUser=` makes one.
const NOBODY: &str = "65534";

/// What the unit and its drop-in grant.
#[derive(Clone, Debug)]
struct Rights {
    capabilities: Vec<&'static str>,
    calls: Vec<&'static str>,
    families: Vec<&'static str>,
    namespaces: Vec<&'static str>,
}

/// The words behind this key, in the unit and then in its drop-in: systemd puts such lists together (systemd.exec(5)).
fn words(key: &str) -> Vec<&'static str> {
    let lines = UNIT.lines().chain(DROP_IN.lines());
    lines
        .filter_map(|line| line.strip_prefix(key)?.strip_prefix('='))
        .flat_map(str::split_whitespace)
        .collect()
}

impl Rights {
    fn of_the_unit() -> Self {
        let capabilities = words("AmbientCapabilities");
        let namespaces = words("RestrictNamespaces");
        Self {
            capabilities: capabilities
                .iter()
                .filter_map(|name| name.strip_prefix("CAP_"))
                .collect(),
            calls: words("SystemCallFilter"),
            families: words("RestrictAddressFamilies"),
            // `yes` in the unit: none but those that the drop-in names.
            namespaces: namespaces
                .into_iter()
                .filter(|word| *word != "yes")
                .collect(),
        }
    }

    /// The same without this capability, system call, address family or namespace.
    fn without(&self, missing: &str) -> Self {
        let mut less = self.clone();
        for words in [
            &mut less.capabilities,
            &mut less.calls,
            &mut less.families,
            &mut less.namespaces,
        ] {
            words.retain(|word| *word != missing);
        }
        less
    }

    /// The words that start a program with these rights, as the unit's user.
    fn within(&self) -> Result<Vec<String>> {
        let set: String = self
            .capabilities
            .iter()
            .map(|name| format!(",+{}", name.to_ascii_lowercase()))
            .collect();
        let program = |name: &str| -> Result<String> {
            let file = service::program(name)?;
            Ok(file.to_str().context("a UTF-8 path")?.to_owned())
        };
        // It names the system calls of sets.
        program("systemd-analyze")?;
        let filter = service::workloads().join("filtered.py");
        let mut all: Vec<String> = vec![program("setpriv")?];
        all.extend(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"].map(Into::into));
        all.push("--no-new-privs".into());
        all.extend(
            ["bounding-set", "inh-caps", "ambient-caps"].map(|of| format!("--{of}=-all{set}")),
        );
        all.push(program("python3")?);
        all.push(filter.to_str().context("a UTF-8 path")?.to_owned());
        all.extend([&self.calls, &self.families, &self.namespaces].map(|words| words.join(" ")));
        Ok(all)
    }
}

/// What came of a run.
#[derive(Debug)]
struct Ran {
    statistics: Statistics,
    output: String,
    injects: bool,
}

/// One connection that is older than the agent and one that is not, with requests on both, while an agent with these rights runs; `older` says whether lines go to the older
/// one, too.
fn run(context: &Context, within: &[String], rights: usize, older: bool) -> Result<Ran> {
    // The agent is no owner of this folder, and leaves its statistics there.
    fs::set_permissions(context.folder(), fs::Permissions::from_mode(0o777))?;
    let mut conversation = Conversation::new(context)?;
    conversation.connect()?;
    conversation.ask(false)?;
    let within: Vec<&str> = within.iter().map(String::as_str).collect();
    let mut setup = Setup::bare().within(&within).port(conversation.port);
    for variable in words("Environment") {
        let (name, value) = variable.split_once('=').context("a variable has a value")?;
        setup = setup.env(name, value);
    }
    let agent = setup.start(context)?;
    assert_holds_no_more(agent.pid(), rights)?;
    let injects = injects(&agent)?;
    conversation.ask(false)?;
    if injects {
        let outcome = if older {
            "inject_older_enrolled"
        } else {
            "inject_older_refused"
        };
        wait_for_counts(&agent, &[(outcome, 1)])?;
        assert_eq!(enrolled()?, usize::from(older));
    }
    conversation.connect()?;
    // What follows on an older connection is proven by its third request.
    conversation.ask_each(|n| n == 1)?;
    conversation.ask_each(|n| n == 1 || older)?;
    let output = agent.output();
    let statistics = agent.stop()?;
    conversation.end(injects)?;
    // Traced are all of them.
    assert_eq!(statistics.get("client_decisions"), 5, "{statistics}");
    if injects {
        let inserted = 2 + u64::from(older);
        println!("injected: {}", statistics.get("inject_inserted"));
        for (name, expected) in [
            ("inject_inserted", inserted),
            ("inject_sockets", 1),
            ("inject_older_enrolled", u64::from(older)),
            ("inject_older_refused", u64::from(!older)),
        ] {
            assert_eq!(statistics.get(name), expected, "{name}\n{statistics}");
        }
    }
    Ok(Ran {
        statistics,
        output,
        injects,
    })
}

/// Everything works with what was granted; the self-test had its network namespaces.
fn works(ran: &Ran) -> Result<()> {
    if !ran.injects {
        is_the_kernels_refusal(ran)?;
        return refused(&ran.statistics);
    }
    let proven = "self-test of header injection passed";
    let line = ran.output.lines().find(|line| line.contains(proven));
    let line = line.with_context(|| format!("no word of the self-test:\n{}", ran.output))?;
    ensure!(!line.contains("loopback alone"), "{line}");
    Ok(())
}

/// The kernel was found unfit; it is not a right that is missing.
fn is_the_kernels_refusal(ran: &Ran) -> Result<()> {
    let reason = why_not(ran)?;
    ensure!(
        reason.contains("self-test: ")
            && !["denied", "not permitted", "needs CAP_"]
                .iter()
                .any(|sign| reason.contains(sign)),
        "{reason}"
    );
    Ok(())
}

/// The line that says why no header is written.
fn why_not(ran: &Ran) -> Result<&str> {
    let said = "no trace context is written into requests";
    let line = ran.output.lines().find(|line| line.contains(said));
    line.with_context(|| format!("it does not say why not:\n{}", ran.output))
}

fn of_the_unit(context: &mut Context) -> Result<()> {
    let rights = Rights::of_the_unit();
    let ran = run(context, &rights.within()?, rights.capabilities.len(), true)?;
    works(&ran)
}

/// Root, with the capabilities of the patched manifest and none else.
fn of_the_manifest(context: &mut Context) -> Result<()> {
    let setpriv = service::program("setpriv")?;
    let granted = granted_by(PATCH);
    let confined = confined_to(&granted);
    let within: Vec<String> = std::iter::once(setpriv.to_str().context("a UTF-8 path")?)
        .chain(confined.split(' '))
        .map(str::to_owned)
        .collect();
    let ran = run(context, &within, granted.len(), true)?;
    works(&ran)
}

/// Each right that the drop-in adds is needed: without it less is done, all is traced, and it is said what is missing.
fn without_a_right(context: &mut Context) -> Result<()> {
    let rights = Rights::of_the_unit();
    let run_without = |missing: &str, older: bool| {
        let less = rights.without(missing);
        run(context, &less.within()?, less.capabilities.len(), older)
    };
    let mut is_fit = true;
    let mut left_out = vec!["net", "AF_NETLINK"];
    let mut needed = vec![
        ("SYS_ADMIN", "needs CAP_SYS_ADMIN"),
        ("fsopen", "needs CAP_SYS_ADMIN"),
        ("fsconfig", "needs CAP_SYS_ADMIN"),
        ("fsmount", "needs CAP_SYS_ADMIN"),
    ];
    if kernel_is_at_least(6, 9)? {
        // CAP_SYS_ADMIN stands for it where programs are loaded and attached (`bpf_token_capable`, kernel/bpf/token.c). What is left is the pair of
        // virtual interfaces.
        left_out.push("NET_ADMIN");
    } else {
        needed.push(("NET_ADMIN", "needs CAP_NET_ADMIN"));
    }
    for (missing, said) in needed {
        let ran = run_without(missing, false)?;
        ensure!(!ran.injects, "{missing}: headers are written");
        none_enrolled(&ran.statistics)?;
        if !why_not(&ran)?.contains(said) {
            // The self-test comes before what is missing.
            is_the_kernels_refusal(&ran)?;
            is_fit = false;
        }
    }
    if !is_fit {
        return Err(Refused(REFUSAL.to_owned()).into());
    }
    for missing in ["pidfd_getfd", "SYS_PTRACE"] {
        let ran = run_without(missing, false)?;
        ensure!(ran.injects, "{missing}: no header is written");
        let said = "needs CAP_SYS_PTRACE, and a filter of system calls that lets pidfd_getfd pass";
        ensure!(ran.output.contains(said), "{missing}:\n{}", ran.output);
    }
    for missing in left_out {
        let ran = run_without(missing, true)?;
        ensure!(ran.injects, "{missing}: no header is written");
        let said = "self-test of header injection passed on loopback alone";
        ensure!(ran.output.contains(said), "{missing}:\n{}", ran.output);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drop_ins_rights_are_added_to_those_of_the_unit() {
        let rights = Rights::of_the_unit();
        for (words, expected) in [
            (&rights.capabilities, ["BPF", "NET_ADMIN"]),
            (&rights.calls, ["@system-service", "pidfd_getfd"]),
            (&rights.families, ["AF_INET", "AF_NETLINK"]),
        ] {
            assert!(
                expected.iter().all(|word| words.contains(word)),
                "{words:?}"
            );
        }
        // The unit allows none.
        assert_eq!(rights.namespaces, ["net"]);
        let less = rights.without("pidfd_getfd");
        assert_eq!(less.calls.len() + 1, rights.calls.len());
        assert_eq!(less.capabilities, rights.capabilities);
        let flags = words("Environment");
        assert!(flags.contains(&"UNDERTRACE_INJECT=true"), "{flags:?}");
    }
}
