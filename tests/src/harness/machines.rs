//! Two machines on one wire. Both run this program: in one a scenario runs, the other one does what it is asked to.
//!
//! They talk over the wire itself, in lines of JSON: a question, then its answer, which may be why there is none.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{Skip, network, service, wait_for};

/// Address of the machine where the scenario runs.
pub(crate) const FIRST: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);
/// Address of the other one.
pub(crate) const SECOND: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 2);

/// Says which end of the wire this machine has, 1 or 2; set by what boots it.
const END: &str = "UNDERTRACE_END_OF_WIRE";
/// Where the second machine listens for the first one.
const PORT: u16 = 17_900;
/// How long the machines wait for each other: they boot at the same time, and one may be much slower.
const PATIENCE: Duration = Duration::from_secs(300);

/// A line of the second machine.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Done(Value),
    Failed(String),
}

/// The second machine, as the first one sees it.
#[derive(Debug)]
pub(crate) struct Other(Lines);

impl Other {
    /// Waits for it, and says which scenario's other half it shall do.
    ///
    /// # Errors
    /// [`Skip`] when there is no wire; otherwise when it does not come.
    pub(crate) fn meet(scenario: &str) -> Result<Self> {
        plug_in(FIRST)?;
        let address = SocketAddr::from((SECOND, PORT));
        let stream = wait_for(
            || "the other machine".to_owned(),
            PATIENCE,
            || TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok(),
        )?;
        let mut lines = Lines::of(stream)?;
        lines.put(&scenario)?;
        Ok(Self(lines))
    }

    /// Asks it something and waits for the answer.
    ///
    /// # Errors
    /// What went wrong over there.
    pub(crate) fn ask<T: DeserializeOwned>(&mut self, question: &impl Serialize) -> Result<T> {
        self.0.put(question)?;
        match self.0.take()?.context("the other machine hung up")? {
            Answer::Done(value) => Ok(serde_json::from_value(value)?),
            Answer::Failed(reason) => bail!("on the other machine: {reason}"),
        }
    }
}

/// The first machine, as the second one sees it.
#[derive(Debug)]
pub(crate) struct First(Lines);

impl First {
    /// What it asks next.
    ///
    /// # Errors
    /// When it has hung up, or asks something else.
    pub(crate) fn question<T: DeserializeOwned>(&mut self) -> Result<T> {
        self.0.take()?.context("the first machine hung up")
    }

    /// Answers the question.
    ///
    /// # Errors
    /// When it has hung up.
    pub(crate) fn answer(&mut self, value: &impl Serialize) -> Result<()> {
        self.0.put(&Answer::Done(serde_json::to_value(value)?))
    }
}

/// Waits for scenarios of the first machine for ever, and does for each what `work` does for its name.
///
/// # Errors
/// When there is no wire.
pub(crate) fn serve(work: impl Fn(&str, &mut First) -> Result<()>) -> Result<()> {
    plug_in(SECOND)?;
    let listener =
        TcpListener::bind((SECOND, PORT)).context("cannot wait for the other machine")?;
    loop {
        let (stream, _) = listener.accept()?;
        let mut first = First(Lines::of(stream)?);
        // One that was given up before it was taken says nothing.
        let Ok(name) = first.question::<String>() else {
            continue;
        };
        match work(&name, &mut first) {
            Ok(()) => println!("{name}: done"),
            Err(error) => {
                println!("{name}: {error:#}");
                // It may have hung up: then it knows by itself that something is wrong.
                let _ = first.0.put(&Answer::Failed(format!("{error:#}")));
            }
        }
    }
}

#[derive(Debug)]
struct Lines(BufReader<TcpStream>);

impl Lines {
    fn of(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(BufReader::new(stream)))
    }

    fn put(&mut self, value: &impl Serialize) -> Result<()> {
        let line = format!("{}\n", serde_json::to_string(value)?);
        Ok(self.0.get_mut().write_all(line.as_bytes())?)
    }

    /// The next line; none when the other side has hung up.
    fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        let mut line = String::new();
        if self.0.read_line(&mut line).context("the other machine")? == 0 {
            return Ok(None);
        }
        serde_json::from_str(&line)
            .map(Some)
            .with_context(|| format!("not what was expected: {line}"))
    }
}

/// Gives this machine's end of the wire its address.
fn plug_in(address: Ipv4Addr) -> Result<()> {
    let end = std::env::var(END).map_err(|_| Skip("there is no second machine".to_owned()))?;
    ensure!(
        end == address.octets()[3].to_string(),
        "this is the machine {end}"
    );
    run("modprobe", &["virtio_net"])?;
    let card = wait_for(
        || "a network card".to_owned(),
        super::PATIENCE,
        || cards().ok().and_then(|cards| cards.into_iter().next()),
    )?;
    // A scenario before this one may have done it already.
    run(
        "ip",
        &["address", "replace", &format!("{address}/24"), "dev", &card],
    )?;
    run("ip", &["link", "set", &card, "up"])
}

/// Interfaces with a device behind them, which loopback and tunnels have not.
fn cards() -> Result<Vec<String>> {
    let mut cards = Vec::new();
    for entry in fs::read_dir("/sys/class/net")? {
        let entry = entry?;
        if entry.path().join("device").exists() {
            cards.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(cards)
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    network::run(&mut Command::new(service::program(program)?), arguments)
        .with_context(|| program.to_owned())
}
