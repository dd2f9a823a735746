//! What one send and one receive cost, with and without the programs.
//!
//! Input: loaded programs. Output: medians over many calls on a loopback connection of this process. Half of the calls without programs come
//! before the others and half behind them, so that a machine that gets busier or faster meanwhile does not count for one state only.
//! (Taking turns would need programs that can be attached again, which Linux 5.10 does not allow.)

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use agent_common::abi::Verdict;
use aya::maps::MapError;
use serde::Serialize;

use crate::{
    event::reader::Reader,
    probe::{attach::Attached, error::ProbeError, maps::Maps},
};

/// Requests in a row in one state.
const REQUESTS: usize = 250;
/// Turns of all states.
const TURNS: usize = 4;

/// A small request and its response, so that the programs do all of their work.
const REQUEST: &[u8] = b"GET /doctor HTTP/1.1\r\nHost: localhost\r\nUser-Agent: undertrace doctor\r\nAccept: */*\r\n\r\n";
const RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nok\n";

/// Median time of the calls in each state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// Calls of each kind in each state.
    pub calls: usize,
    /// No program attached.
    pub detached: Calls,
    /// Programs attached, the process not traced.
    pub not_traced: Calls,
    /// Programs attached, the process traced.
    pub traced: Calls,
}

/// Median times, nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Calls {
    /// Of a send.
    pub send_ns: u64,
    /// Of a receive of data that is there already.
    pub receive_ns: u64,
}

/// Why the cost is not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum CostError {
    /// The maps cannot be used.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// This process cannot be selected.
    #[error("cannot select this process")]
    Select(#[from] MapError),
    /// A loopback connection does not work.
    #[error("cannot use a loopback connection")]
    Loopback(#[from] io::Error),
}

/// Times calls of this process, which the kernel knows as `own`, in all states, and detaches the programs.
pub(super) fn measure(
    attached: Attached,
    maps: Maps,
    mut before: Before,
    own: u32,
) -> Result<Cost, CostError> {
    let mut selection = maps.selection;
    let mut reader = Reader::new(maps.events)?;
    let Before {
        pair,
        times: detached_times,
    } = &mut before;
    let mut not_traced_times = Times::default();
    let mut traced_times = Times::default();
    for _ in 0..TURNS {
        pair.exchange(REQUESTS, &mut not_traced_times)?;
        selection.set(own, Verdict::Selected)?;
        let exchanged = pair.exchange(REQUESTS, &mut traced_times);
        selection.set(own, Verdict::Ignored)?;
        exchanged?;
        while !reader.drain(|_record| ()).emptied {}
    }
    drop(attached);
    pair.exchange(REQUESTS * TURNS / 2, detached_times)?;
    Ok(Cost {
        calls: traced_times.sends.len(),
        detached: before.times.medians(),
        not_traced: not_traced_times.medians(),
        traced: traced_times.medians(),
    })
}

/// Calls that were timed before anything was attached.
pub(super) struct Before {
    pair: Pair,
    times: Times,
}

impl Before {
    /// Times them.
    pub(super) fn measure() -> Result<Self, CostError> {
        let mut pair = Pair::open()?;
        // The first calls on a connection pay for caches and buffers.
        pair.exchange(REQUESTS, &mut Times::default())?;
        let mut times = Times::default();
        pair.exchange(REQUESTS * TURNS / 2, &mut times)?;
        Ok(Self { pair, times })
    }
}

/// Times of single calls, nanoseconds.
#[derive(Debug, Default)]
struct Times {
    sends: Vec<u64>,
    receives: Vec<u64>,
}

impl Times {
    fn medians(self) -> Calls {
        Calls {
            send_ns: median(self.sends),
            receive_ns: median(self.receives),
        }
    }
}

fn median(mut times: Vec<u64>) -> u64 {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or(0)
}

/// Both ends of a loopback connection.
struct Pair {
    client: TcpStream,
    server: TcpStream,
}

impl Pair {
    fn open() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let client = TcpStream::connect(listener.local_addr()?)?;
        let (server, _) = listener.accept()?;
        for end in [&client, &server] {
            end.set_nodelay(true)?;
            end.set_read_timeout(Some(Duration::from_secs(5)))?;
        }
        Ok(Self { client, server })
    }

    fn exchange(&mut self, requests: usize, times: &mut Times) -> io::Result<()> {
        for _ in 0..requests {
            pass(&mut self.client, &mut self.server, REQUEST, times)?;
            pass(&mut self.server, &mut self.client, RESPONSE, times)?;
        }
        Ok(())
    }
}

/// One send and one receive of all of it.
fn pass(
    from: &mut TcpStream,
    to: &mut TcpStream,
    bytes: &[u8],
    times: &mut Times,
) -> io::Result<()> {
    let mut buffer = [0; 256];
    let start = Instant::now();
    from.write_all(bytes)?;
    let sent = Instant::now();
    let received = to.read(&mut buffer)?;
    let end = Instant::now();
    if received != bytes.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    times.sends.push(nanoseconds(sent - start));
    times.receives.push(nanoseconds(end - sent));
    Ok(())
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_every_byte_both_ways() {
        let mut pair = Pair::open().expect("loopback works");
        let mut times = Times::default();
        pair.exchange(3, &mut times).expect("loopback works");
        assert_eq!((times.sends.len(), times.receives.len()), (6, 6));
    }

    #[test]
    fn takes_the_middle() {
        assert_eq!(median(vec![900, 1, 5]), 5);
        assert_eq!(median(Vec::new()), 0);
    }
}
