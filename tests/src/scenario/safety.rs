//! The traced application does not notice.

use anyhow::Result;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::Scenario;
use crate::harness::{
    Context, PATIENCE, agent::Setup, collector::Collector, http::Connection, service, wait_for,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::core("safety_kill_minus_nine_once", |context| {
        kill_minus_nine(context, Seen::NewConnections, 1)
    })
    .within(UNDER_LOAD),
    Scenario::full("safety_kill_minus_nine", |context| {
        kill_minus_nine(context, Seen::NewConnections, 2)
    })
    .within(UNDER_LOAD),
    Scenario::full("safety_kill_minus_nine_older_connection", |context| {
        kill_minus_nine(context, Seen::OlderConnection, 2)
    })
    .within(UNDER_LOAD),
    Scenario::full(
        "safety_start_and_stop_under_load",
        start_and_stop_under_load,
    )
    .within(UNDER_LOAD),
];

/// Seconds for a scenario whose agents start beside a load that takes all it can get of the one processor.
const UNDER_LOAD: u64 = 480;

/// What the killed agents must have traced before they are killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// Requests on connections made after their start.
    NewConnections,
    /// Requests on the connection that carries the load and is older than they are.
    OlderConnection,
}

/// The agent is killed so many times in the middle of traffic and started again: no request fails, and the last agent sees every new connection.
fn kill_minus_nine(context: &mut Context, seen: Seen, times: u32) -> Result<()> {
    under_load(context, |context, port, served| {
        for _ in 0..times {
            let collector = Collector::start()?;
            let agent = Setup::grpc(&collector).port(port).start(context)?;
            if seen == Seen::NewConnections {
                ask(port, 6_000..6_020)?;
            }
            collector.wait_for_spans(20, PATIENCE)?;
            agent.kill_hard()?;
            progress(served)?;
        }
        let collector = Collector::start()?;
        let agent = Setup::grpc(&collector).port(port).start(context)?;
        ask(port, 7_000..7_050)?;
        wait_for(
            || collector.spans().render(),
            PATIENCE,
            || {
                (collector
                    .spans()
                    .servers()
                    .filter(|span| span.path().starts_with("/size/70"))
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

/// One request on a new connection for each size; sizes above 5,000 are asked for by nobody else.
fn ask(port: u16, sizes: std::ops::Range<usize>) -> Result<()> {
    for size in sizes {
        let response = Connection::open(port)?.get(&format!("/size/{size}"))?;
        assert_eq!((response.status, response.body.len()), (200, size));
    }
    Ok(())
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
