//! The self-test, again and again while headers are written: what held at the start need not hold for ever (a live patch, another program in the
//! kernel).
//!
//! Input: time. Output: what each repetition says. It runs on a thread of its own, on sockets and with programs of its own: nothing waits for it. Only a proof
//! that failed ([`InjectError::is_proof`]) speaks against the kernel; where a call failed, it is tried once more.

use std::{
    path::PathBuf,
    sync::mpsc::{Receiver, TryRecvError, channel},
    thread,
};

use super::selftest::{self, Failure};
use crate::{
    config::Fault,
    probe::inject::{Bench, InjectError},
};

/// Time between two repetitions.
const INTERVAL_NS: u64 = 3_600_000_000_000;

/// What a repetition says.
type Verdict = Result<(), InjectError>;

/// When the next repetition is due, and the one under way.
#[derive(Debug)]
pub struct Watch {
    prove: fn(&Subject) -> Verdict,
    subject: Subject,
    due_ns: Option<u64>,
    asked: bool,
    running: Option<Receiver<Verdict>>,
}

/// What a repetition is given.
#[derive(Clone, Debug, Default)]
struct Subject {
    /// Where the host's `/proc` is mounted.
    proc: PathBuf,
    /// What is broken on purpose.
    faults: Vec<Fault>,
}

impl Watch {
    /// A watch that begins one interval from the first tick on.
    #[must_use]
    pub fn new(proc: PathBuf, faults: &[Fault]) -> Self {
        let broken = faults.contains(&Fault::RepetitionBroken);
        let faults = broken.then_some(Fault::InjectLate);
        let faults = faults.into_iter().collect();
        Self::of(prove, Subject { proc, faults })
    }

    const fn of(prove: fn(&Subject) -> Verdict, subject: Subject) -> Self {
        Self {
            prove,
            subject,
            due_ns: None,
            asked: false,
            running: None,
        }
    }

    /// Asks for a repetition out of turn.
    pub const fn ask(&mut self) {
        self.asked = true;
    }

    /// Time passed: begins what is due, and gives what a repetition has said since the last call.
    pub fn tick(&mut self, now_ns: u64) -> Option<Verdict> {
        let due_ns = *self.due_ns.get_or_insert(now_ns + INTERVAL_NS);
        if let Some(running) = &self.running {
            let verdict = match running.try_recv() {
                Ok(verdict) => verdict,
                Err(TryRecvError::Empty) => return None,
                Err(TryRecvError::Disconnected) => Err(Failure::GivenUp.into()),
            };
            self.running = None;
            return Some(verdict);
        }
        if now_ns >= due_ns || self.asked {
            self.asked = false;
            self.due_ns = Some(now_ns + INTERVAL_NS);
            return self.begin();
        }
        None
    }

    /// Begins a repetition; or says that there is no thread for it.
    fn begin(&mut self) -> Option<Verdict> {
        let (sender, receiver) = channel();
        let (prove, subject) = (self.prove, self.subject.clone());
        let started = thread::Builder::new()
            .name("self-test".to_owned())
            .spawn(move || {
                // Nobody listens any more where the agent ends meanwhile.
                let _ = sender.send(twice(|| prove(&subject)));
            });
        match started {
            Ok(_) => {
                self.running = Some(receiver);
                None
            }
            Err(source) => Some(Err(Failure::Setup {
                what: "starting a thread",
                source,
            }
            .into())),
        }
    }
}

/// Once more where a call failed.
fn twice(prove: impl Fn() -> Verdict) -> Verdict {
    match prove() {
        Err(error) if error.is_call() => prove(),
        verdict => verdict,
    }
}

fn prove(subject: &Subject) -> Verdict {
    Ok(selftest::repeat(
        &mut Bench::new(&subject.faults)?,
        &subject.proc,
    )?)
}

#[cfg(test)]
mod tests {
    use std::{
        cell::RefCell,
        io,
        time::{Duration, Instant},
    };

    use super::*;

    const START_NS: u64 = 77;

    /// Ticks at this time until there is a verdict.
    fn verdict(watch: &mut Watch, now_ns: u64) -> Verdict {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(verdict) = watch.tick(now_ns) {
                return verdict;
            }
            assert!(Instant::now() < deadline, "no verdict");
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn repeats_once_each_hour() {
        let mut watch = Watch::of(|_| Ok(()), Subject::default());
        for at_ns in [START_NS, START_NS + INTERVAL_NS - 1] {
            assert!(watch.tick(at_ns).is_none() && watch.running.is_none());
        }
        let due_ns = START_NS + INTERVAL_NS;
        assert!(watch.tick(due_ns).is_none() && watch.running.is_some());
        assert!(verdict(&mut watch, due_ns + 1).is_ok());
        assert!(watch.tick(due_ns + INTERVAL_NS - 1).is_none() && watch.running.is_none());
        assert!(watch.tick(due_ns + INTERVAL_NS).is_none() && watch.running.is_some());
    }

    #[test]
    fn tells_what_failed_and_who_gave_up() {
        let mut watch = Watch::of(|_| Err(Failure::Forced.into()), Subject::default());
        watch.ask();
        let failed = verdict(&mut watch, START_NS);
        assert!(matches!(
            failed,
            Err(InjectError::SelfTest(Failure::Forced))
        ));
        watch.prove = |_| panic!("on purpose");
        watch.ask();
        let failed = verdict(&mut watch, START_NS);
        assert!(matches!(
            failed,
            Err(InjectError::SelfTest(Failure::GivenUp))
        ));
    }

    #[test]
    fn tries_a_failed_call_once_more_and_nothing_else() {
        let call = |kind: io::ErrorKind| -> Verdict {
            Err(Failure::Call {
                when: "receive",
                source: kind.into(),
            }
            .into())
        };
        let tried = |verdicts: Vec<Verdict>| {
            let verdicts = RefCell::new(verdicts.into_iter());
            let verdict = twice(|| verdicts.borrow_mut().next().expect("it is tried twice"));
            (verdict, verdicts.into_inner().len())
        };
        let is_proof = |verdict: Verdict| verdict.err().map(|error| error.is_proof());
        let scarce = || call(io::ErrorKind::OutOfMemory);
        let stalled = || call(io::ErrorKind::WouldBlock);
        let (verdict, left) = tried(vec![scarce(), Ok(()), Ok(())]);
        assert!(verdict.is_ok() && left == 1);
        let (verdict, left) = tried(vec![scarce(), scarce(), Ok(())]);
        assert_eq!((is_proof(verdict), left), (Some(false), 1));
        let (verdict, left) = tried(vec![stalled(), stalled(), Ok(())]);
        assert_eq!((is_proof(verdict), left), (Some(true), 1));
        let bytes = Err(Failure::Bytes { when: "a look" }.into());
        let (verdict, left) = tried(vec![bytes, Ok(())]);
        assert_eq!((is_proof(verdict), left), (Some(true), 1));
        // The programs could not be loaded.
        let (verdict, left) = tried(vec![Err(InjectError::NoObject), scarce()]);
        assert_eq!((is_proof(verdict), left), (Some(false), 0));
        assert_eq!(tried(vec![Ok(()), scarce()]).1, 1);
    }

    #[test]
    fn breaks_only_what_is_asked_for() {
        let faults = |faults: &[Fault]| Watch::new(PathBuf::new(), faults).subject.faults;
        assert_eq!(faults(&[Fault::InjectLoss, Fault::ProofOnReport]), []);
        assert_eq!(faults(&[Fault::RepetitionBroken]), [Fault::InjectLate]);
    }
}
