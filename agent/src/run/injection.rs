//! Sets up the writing of trace context into requests, where that is wanted, and ends it when a self-test fails later.
//!
//! Input: the configuration and what this machine is; time. Output: the object at work, or nothing: then one warning says why, and tracing goes on without.

use std::path::Path;

use tracing::{debug, info, warn};

use crate::{
    config::{Config, Fault},
    event::Event,
    inject::{
        self,
        enrolment::{Enrolment, EnrolmentError},
        older::{self, Noticed, Older, Outcome},
        watch::Watch,
    },
    kernel::{features::Features, offsets::Offsets},
    probe::inject::{InjectError, Injector, SharedMaps},
    telemetry::Counters,
};

/// Proves that headers can be written here, and prepares maps for two objects.
pub(super) fn prepare(config: &Config, features: &Features) -> Option<SharedMaps> {
    if config.inject_to.is_empty() {
        return None;
    }
    let passed = or_say_why(inject::prove(features, &config.proc_root, &config.faults))?;
    let milliseconds = u64::try_from(passed.took.as_millis()).unwrap_or(u64::MAX);
    match passed.without_veth {
        None => info!(milliseconds, "self-test of header injection passed"),
        Some(reason) => info!(
            milliseconds,
            without = reason,
            "self-test of header injection passed on loopback alone"
        ),
    }
    or_say_why(SharedMaps::new())
}

/// Loads the object that writes them.
pub(super) fn load(shared: &SharedMaps, config: &Config, offsets: &Offsets) -> Option<Injector> {
    // A member without which nothing is traced.
    let write_seq = offsets.get("O_TCP_SOCK_WRITE_SEQ")?;
    or_say_why(Injector::new(
        shared,
        &config.inject_to,
        &config.faults,
        write_seq,
    ))
}

/// Attaches it to the control group whose processes make the connections.
pub(super) fn attach(
    mut injector: Injector,
    cgroup: Option<&Path>,
    config: &Config,
) -> Option<Injection> {
    let attached = match cgroup {
        Some(cgroup) => injector.attach(cgroup),
        None => Err(InjectError::NoCgroup),
    };
    or_say_why(attached)?;
    info!("trace context is written into requests on connections made from now on");
    let enrolment = if config.inject_existing {
        enrolment(&mut injector, config)
    } else {
        None
    };
    let remembered = if config.faults.contains(&Fault::InjectOlderOverLimit) {
        1
    } else {
        older::LIMIT
    };
    Some(Injection {
        injector,
        watch: Some(Watch::new(config.proc_root.clone(), &config.faults)),
        failed: false,
        on_report: config.faults.contains(&Fault::ProofOnReport),
        older: Older::new(config.inject_to.clone(), enrolment.is_some(), remembered),
        enrolment,
    })
}

/// What puts in connections that are older than the agent, or a warning that nothing does.
fn enrolment(injector: &mut Injector, config: &Config) -> Option<Enrolment> {
    let not = |reason: &dyn std::error::Error| {
        warn!(%reason, "connections older than the agent get no header");
    };
    let enroller = injector.enroller().inspect_err(|error| not(error)).ok()?;
    Enrolment::start(config.proc_root.clone(), enroller)
        .inspect_err(|error: &EnrolmentError| not(error))
        .ok()
}

fn or_say_why<T>(result: Result<T, InjectError>) -> Option<T> {
    result
        .inspect_err(|error| warn!(reason = %error, "no trace context is written into requests"))
        .ok()
}

/// Headers are written, or were until a self-test failed.
pub(super) struct Injection {
    injector: Injector,
    /// None when it has failed, and at the end.
    watch: Option<Watch>,
    /// A self-test has failed.
    failed: bool,
    on_report: bool,
    older: Older,
    enrolment: Option<Enrolment>,
}

impl Injection {
    /// Something happened to a connection.
    pub(super) fn follow(&mut self, event: &Event<'_>, counters: &Counters) {
        if let Event::Release(header) = event {
            self.injector.let_go(header.connection);
        }
        match self.older.follow(event) {
            None => {}
            Some(Noticed::Asks) => counters.inject_older.increment(),
            Some(Noticed::TurnedAway) => counters.inject_older_over_limit.increment(),
        }
    }

    /// Tries to put in the next connection that is older than the agent.
    fn enrol(&mut self, now_ns: u64, counters: &Counters) -> Result<(), EnrolmentError> {
        let Some(enrolment) = &self.enrolment else {
            return Ok(());
        };
        if let Some(outcome) = enrolment.told()? {
            match outcome {
                Outcome::Enrolled => counters.inject_older_enrolled.increment(),
                Outcome::Refused => counters.inject_older_refused.increment(),
                Outcome::Busy => counters.inject_older_busy.increment(),
            }
            if let Some(unwanted) = self.older.tried(outcome, now_ns) {
                self.injector.let_go(unwanted);
            }
        }
        match self.older.next(now_ns) {
            Some(candidate) => enrolment.ask(candidate),
            None => Ok(()),
        }
    }

    /// Time passed.
    pub(super) fn tick(&mut self, now_ns: u64, counters: &Counters) {
        self.injector.tidy();
        if let Err(error) = self.enrol(now_ns, counters) {
            warn!(reason = %error, "no further connections older than the agent get a header");
            self.enrolment = None;
        }
        match self.watch.as_mut().and_then(|watch| watch.tick(now_ns)) {
            None => {}
            Some(Ok(())) => {
                counters.inject_proofs.increment();
                debug!("self-test of header injection passed again");
            }
            Some(Err(error)) if !error.is_proof() => {
                counters.inject_proofs_not_made.increment();
                warn!(
                    reason = %error,
                    "the self-test of header injection could not be repeated: headers are written as before, and it is tried again in an hour"
                );
            }
            Some(Err(error)) => {
                self.failed = true;
                let sockets = self.stop();
                counters.inject_proofs_failed.increment();
                warn!(
                    reason = %error, sockets,
                    "no header is written any more: the self-test has failed; every socket was let go"
                );
            }
        }
    }

    /// The counters were asked for.
    pub(super) const fn reported(&mut self) {
        if self.on_report
            && let Some(watch) = &mut self.watch
        {
            watch.ask();
        }
    }

    /// Ends what puts sockets in, and takes all of them out; gives how many.
    fn stop(&mut self) -> u64 {
        self.watch = None;
        self.enrolment = None;
        self.injector.stop()
    }

    /// The agent ends: nothing is written any more of which no span would tell.
    pub(super) fn end(&mut self) {
        let sockets = self.stop();
        debug!(sockets, "sockets were let go");
    }

    /// Whether no self-test has failed.
    pub(super) const fn holds(&self) -> bool {
        !self.failed
    }

    /// Sockets that were taken out.
    pub(super) const fn let_go_count(&self) -> u64 {
        self.injector.let_go_count()
    }
}
