//! The traced application does not notice.

use anyhow::Result;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::Scenario;
use crate::harness::{
    Context, PATIENCE, agent::Setup, collector::Collector, http::Connection, load, service,
    wait_for,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::core("safety_kill_minus_nine", kill_minus_nine),
    Scenario::full(
        "safety_start_and_stop_under_load",
        start_and_stop_under_load,
    ),
];

/// The agent is killed in the middle of traffic and started again: no request fails, and the second agent sees everything.
fn kill_minus_nine(context: &mut Context) -> Result<()> {
    under_load(context, |context, port, served| {
        for _ in 0..2 {
            let collector = Collector::start()?;
            let agent = Setup::grpc(&collector).port(port).start(context)?;
            collector.wait_for_spans(20, PATIENCE)?;
            agent.kill_hard()?;
            progress(served)?;
        }
        let collector = Collector::start()?;
        let agent = Setup::grpc(&collector).port(port).start(context)?;
        load::numbered(port, "/b", 50, 2)?;
        wait_for(
            || collector.spans().render(),
            PATIENCE,
            || {
                (collector
                    .spans()
                    .servers()
                    .filter(|span| span.path().starts_with("/b/"))
                    .len()
                    >= 50)
                    .then_some(())
            },
        )?;
        agent.stop()?;
        Ok(())
    })
}

fn start_and_stop_under_load(context: &mut Context) -> Result<()> {
    under_load(context, |context, port, served| {
        for _ in 0..3 {
            let collector = Collector::start()?;
            let agent = Setup::grpc(&collector).port(port).start(context)?;
            collector.wait_for_spans(20, PATIENCE)?;
            agent.stop()?;
            progress(served)?;
        }
        Ok(())
    })
}

/// Runs `work` while a client asks without pause; every answer must be right.
fn under_load(
    context: &mut Context,
    work: impl FnOnce(&Context, u16, &AtomicU32) -> Result<()>,
) -> Result<()> {
    let port = context.port();
    let _python = service::python(context, "threads.py", port, &[])?;
    let (over, served) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        let client = scope.spawn(|| -> Result<()> {
            let mut connection = Connection::open(port)?;
            while !over.load(Ordering::Relaxed) {
                let n = served.fetch_add(1, Ordering::Relaxed);
                let response = connection.get(&format!("/size/{}", n % 5_000))?;
                assert_eq!(
                    (response.status, response.body.len()),
                    (200, (n % 5_000) as usize)
                );
            }
            Ok(())
        });
        let outcome = work(context, port, &served);
        over.store(true, Ordering::Relaxed);
        client.join().expect("no answer was wrong")?;
        outcome
    })?;
    assert!(served.load(Ordering::Relaxed) > 0, "no request was made");
    Ok(())
}

/// Waits until a hundred more requests were answered.
fn progress(served: &AtomicU32) -> Result<()> {
    let goal = served.load(Ordering::Relaxed) + 100;
    wait_for(
        || "the application to go on".into(),
        PATIENCE,
        || (served.load(Ordering::Relaxed) >= goal).then_some(()),
    )
}
