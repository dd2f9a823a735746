//! Headers on connections that are older than the agent, and sockets that are let go.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
};

use anyhow::{Result, bail, ensure};

use super::{
    conversation::{ANSWER, Conversation, UPGRADED, enrolled},
    injects, refused,
    wire::LINE,
};
use crate::{
    harness::{
        Context, PATIENCE,
        agent::{Agent, Setup, Statistics},
        wait_for,
    },
    scenario::Scenario,
};

pub(in crate::scenario) const SCENARIOS: &[Scenario] = &[
    Scenario::core(
        "context_header_existing_connections",
        from_the_third_request,
    ),
    Scenario::full("safety_header_existing_only_on_request", only_on_request),
    Scenario::full("safety_header_existing_waits_until_idle", waits_until_idle),
    Scenario::full("safety_header_existing_upload", |context| {
        let (injects, statistics) = upload(context, &[])?;
        if !injects {
            return refused(&statistics);
        }
        Ok(())
    }),
    Scenario::full(
        "safety_header_existing_upload_is_seen",
        |context| match upload(context, &["--fault", "inject-eagerly"]) {
            Ok((false, statistics)) => refused(&statistics),
            Ok((true, _)) => bail!("headers in a body were not seen"),
            Err(error) => {
                let text = format!("{error:#}");
                ensure!(text.contains("the body differs"), "{text}");
                Ok(())
            }
        },
    ),
    Scenario::full("safety_header_lets_go_of_other_protocols", lets_go),
    Scenario::full("accounting_inject_older_over_limit", over_limit),
];

const OPEN: usize = 3;

/// An agent that traces this port and writes headers, with these further arguments; whether it does.
fn traced(context: &Context, port: u16, arguments: &[&str]) -> Result<(Agent, bool)> {
    let mut setup = Setup::bare().port(port).arg("--inject");
    for argument in arguments {
        setup = setup.arg(*argument);
    }
    let agent = setup.start(context)?;
    let injects = injects(&agent)?;
    Ok((agent, injects))
}

/// Waits until these counters are at least so high; gives all of them.
pub(super) fn wait_for_counts(
    agent: &Agent,
    wanted: &[(&str, u64)],
) -> Result<BTreeMap<String, u64>> {
    wait_for(
        || format!("{wanted:?}:\n{}", agent.output()),
        PATIENCE,
        || {
            let report = agent.report().ok()?;
            let has = |(name, value): &(&str, u64)| {
                report.get(*name).copied().unwrap_or_default() >= *value
            };
            wanted.iter().all(has).then_some(report)
        },
    )
}

fn assert_counts(statistics: &Statistics, expected: &[(&str, u64)]) {
    for (name, value) in expected {
        assert_eq!(statistics.get(name), *value, "{name}\n{statistics}");
    }
}

/// The agent sees one request, puts the idle connection in, sees a second one answered, and writes into those that follow.
fn from_the_third_request(context: &mut Context) -> Result<()> {
    let mut conversation = Conversation::new(context)?;
    for _ in 0..OPEN {
        conversation.connect()?;
    }
    conversation.ask(false)?;
    let (agent, injects) = traced(context, conversation.port, &["--inject-existing"])?;
    conversation.ask(false)?;
    let open = OPEN as u64;
    if injects {
        wait_for_counts(&agent, &[("inject_older_enrolled", open)])?;
        assert_eq!(enrolled()?, OPEN);
    }
    conversation.ask(false)?;
    conversation.ask(true)?;
    conversation.ask(true)?;
    let statistics = agent.stop()?;
    conversation.ask(false)?;
    conversation.end(injects)?;
    if !injects {
        return refused(&statistics);
    }
    println!("injected: {}", statistics.get("inject_inserted"));
    assert_counts(
        &statistics,
        &[
            ("inject_older", open),
            ("inject_older_enrolled", open),
            ("inject_older_refused", 0),
            ("inject_sockets", 0),
            ("inject_requests", 3 * open),
            ("inject_unproven", open),
            ("inject_inserted", 2 * open),
            ("inject_let_go", open),
            ("client_decisions", 4 * open),
        ],
    );
    Ok(())
}

/// Only the first of them is remembered, and gets headers; those that are turned away are counted, one by one, and go on without.
fn over_limit(context: &mut Context) -> Result<()> {
    let mut conversation = Conversation::new(context)?;
    for _ in 0..OPEN {
        conversation.connect()?;
    }
    conversation.ask(false)?;
    let fault = "inject-older-over-limit";
    let arguments = ["--inject-existing", "--fault", fault];
    let (agent, injects) = traced(context, conversation.port, &arguments)?;
    conversation.ask(false)?;
    // Both ends of each connection are seen, and when they are it is not known which of them asks: all but the first end are turned away.
    let turned_away = 2 * OPEN as u64 - 1;
    if injects {
        let wanted = [
            ("inject_older_enrolled", 1),
            ("inject_older_over_limit", turned_away),
        ];
        wait_for_counts(&agent, &wanted)?;
        assert_eq!(enrolled()?, 1);
    }
    conversation.ask(false)?;
    conversation.ask_each(|n| n == 0)?;
    conversation.ask_each(|n| n == 0)?;
    let statistics = agent.stop()?;
    conversation.end(injects)?;
    if !injects {
        return refused(&statistics);
    }
    println!("injected: {}", statistics.get("inject_inserted"));
    assert_counts(
        &statistics,
        &[
            ("inject_older_over_limit", turned_away),
            ("inject_older", 1),
            ("inject_older_enrolled", 1),
            ("inject_older_refused", 0),
            ("inject_requests", 3),
            ("inject_unproven", 1),
            ("inject_inserted", 2),
            ("inject_let_go", 1),
            ("client_decisions", 4 * OPEN as u64),
        ],
    );
    Ok(())
}

/// Without the flag they are counted, and left alone.
fn only_on_request(context: &mut Context) -> Result<()> {
    let mut conversation = Conversation::new(context)?;
    for _ in 0..OPEN {
        conversation.connect()?;
    }
    conversation.ask(false)?;
    let (agent, injects) = traced(context, conversation.port, &[])?;
    for _ in 0..4 {
        conversation.ask(false)?;
        assert_eq!(enrolled()?, 0);
    }
    let statistics = agent.stop()?;
    conversation.end(injects)?;
    if !injects {
        return refused(&statistics);
    }
    assert_counts(
        &statistics,
        &[
            ("inject_older", OPEN as u64),
            ("inject_older_enrolled", 0),
            ("inject_requests", 0),
            ("inject_bytes", 0),
            ("client_decisions", 4 * OPEN as u64),
        ],
    );
    Ok(())
}

/// A connection on which something is unread is not touched before it was read.
fn waits_until_idle(context: &mut Context) -> Result<()> {
    let conversation = Conversation::new(context)?;
    let mut client = TcpStream::connect(("127.0.0.1", conversation.port))?;
    client.set_read_timeout(Some(PATIENCE))?;
    client.write_all(b"GET /before HTTP/1.1\r\nHost: a\r\n\r\n")?;
    client.read_exact(&mut [0; ANSWER.len()])?;
    let (agent, injects) = traced(context, conversation.port, &["--inject-existing"])?;
    client.write_all(b"GET /unread HTTP/1.1\r\nHost: a\r\n\r\n")?;
    client.read_exact(&mut [0; ANSWER.len() - 2])?;
    if injects {
        let report = wait_for_counts(&agent, &[("inject_older_busy", 2)])?;
        assert_eq!(report.get("inject_older_enrolled"), None, "{report:?}");
        assert_eq!(enrolled()?, 0);
    }
    let mut rest = [0; 2];
    client.read_exact(&mut rest)?;
    assert_eq!(&rest, b"ok");
    if injects {
        wait_for_counts(&agent, &[("inject_older_enrolled", 1)])?;
        assert_eq!(enrolled()?, 1);
    }
    let statistics = agent.stop()?;
    if !injects {
        return refused(&statistics);
    }
    assert_counts(&statistics, &[("inject_older", 1), ("inject_let_go", 1)]);
    Ok(())
}

/// A piece of a body that reads like a request.
const PIECE: &[u8] = b"GET /piece HTTP/1.1\r\nHost: shop.test\r\n\r\n";

/// Pieces of which the body consists.
const PIECES: usize = 6;

/// An upload that began before the agent. Its body comes by pieces that read like requests, between interim responses; and requests follow it. No
/// header goes into the body.
fn upload(context: &mut Context, arguments: &[&str]) -> Result<(bool, Statistics)> {
    let port = context.port();
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    let mut client = TcpStream::connect(("127.0.0.1", port))?;
    let (mut server, _) = listener.accept()?;
    for end in [&client, &server] {
        end.set_read_timeout(Some(PATIENCE))?;
        end.set_nodelay(true)?;
    }
    let head = format!(
        "POST /upload HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        PIECES * PIECE.len()
    );
    client.write_all(head.as_bytes())?;
    server.read_exact(&mut vec![0; head.len()])?;
    let arguments = [&["--inject-existing"], arguments].concat();
    let (agent, injects) = traced(context, port, &arguments)?;

    let say = |text: &str, client: &mut TcpStream, server: &mut TcpStream| -> Result<()> {
        server.write_all(text.as_bytes())?;
        Ok(client.read_exact(&mut vec![0; text.len()])?)
    };
    say("HTTP/1.1 100 Continue\r\n\r\n", &mut client, &mut server)?;
    let mut received = Vec::new();
    for piece in 0..PIECES {
        client.write_all(PIECE)?;
        let mut bytes = vec![0; PIECE.len()];
        server.read_exact(&mut bytes)?;
        received.extend(bytes);
        say("HTTP/1.1 102 Processing\r\n\r\n", &mut client, &mut server)?;
        if piece == 0 && injects {
            wait_for_counts(&agent, &[("inject_older_enrolled", 1)])?;
        }
    }
    say(
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        &mut client,
        &mut server,
    )?;
    client.shutdown(Shutdown::Write)?;
    server.read_to_end(&mut received)?;
    let statistics = agent.stop()?;
    ensure!(
        received == PIECE.repeat(PIECES),
        "the body differs:\n{}",
        received.escape_ascii()
    );
    if injects {
        assert_counts(
            &statistics,
            &[
                ("inject_requests", PIECES as u64 - 1),
                ("inject_unproven", PIECES as u64 - 1),
                ("inject_bytes", 0),
            ],
        );
    }
    Ok((injects, statistics))
}

/// Connections that turn out to speak something else are taken out of the sockhash at once, and go on; those that speak HTTP stay.
fn lets_go(context: &mut Context) -> Result<()> {
    let conversation = Conversation::new(context)?;
    let (agent, injects) = traced(context, conversation.port, &[])?;
    let connect = || -> Result<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", conversation.port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    };
    let (mut speaks, mut upgraded, mut other) = (connect()?, connect()?, connect()?);
    speaks.write_all(b"GET /stays HTTP/1.1\r\nHost: a\r\n\r\n")?;
    speaks.read_exact(&mut [0; ANSWER.len()])?;
    upgraded.write_all(b"GET /up HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")?;
    upgraded.read_exact(&mut vec![0; UPGRADED.len()])?;
    other.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")?;
    other.read_exact(&mut [0; ANSWER.len()])?;
    if injects {
        wait_for_counts(&agent, &[("inject_let_go", 2)])?;
        assert_eq!(enrolled()?, 1);
    }
    // Both go on, in both directions.
    for stream in [&mut upgraded, &mut other] {
        stream.write_all(b"GET /no HTTP/1.1\r\n\r\n")?;
        stream.read_exact(&mut [0; ANSWER.len()])?;
    }
    let statistics = agent.stop()?;
    drop((speaks, upgraded, other));
    if !injects {
        return refused(&statistics);
    }
    assert_counts(
        &statistics,
        &[
            ("inject_sockets", 3),
            ("inject_inserted", 2),
            ("inject_bytes", 2 * LINE as u64),
            ("inject_let_go", 3),
        ],
    );
    Ok(())
}
