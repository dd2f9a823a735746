//! Many connections, many processes, many new connections a second: what the agent then holds, and that it loses nothing.
//!
//! One server, some hundred processes that each hold idle connections to it after one request, and this process, which opens, uses and
//! closes connections at a steady rate. Only the server is traced, so connections are counted once. Loopback has many addresses:
//! they keep the ports from running out.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Resource, Rlimit, setrlimit};
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    Scale,
    agent::{Agent, in_memory},
    process::{self, Piped, wait_for},
    programs,
};

/// Port of the server.
const PORT: u16 = 18_080;

/// How long everything may take to be ready, guest time.
const PATIENCE: Duration = Duration::from_secs(120);

/// New connections are opened in bursts this far apart.
const BURST: Duration = Duration::from_millis(10);

const REQUEST: &[u8] = b"GET /scale HTTP/1.1\r\nHost: scale\r\n\r\n";

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello\n";

/// What was found; `cargo xtask bench scale` reads it.
#[derive(Debug, Serialize)]
struct Found {
    processes: u32,
    idle_connections: u32,
    new_connections: u64,
    /// Guest seconds that the new connections took.
    seconds: f64,
    /// Requests that the server served.
    served: u64,
    /// Spans that arrived.
    spans: u64,
    /// The agent's resident memory without maps, KiB: ready, with all idle connections, after the new ones.
    resident_kib: [u64; 3],
    /// Kernel memory of maps, bytes, likewise.
    map_bytes: [u64; 3],
    /// The agent's processor time during the new connections, nanoseconds.
    agent_ns: u64,
    /// All counters that are not zero.
    counters: BTreeMap<String, u64>,
}

/// Measures and writes the result.
///
/// # Errors
/// When a part does not start, answer or end.
pub(crate) fn run(size: &Scale) -> Result<()> {
    open_files(u64::from(size.connections) * 2 + 10_000)?;
    // A name of its own, by which it is selected.
    let server_file = Path::new("/run/scale-server");
    fs::copy(std::env::current_exe()?, server_file)?;
    let words = ["run", "--exe", "/run/scale-server"].map(str::to_owned);
    let agent = Agent::start(&in_memory(&size.files.agent)?, &words, &size.files.logs)?;
    let figures = || -> Result<(u64, u64)> {
        Ok((
            process::resident_kib(agent.pid())?,
            programs::memory(agent.pid())?.0,
        ))
    };
    let ready = figures()?;

    let server = Piped::start(Command::new(server_file).arg("serve").arg(PORT.to_string()))?;
    wait_for("the server to listen", PATIENCE, || {
        Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, PORT)).ok())
    })?;
    let each = size.connections / size.processes;
    let holders: Vec<Piped> = (0..size.processes)
        .map(|number| {
            let mut command = Command::new(std::env::current_exe()?);
            Piped::start(command.arg("hold").args([
                PORT.to_string(),
                each.to_string(),
                number.to_string(),
            ]))
        })
        .collect::<Result<_>>()?;
    let mut holders = holders;
    for holder in &mut holders {
        ensure!(
            holder.line()? == "ready",
            "a process could not open its connections"
        );
    }
    eprintln!("{} processes hold {each} connections each", size.processes);
    agent.settle()?;
    let idle = figures()?;

    let before = agent.clocks()?;
    let start = Instant::now();
    let new_connections = open_and_close(size)?;
    let seconds = start.elapsed().as_secs_f64();
    let after = agent.clocks()?;
    eprintln!("{new_connections} connections in {seconds:.1} s");
    agent.settle()?;
    let busy = figures()?;

    for holder in holders {
        holder.end()?;
    }
    let served = server
        .end()?
        .trim()
        .parse()
        .context("the server does not say what it served")?;
    let ended = agent.stop()?;
    let found = Found {
        processes: size.processes,
        idle_connections: each * size.processes,
        new_connections,
        seconds,
        served,
        spans: ended.received.spans,
        resident_kib: [ready.0, idle.0, busy.0],
        map_bytes: [ready.1, idle.1, busy.1],
        agent_ns: after.agent_ns - before.agent_ns,
        counters: ended
            .counters
            .into_iter()
            .filter(|(_, value)| *value != 0)
            .collect(),
    };
    fs::write(&size.files.out, serde_json::to_string_pretty(&found)?)
        .with_context(|| format!("cannot write {}", size.files.out.display()))
}

/// Opens, uses and closes connections at the asked rate; how many there were.
fn open_and_close(size: &Scale) -> Result<u64> {
    let burst = u64::from(size.rate) * u64::try_from(BURST.as_millis())? / 1000;
    let bursts = u64::from(size.seconds) * 1000 / u64::try_from(BURST.as_millis())?;
    let start = Instant::now();
    let mut number = 0;
    for index in 1..=bursts {
        for _ in 0..burst {
            // 127.1.0.1 to 127.1.0.250
            let address = Ipv4Addr::new(127, 1, 0, u8::try_from(number % 250)? + 1);
            request(&mut TcpStream::connect((address, PORT))?)?;
            number += 1;
        }
        // A burst that took longer than it may makes the next ones follow at once.
        if let Some(rest) = (BURST * u32::try_from(index)?).checked_sub(start.elapsed()) {
            thread::sleep(rest);
        }
    }
    Ok(number)
}

/// Makes one request on a connection and reads the whole answer.
fn request(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(REQUEST)?;
    let mut answer = [0; ANSWER.len()];
    stream.read_exact(&mut answer)?;
    ensure!(
        answer == *ANSWER,
        "the server answered {}",
        String::from_utf8_lossy(&answer)
    );
    Ok(())
}

/// Holds connections: see [`crate::Task::Hold`].
///
/// # Errors
/// When a connection cannot be opened or is not answered.
pub(crate) fn hold(port: u16, connections: u32, number: u32) -> Result<()> {
    let address = Ipv4Addr::new(
        127,
        2,
        u8::try_from(number / 250)?,
        u8::try_from(number % 250)? + 1,
    );
    let mut streams = Vec::new();
    for _ in 0..connections {
        let mut stream = TcpStream::connect((address, port))?;
        request(&mut stream)?;
        streams.push(stream);
    }
    println!("ready");
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}

/// Serves: see [`crate::Task::Serve`].
///
/// # Errors
/// When it cannot listen.
pub(crate) fn serve(port: u16) -> Result<()> {
    let served = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&served);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let listener = runtime.block_on(async { tokio::net::TcpListener::bind(address).await })?;
    thread::spawn(move || {
        runtime.block_on(async {
            while let Ok((stream, _)) = listener.accept().await {
                // A connection that breaks is over; what it was asked for is counted.
                tokio::spawn(answer(stream, Arc::clone(&count)));
            }
        });
    });
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    println!("{}", served.load(Ordering::Relaxed));
    Ok(())
}

async fn answer(mut stream: tokio::net::TcpStream, served: Arc<AtomicU64>) -> std::io::Result<()> {
    let mut seen = 0;
    let mut buffer = [0; REQUEST.len()];
    loop {
        match stream.read(&mut buffer[seen..]).await? {
            0 => return Ok(()),
            count => seen += count,
        }
        if seen == buffer.len() {
            served.fetch_add(1, Ordering::Relaxed);
            stream.write_all(ANSWER).await?;
            seen = 0;
        }
    }
}

/// Lets this process and those it starts open so many files.
fn open_files(count: u64) -> Result<()> {
    let limit = Rlimit {
        current: Some(count),
        maximum: Some(count),
    };
    setrlimit(Resource::Nofile, limit).context("cannot raise the limit of open files")
}
