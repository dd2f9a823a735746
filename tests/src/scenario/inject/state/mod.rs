//! `tracestate` beside the `traceparent` that is written: the exact bytes of calls that a service makes for requests with one.
//!
//! What comes in, what the service sends, and what must arrive stands in [`cases`].

mod cases;

use std::{cell::RefCell, sync::mpsc::Receiver};

use anyhow::{Result, bail, ensure};

use self::cases::{Case, Due, PLAIN, Unknown, cases, incoming, other_context, parent};
use super::{balance, injects, refused, wire::recorder};
use crate::{
    harness::{
        Context, PATIENCE,
        agent::{Agent, Setup},
        collector::Collector,
        http::Connection,
        process::Program,
        service,
    },
    scenario::Scenario,
};

pub(in crate::scenario) const SCENARIOS: &[Scenario] = &[
    Scenario::core("context_tracestate_exact_bytes", exact_bytes),
    Scenario::full("context_tracestate_of_untrusted_peer", of_untrusted_peer),
    Scenario::full(
        "context_tracestate_of_untrusted_peer_with_record",
        of_untrusted_peer_with_record,
    ),
    Scenario::full("context_tracestate_of_one_request_alone", of_one_request),
    Scenario::full("context_tracestate_through_two_services", through_two),
    Scenario::full("context_tracestate_on_kept_connections", |context| {
        on_kept(context, &[], 9, 1)
    }),
    // A state that is withheld at the last moment leaves no record at a wrong place.
    Scenario::full(
        "context_tracestate_withheld_on_kept_connections",
        |context| on_kept(context, &["--fault", "inject-state-replaced"], 0, 6),
    ),
    Scenario::full("accounting_inject_states_full", states_full),
    Scenario::full("accounting_inject_states_removed", removed),
    Scenario::full("accounting_inject_states_of_contended_request", contended),
    Scenario::full("accounting_inject_states_withheld", vanished),
    Scenario::full("safety_tracestate_that_was_replaced", replaced),
    Scenario::full("safety_tracestate_unchecked_is_seen", unchecked_is_seen),
];

/// Services, of which each calls the next one and the last one a recorder, and an agent that traces those services alone.
struct Relay {
    front: u16,
    received: Receiver<Vec<u8>>,
    agent: Agent,
    collector: Collector,
    injects: bool,
    /// Trace ids and parent ids that were written into calls, of requests that are sampled.
    written: RefCell<Vec<(String, String)>>,
    _services: Vec<Program>,
}

impl Relay {
    fn start(context: &Context, arguments: &[&str]) -> Result<Self> {
        Self::chain(context, 1, arguments)
    }

    /// All services but the last one keep their connections to the next one.
    fn chain(context: &Context, length: usize, arguments: &[&str]) -> Result<Self> {
        let (mut front, received) = recorder(context)?;
        let collector = Collector::start()?;
        let mut services = Vec::new();
        let mut setup = Setup::grpc(&collector).arg("--inject");
        for place in 0..length {
            let (port, backend) = (context.port(), front.to_string());
            let options = ["--backend", &backend, "--keep"];
            let options = &options[..if place == 0 { 2 } else { 3 }];
            let service = service::python(context, "relay.py", port, options)?;
            setup = setup.arg("--pid").arg(service.pid().to_string());
            services.push(service);
            front = port;
        }
        for argument in arguments {
            setup = setup.arg(*argument);
        }
        let agent = setup.start(context)?;
        let injects = injects(&agent)?;
        Ok(Self {
            front,
            received,
            agent,
            collector,
            injects,
            written: RefCell::default(),
            _services: services,
        })
    }

    /// Sends the requests of a case on a connection of their own, and compares each call that arrives for them.
    fn run(&self, case: &Case) -> Result<()> {
        let mut connection = Connection::open(self.front)?;
        for send in &case.sends {
            connection.send(send)?;
            connection.wait_until_read(self.front)?;
        }
        for due in &case.due {
            self.answered(&mut connection, case.name)?;
            self.arrives(case.name, due)?;
        }
        Ok(())
    }

    /// Sends a request, and compares the calls that arrive for it.
    fn ask(&self, connection: &mut Connection, request: &[u8], due: &[Due]) -> Result<()> {
        let name = request.escape_ascii().to_string();
        connection.send(request)?;
        self.answered(connection, &name)?;
        for due in due {
            self.arrives(&name, due)?;
        }
        Ok(())
    }

    fn answered(&self, connection: &mut Connection, name: &str) -> Result<()> {
        let response = connection.response("GET")?;
        ensure!(response.status == 200, "{name}: {}", response.status);
        Ok(())
    }

    /// The next call is what the service sent, with exactly the lines that are due.
    fn arrives(&self, name: &str, due: &Due) -> Result<()> {
        let call = self.received.recv_timeout(PATIENCE)?;
        if !self.injects {
            ensure!(call == due.sent, "{name}: {}", call.escape_ascii());
            return Ok(());
        }
        let (masked, expected) = (
            masked(&call, due.unknown),
            masked(&due.written, due.unknown),
        );
        ensure!(
            masked == expected,
            "{name}: the calls differ\nreceived {}\nexpected {}",
            call.escape_ascii(),
            due.written.escape_ascii()
        );
        if due.unknown != Unknown::Nothing {
            self.written.borrow_mut().extend(sampled_ids(&call));
        }
        Ok(())
    }

    /// Ends with what the counters must be. Each id that was written as a parent's is that of one span of a client, in that trace.
    fn finish(self, expected: &[(&str, u64)]) -> Result<()> {
        let statistics = self.agent.stop()?;
        if !self.injects {
            return refused(&statistics);
        }
        println!(
            "injected: {}, {} with a state",
            statistics.get("inject_inserted"),
            statistics.get("inject_states")
        );
        for (name, value) in expected {
            assert_eq!(statistics.get(name), *value, "{name}\n{statistics}");
        }
        balance(&statistics);
        let clients = self.collector.spans().clients();
        for (trace_id, span_id) in self.written.take() {
            let of_call = clients.filter(|span| span.span_id() == span_id);
            assert_eq!(of_call.only().trace_id(), trace_id, "{span_id}");
        }
        Ok(())
    }
}

/// Trace ids and parent ids of the lines `traceparent` whose flags say that the request is sampled.
fn sampled_ids(call: &[u8]) -> Vec<(String, String)> {
    let call = String::from_utf8_lossy(call);
    let values = call.split("traceparent: 00-").skip(1);
    values
        .filter_map(|value| {
            let mut parts = value.lines().next()?.split('-');
            let (trace_id, span_id, flags) = (parts.next()?, parts.next()?, parts.next()?);
            let is_sampled = matches!(flags, "01" | "03");
            is_sampled.then(|| (trace_id.to_owned(), span_id.to_owned()))
        })
        .collect()
}

/// With stars for the digits that are not known before the run.
fn masked(call: &[u8], unknown: Unknown) -> Vec<u8> {
    const NAME: &[u8] = b"traceparent: 00-";
    let digits = match unknown {
        Unknown::Nothing => 0..0,
        Unknown::Parent => 33..49,
        Unknown::TraceAndParent => 0..49,
    };
    let mut masked = call.to_vec();
    for at in 0..call.len() {
        if !call[at..].starts_with(NAME) {
            continue;
        }
        for place in digits.clone() {
            // What is no digit still differs.
            if let Some(byte) = masked.get_mut(at + NAME.len() + place)
                && matches!(byte, b'0'..=b'9' | b'a'..=b'f')
            {
                *byte = b'*';
            }
        }
    }
    masked
}

fn exact_bytes(context: &mut Context) -> Result<()> {
    let relay = Relay::start(context, &[])?;
    let cases = cases();
    for case in &cases {
        relay.run(case)?;
    }
    let due = || cases.iter().flat_map(|case| &case.due);
    let expected = [
        ("inject_inserted", due().map(|due| due.lines).sum()),
        ("inject_states", due().map(|due| due.states).sum()),
        (
            "inject_states_dropped",
            cases.iter().map(|case| case.dropped).sum(),
        ),
        (
            "inject_states_withheld",
            cases.iter().map(|case| case.withheld).sum(),
        ),
        ("inject_states_full", 0),
        ("inject_own_context", 3),
        ("inject_rewritten", 2),
        ("inject_tunnel", 1),
        ("inject_split", 1),
    ];
    relay.finish(&expected)
}

/// What comes from outside of the trusted networks is no context, and neither is its state.
fn of_untrusted_peer(context: &mut Context) -> Result<()> {
    let relay = Relay::start(context, &["--trust-context", "127.0.0.2/32"])?;
    let request = incoming(PLAIN, &[parent("01"), "tracestate: a=1\r\n".to_owned()]);
    relay.run(&Case::new("untrusted", request, Due::root(PLAIN)))?;
    let expected = [
        ("contexts_untrusted", 1),
        ("inject_inserted", 1),
        ("inject_states", 0),
        ("inject_states_dropped", 0),
    ];
    relay.finish(&expected)
}

/// Nor is a state that comes from there beside a context that this kernel's own record confirms.
fn of_untrusted_peer_with_record(context: &mut Context) -> Result<()> {
    let relay = Relay::chain(context, 2, &["--trust-context", "127.0.0.2/32"])?;
    let own = [other_context(), "tracestate: a=1\r\n".to_owned()];
    let call = String::from_utf8(incoming(PLAIN, &own))?;
    relay.run(&Case::new(
        "untrusted, with a record",
        incoming(&call, &[]),
        Due::with(PLAIN, &other_context(), Unknown::Parent),
    ))?;
    let expected = [
        ("handovers_found", 1),
        ("contexts_untrusted", 0),
        ("inject_own_context", 1),
        ("inject_inserted", 1),
        ("inject_states", 0),
        ("inject_states_dropped", 0),
        ("inject_states_withheld", 0),
    ];
    relay.finish(&expected)
}

/// A state belongs to its own request: the next one of the connection has none, and the one behind it another.
fn of_one_request(context: &mut Context) -> Result<()> {
    let relay = Relay::start(context, &[])?;
    let mut connection = Connection::open(relay.front)?;
    for state in ["a=1", "", "b=22", "", ""] {
        let line = if state.is_empty() {
            String::new()
        } else {
            format!("tracestate: {state}\r\n")
        };
        let request = incoming(PLAIN, &[parent("01"), line]);
        relay.ask(&mut connection, &request, &[Due::child(PLAIN, "01", state)])?;
    }
    relay.finish(&[("inject_inserted", 5), ("inject_states", 2)])
}

/// The second service is joined by the first one's record in this kernel, and takes flags and state from the header that comes with it.
fn through_two(context: &mut Context) -> Result<()> {
    let relay = Relay::chain(context, 2, &[])?;
    let state = "tracestate: a=1,b=2\r\n".to_owned();
    let call = String::from_utf8(incoming(PLAIN, &[]))?;
    relay.run(&Case::new(
        "through two services",
        incoming(&call, &[parent("03"), state]),
        Due::child(PLAIN, "03", "a=1,b=2"),
    ))?;
    relay.finish(&[
        ("handovers_found", 1),
        ("record_differs", 0),
        ("inject_inserted", 2),
        ("inject_states", 2),
    ])
}

/// Behind lines of different lengths the second service finds the record of each request of a connection at its place: also behind two that are sent at one
/// time, of which the first one gets no state. So many states are written, and so many are not.
fn on_kept(context: &mut Context, faults: &[&str], written: u64, withheld: u64) -> Result<()> {
    let relay = Relay::chain(context, 2, faults)?;
    let carried = |state| if written == 0 { "" } else { state };
    let mut connection = Connection::open(relay.front)?;
    let call = String::from_utf8(incoming(PLAIN, &[]))?;
    let long = "v".repeat(256);
    for state in ["v", "", "v=12345,w=6", &long] {
        let lines = match state {
            "" => vec![parent("01")],
            state => vec![parent("01"), format!("tracestate: {state}\r\n")],
        };
        let due = [Due::child(PLAIN, "01", carried(state))];
        relay.ask(&mut connection, &incoming(&call, &lines), &due)?;
    }
    let lines = [parent("01"), "tracestate: w\r\n".to_owned()];
    // The second service does not know which of the two it works for.
    let due = [Due::root(PLAIN), Due::root(PLAIN)];
    relay.ask(&mut connection, &incoming(&call.repeat(2), &lines), &due)?;
    let due = [Due::child(PLAIN, "01", carried("w"))];
    relay.ask(&mut connection, &incoming(&call, &lines), &due)?;
    relay.finish(&[
        ("handovers_found", 7),
        ("record_differs", 0),
        ("inject_inserted", 14),
        ("inject_states", written),
        ("inject_states_withheld", withheld),
    ])
}

/// The table has room for one request: while that is open, the state of another one is left out.
fn states_full(context: &mut Context) -> Result<()> {
    let relay = Relay::start(context, &["--fault", "states-full"])?;
    let state = "tracestate: a=1\r\n".to_owned();
    // The call does not end, and so gets no answer.
    let mut waiting = Connection::open(relay.front)?;
    waiting.send(&incoming(
        "GET /unfinished HTTP/1.1\r\n",
        &[parent("01"), state.clone()],
    ))?;
    waiting.wait_until_read(relay.front)?;
    let request = incoming(PLAIN, &[parent("01"), state]);
    relay.run(&Case::new("full", request, Due::child(PLAIN, "01", "")))?;
    let expected = [
        ("inject_states_full", 1),
        ("inject_states", 0),
        ("inject_inserted", 1),
    ];
    relay.finish(&expected)
}

/// A state is gone with its request, and the table has room for the next one: of the same connection, and of another one while that is open.
fn removed(context: &mut Context) -> Result<()> {
    let relay = Relay::start(context, &["--fault", "states-full"])?;
    let mut connections = [
        Connection::open(relay.front)?,
        Connection::open(relay.front)?,
    ];
    for (place, state) in [(0, "a=1"), (0, "b=22"), (1, "c=333"), (0, "d=4")] {
        let line = format!("tracestate: {state}\r\n");
        let request = incoming(PLAIN, &[parent("01"), line]);
        let due = [Due::child(PLAIN, "01", state)];
        relay.ask(&mut connections[place], &request, &due)?;
    }
    relay.finish(&[("inject_states_full", 0), ("inject_states", 4)])?;
    // Open until here: their ends would have taken the states out, too.
    drop(connections);
    Ok(())
}

/// A request that was left open when the next one of its connection came leaves no state: the table, which has room for one, takes that of another connection.
fn contended(context: &mut Context) -> Result<()> {
    let faults = ["--fault", "states-full", "--fault", "close-contended"];
    let relay = Relay::start(context, &faults)?;
    let state = "tracestate: a=1\r\n".to_owned();
    let mut first = Connection::open(relay.front)?;
    let with = incoming(PLAIN, &[parent("01"), state.clone()]);
    first.send(&[with, incoming(PLAIN, &[parent("01")])].concat())?;
    for _ in 0..2 {
        relay.answered(&mut first, "left open")?;
        relay.arrives("left open", &Due::root(PLAIN))?;
    }
    let request = incoming(PLAIN, &[parent("01"), state]);
    relay.run(&Case::new(
        "another",
        request,
        Due::child(PLAIN, "01", "a=1"),
    ))?;
    let expected = [
        ("inject_states_full", 0),
        ("inject_states", 1),
        ("inject_inserted", 3),
    ];
    relay.finish(&expected)?;
    // Open until here: its end would have taken the state out, too.
    drop(first);
    Ok(())
}

/// A state that is gone when a call is made for its request is missed by that call, and counted.
fn vanished(context: &mut Context) -> Result<()> {
    let relay = Relay::start(context, &["--fault", "states-vanish"])?;
    let request = incoming(PLAIN, &[parent("01"), "tracestate: a=1\r\n".to_owned()]);
    relay.run(&Case::new("vanished", request, Due::child(PLAIN, "01", "")))?;
    let without = incoming(PLAIN, &[parent("01")]);
    relay.run(&Case::new("none", without, Due::child(PLAIN, "01", "")))?;
    let expected = [
        ("inject_states_withheld", 1),
        ("inject_states_full", 0),
        ("inject_states", 0),
        ("inject_inserted", 2),
    ];
    relay.finish(&expected)
}

/// What is not the state that was meant when it comes to writing it is not written.
fn replaced(context: &mut Context) -> Result<()> {
    let relay = Relay::start(context, &["--fault", "inject-state-replaced"])?;
    let request = incoming(PLAIN, &[parent("01"), "tracestate: a=1\r\n".to_owned()]);
    relay.run(&Case::new("replaced", request, Due::child(PLAIN, "01", "")))?;
    let expected = [
        ("inject_states_withheld", 1),
        ("inject_states", 0),
        ("inject_inserted", 1),
    ];
    relay.finish(&expected)
}

/// A negative control: without the look at it, the comparison of bytes fails.
fn unchecked_is_seen(context: &mut Context) -> Result<()> {
    let faults = [
        "--fault",
        "inject-state-replaced",
        "--fault",
        "inject-state-unchecked",
    ];
    let relay = Relay::start(context, &faults)?;
    let request = incoming(PLAIN, &[parent("01"), "tracestate: a=1\r\n".to_owned()]);
    let outcome = relay.run(&Case::new(
        "unchecked",
        request,
        Due::child(PLAIN, "01", "a=1"),
    ));
    relay.finish(&[("inject_inserted", 1), ("inject_states", 1)])?;
    let Err(error) = outcome else {
        bail!("another state was not seen");
    };
    let text = format!("{error:#}");
    ensure!(text.contains("the calls differ"), "{text}");
    Ok(())
}
