//! Agents that end and begin under the load of generated requests: by a normal stop, by SIGKILL, by an upgrade whose new agent starts before
//! the old one ends.
//!
//! Whatever happens, no connection breaks, no byte differs, and no request gets two lines. A conversation that lies wholly inside the time in
//! which an agent was at work gets every line that it is due; one that had ended before any agent was started gets none.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{injects, refused};
use crate::harness::{
    Context, PATIENCE,
    agent::{Agent, Setup, Statistics},
    collector::Collector,
    http::Connection,
    origin::{Reads, Recorder, pattern},
    requests::{
        compare::compare,
        due::Due,
        shapes::{Conversation, conversations},
    },
    wait_for,
};

/// Conversations of a load that begins anew when they are over.
const REQUESTS: usize = 400;

/// Conversations that are waited for while nothing begins or ends.
const SEVERAL: usize = 12;

/// A pause between two conversations: an agent that starts needs the only processor, too.
const PAUSE: Duration = Duration::from_millis(20);

/// A conversation that was held.
struct Held {
    /// Which one.
    index: usize,
    began: Instant,
    ended: Instant,
    received: Vec<u8>,
}

/// What is held while agents come and go.
struct Load<'a> {
    port: u16,
    held: &'a Mutex<Vec<Held>>,
}

impl Load<'_> {
    fn count(&self) -> usize {
        let held = self.held.lock().expect("nobody panics with the lock");
        held.len()
    }

    /// Waits until several conversations have begun and ended from now on, and gives the time that took.
    fn window(&self) -> Result<(Instant, Instant)> {
        let from = Instant::now();
        // One more: the first to end has begun before.
        let goal = self.count() + SEVERAL + 1;
        wait_for(
            || format!("{goal} conversations, {} were held", self.count()),
            PATIENCE,
            || (self.count() >= goal).then_some(()),
        )?;
        Ok((from, Instant::now()))
    }
}

/// What is known of the time under load.
#[derive(Default)]
struct Told {
    /// When the first agent was started.
    first_start: Option<Instant>,
    /// Times in which an agent was at work and stayed so.
    windows: Vec<(Instant, Instant)>,
    /// Lines that may be missing in these: of what agents counted as unseen or unproven.
    excused: u64,
    /// Connections that the kernel did not give to an agent, because another one had them.
    sockets_refused: u64,
    /// Statistics of the agent that was stopped, where headers are refused.
    refusal: Option<Statistics>,
    injects: bool,
}

impl Told {
    /// Starts an agent, after which windows may be taken.
    fn start(&mut self, context: &Context, ports: &[u16]) -> Result<(Agent, Collector)> {
        self.first_start.get_or_insert_with(Instant::now);
        let collector = Collector::start()?;
        let mut setup = Setup::grpc(&collector).arg("--inject");
        for port in ports {
            setup = setup.port(*port);
        }
        let agent = setup.start(context)?;
        self.injects = injects(&agent)?;
        Ok((agent, collector))
    }

    fn stop(&mut self, agent: Agent) -> Result<()> {
        let statistics = agent.stop()?;
        self.excused += statistics.get("programs_missed") + statistics.get("inject_unproven");
        self.sockets_refused += statistics.get("inject_sockets_refused");
        if !self.injects {
            self.refusal = Some(statistics);
        }
        Ok(())
    }

    fn kill(&mut self, agent: Agent) -> Result<()> {
        let counters = agent.report()?;
        let of = |name: &str| counters.get(name).copied().unwrap_or_default();
        self.excused += of("programs_missed") + of("inject_unproven");
        self.sockets_refused += of("inject_sockets_refused");
        agent.kill_hard()
    }
}

/// Holds conversations one after the other while `work` runs, then judges each of them.
fn under_load(
    context: &Context,
    work: impl FnOnce(&Load<'_>, &mut Told) -> Result<()>,
) -> Result<()> {
    let origin = Recorder::origin(context, Reads::Any)?;
    let all = conversations(0xdead, REQUESTS);
    let held = Mutex::new(Vec::new());
    let over = AtomicBool::new(false);
    let port = origin.port();
    let mut told = Told::default();
    thread::scope(|scope| {
        let (all, held, over) = (&all, &held, &over);
        let client = scope.spawn(move || hold(&origin, all, held, over));
        let load = Load { port, held };
        let outcome = load
            .window()
            .and_then(|_| work(&load, &mut told))
            .context("the agents");
        over.store(true, Ordering::Relaxed);
        client.join().expect("it does not panic")?;
        outcome
    })?;
    let held = held.into_inner().expect("nobody panics with the lock");
    judge(&all, &held, &told)
}

fn hold(
    origin: &Recorder,
    all: &[Conversation],
    held: &Mutex<Vec<Held>>,
    over: &AtomicBool,
) -> Result<()> {
    for index in (0..all.len()).cycle() {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let began = Instant::now();
        all[index]
            .run(origin.port())
            .with_context(|| format!("conversation {index}"))?;
        let received = origin.received()?;
        let one = Held {
            index,
            began,
            ended: Instant::now(),
            received,
        };
        held.lock().expect("nobody panics with the lock").push(one);
        thread::sleep(PAUSE);
    }
    Ok(())
}

fn judge(all: &[Conversation], held: &[Held], told: &Told) -> Result<()> {
    let first_start = told.first_start.context("an agent was started")?;
    let mut lines = 0;
    let mut missing = 0;
    let mut inside = vec![0; told.windows.len()];
    let mut before = 0;
    for one in held {
        let conversation = &all[one.index];
        let sent = conversation.bytes();
        let due = Due::of(&sent, Some(&conversation.ends()));
        let places: &[usize] = if told.injects { &due.lines } else { &[] };
        let judged = compare(&sent, places, &one.received)
            .with_context(|| format!("conversation {}", one.index))?;
        lines += judged.written.len();
        if one.ended < first_start {
            before += 1;
            ensure!(judged.written.is_empty(), "a line before any agent");
        }
        let window = told
            .windows
            .iter()
            .position(|(from, to)| *from <= one.began && one.ended <= *to);
        if let Some(window) = window {
            inside[window] += judged.written.len();
            missing += judged.missing;
        }
    }
    ensure!(before >= SEVERAL, "{before} conversations before any agent");
    if !told.injects {
        let statistics = told.refusal.as_ref();
        return refused(statistics.context("an agent was stopped")?);
    }
    println!("injected: {lines} in {} conversations", held.len());
    for count in &inside {
        ensure!(*count > 0, "no line while an agent was at work: {inside:?}");
    }
    ensure!(
        missing <= told.excused,
        "{missing} lines are missing while an agent was at work, {} are excused",
        told.excused
    );
    Ok(())
}

/// Agents are stopped and killed by turns, each after it has been at work.
pub(super) fn restarts(context: &mut Context) -> Result<()> {
    under_load(context, |load, told| {
        for kills in [false, true, false] {
            let (agent, _collector) = told.start(context, &[load.port])?;
            let window = load.window()?;
            told.windows.push(window);
            if kills {
                told.kill(agent)?;
            } else {
                told.stop(agent)?;
            }
            if !told.injects {
                break;
            }
            load.window()?;
        }
        Ok(())
    })
}

/// A connection that stays open through all changes.
struct Kept {
    /// Which.
    name: &'static str,
    connection: Connection,
    sent: Vec<u8>,
    /// Requests into which a line must be written, by their number; the others may have one.
    due: Vec<usize>,
    count: usize,
}

impl Kept {
    fn open(port: u16, name: &'static str) -> Result<Self> {
        Ok(Self {
            name,
            connection: Connection::open(port)?,
            sent: Vec::new(),
            due: Vec::new(),
            count: 0,
        })
    }

    /// Asks three times; `is_due`: each of these requests must get a line.
    fn ask(&mut self, is_due: bool) -> Result<()> {
        for _ in 0..3 {
            let size = 100 + 1_000 * (self.count % 4);
            let head = format!(
                "GET /size/{size}?{} HTTP/1.1\r\nHost: shop.test\r\nX-Connection: {}\r\n\r\n",
                self.count, self.name
            );
            self.connection.send(head.as_bytes())?;
            let response = self.connection.response("GET")?;
            ensure!(response.body == pattern(size), "{}: the answer", self.name);
            self.sent.extend_from_slice(head.as_bytes());
            if is_due {
                self.due.push(self.count);
            }
            self.count += 1;
        }
        Ok(())
    }

    /// Ends it, compares what arrived, and gives how many lines are there and how many of those that must be are not.
    fn judge(self, origin: &Recorder, may_have_lines: bool) -> Result<(usize, u64)> {
        drop(self.connection);
        let received = origin.received()?;
        let due = Due::of(&self.sent, None);
        let places: &[usize] = if may_have_lines { &due.lines } else { &[] };
        let judged = compare(&self.sent, places, &received).context(self.name)?;
        let has_line = |number: &&usize| {
            // From its first line on, which no other request has.
            let before = number.checked_sub(1).map_or(0, |one| due.lines[one]);
            let head = &self.sent[before..due.lines[**number]];
            let wanted = [head, b"traceparent: "].concat();
            received.windows(wanted.len()).any(|part| part == wanted)
        };
        let missing = self.due.iter().filter(|number| !has_line(number)).count();
        Ok((judged.written.len(), missing as u64))
    }
}

/// The new agent starts before the old one is stopped, and then before the next one is killed. Connections of every age go on: one that is older
/// than all agents never gets a line, each other one gets them from the agent that it was made under, while that is there.
pub(super) fn upgrade(context: &mut Context) -> Result<()> {
    let kept_origin = Recorder::origin(context, Reads::Any)?;
    let port = kept_origin.port();
    let contexts = [Context::new("upgrade_1")?, Context::new("upgrade_2")?];
    let mut oldest = Kept::open(port, "older than all")?;
    oldest.ask(false)?;
    let mut outcome = None;
    under_load(context, |load, told| {
        let ports = [load.port, port];
        let (first, _to_first) = told.start(context, &ports)?;
        if !told.injects {
            return told.stop(first);
        }
        told.windows.push(load.window()?);
        let mut one = Kept::open(port, "of the first agent")?;
        one.ask(true)?;
        oldest.ask(false)?;
        let (second, _to_second) = told.start(&contexts[0], &ports)?;
        told.windows.push(load.window()?);
        let mut both = Kept::open(port, "of the first overlap")?;
        both.ask(true)?;
        one.ask(true)?;
        oldest.ask(false)?;
        told.stop(first)?;
        told.windows.push(load.window()?);
        let mut two = Kept::open(port, "of the second agent")?;
        two.ask(true)?;
        for kept in [&mut oldest, &mut one, &mut both] {
            kept.ask(false)?;
        }
        let (third, _to_third) = told.start(&contexts[1], &ports)?;
        told.windows.push(load.window()?);
        let mut second_overlap = Kept::open(port, "of the second overlap")?;
        second_overlap.ask(true)?;
        two.ask(true)?;
        told.kill(second)?;
        let mut three = Kept::open(port, "of the third agent")?;
        three.ask(true)?;
        told.windows.push(load.window()?);
        for kept in [
            &mut oldest,
            &mut one,
            &mut both,
            &mut two,
            &mut second_overlap,
        ] {
            kept.ask(false)?;
        }
        told.stop(third)?;
        for kept in [
            &mut oldest,
            &mut one,
            &mut both,
            &mut two,
            &mut second_overlap,
            &mut three,
        ] {
            kept.ask(false)?;
        }
        ensure!(
            told.sockets_refused > 0,
            "two agents were at work, and each got every connection"
        );
        outcome = Some(([one, both, two, second_overlap, three], told.excused));
        Ok(())
    })?;
    let (kept, excused) = outcome.context("all was done")?;
    let (none, _) = oldest.judge(&kept_origin, false)?;
    ensure!(none == 0, "lines on a connection older than all agents");
    let (mut lines, mut missing) = (0, 0);
    for one in kept {
        let (written, absent) = one.judge(&kept_origin, true)?;
        lines += written;
        missing += absent;
    }
    println!("injected: {lines} on connections that stayed open");
    ensure!(
        missing <= excused,
        "{missing} lines are missing on connections that stayed open, {excused} are excused"
    );
    Ok(())
}
