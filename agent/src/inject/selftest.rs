//! Proofs that a socket in the sockhash behaves as one outside of it, and that what is written into its bytes is exactly what was asked.
//!
//! Input: a [`Bench`]. Output: nothing, or the first [`Failure`]. Sockets are the agent's own, on loopback, IPv4 and IPv6; every wait is bounded.

use std::{
    fs::File,
    io::{self, IoSlice, Read as _, Seek as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    thread,
    time::{Duration, Instant},
};

use agent_common::{
    abi::{Injection, InjectionSlot},
    wire::{
        inject::{Action, LINE},
        traceparent::{self, TraceParent},
    },
};
use aya::maps::MapError;
use rustix::{
    event::{Timespec, epoll},
    fs::MemfdFlags,
    io::ioctl_fionread,
    net::SendFlags,
};

use crate::probe::inject::Bench;

/// How long a proof waits for bytes that are on their way.
const PATIENCE: Duration = Duration::from_secs(2);

/// Bytes of the large transfers.
const LARGE: usize = 1 << 20;

/// What did not behave.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// FIONREAD tells another number than there are unread bytes.
    #[error(
        "FIONREAD says {said} where {there} bytes are unread ({when}): applications that size their reads by it would stall"
    )]
    Fionread {
        /// What the ioctl said.
        said: u64,
        /// What is there.
        there: u64,
        /// In which situation.
        when: &'static str,
    },
    /// Other bytes arrived than were due.
    #[error("bytes differ: {when}")]
    Bytes {
        /// In which situation.
        when: &'static str,
    },
    /// A readiness event was lost or came without a reason.
    #[error("epoll is wrong: {when}")]
    Readiness {
        /// In which situation.
        when: &'static str,
    },
    /// The kernel did not take a socket, or let go of it.
    #[error("sockhash: {when}")]
    Map {
        /// What was tried.
        when: &'static str,
        /// What the system said.
        #[source]
        source: MapError,
    },
    /// A call failed or waited too long.
    #[error("{when} failed ({source})")]
    Call {
        /// Which one.
        when: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The kernel is known for a defect.
    #[error("{0}")]
    Known(&'static str),
    /// A test asked for it.
    #[error("made to fail")]
    Forced,
}

/// Gives the situation to a system call's error.
trait When<T> {
    fn when(self, when: &'static str) -> Result<T, Failure>;
}

impl<T> When<T> for io::Result<T> {
    fn when(self, when: &'static str) -> Result<T, Failure> {
        self.map_err(|source| Failure::Call { when, source })
    }
}

impl<T> When<T> for rustix::io::Result<T> {
    fn when(self, when: &'static str) -> Result<T, Failure> {
        self.map_err(|error| Failure::Call {
            when,
            source: error.into(),
        })
    }
}

impl<T> When<T> for Result<T, MapError> {
    fn when(self, when: &'static str) -> Result<T, Failure> {
        self.map_err(|source| Failure::Map { when, source })
    }
}

/// Runs every proof. To be called on the process's first thread; `own` is the id by which the kernel knows the process.
///
/// # Errors
/// The first proof that failed.
pub fn run(bench: &mut Bench, own: u32) -> Result<(), Failure> {
    let thread = u64::from(own) << 32 | u64::from(own);
    for (number, address) in (1..).zip([
        SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        SocketAddr::from((Ipv6Addr::LOCALHOST, 0)),
    ]) {
        // A machine without IPv6 has nothing to prove there.
        let Ok(listener) = TcpListener::bind(address) else {
            continue;
        };
        let mut pair = Pair::connect(&listener)?;
        pair.unread_at_enrolment(bench, number)?;
        pair.fionread()?;
        pair.peek()?;
        pair.readiness()?;
        pair.urgent()?;
        pair.sendfile()?;
        pair.transfers()?;
        pair.insertions(bench, thread)?;
        pair.one_piece(bench, thread)?;
        pair.rewriting(bench, thread)?;
        pair.large_transfer()?;
        pair.let_go(bench, number)?;
        let mut pair = Pair::connect(&listener)?;
        bench.enrol(number, &pair.client).when("enrolment")?;
        pair.half_close()?;
    }
    Ok(())
}

/// Both ends of a connection; only the client's is enrolled.
struct Pair {
    client: TcpStream,
    server: TcpStream,
}

impl Pair {
    fn connect(listener: &TcpListener) -> Result<Self, Failure> {
        let address = listener.local_addr().when("getsockname")?;
        let client = TcpStream::connect_timeout(&address, PATIENCE).when("connect")?;
        let (server, _) = listener.accept().when("accept")?;
        for end in [&client, &server] {
            end.set_read_timeout(Some(PATIENCE)).when("setsockopt")?;
            end.set_write_timeout(Some(PATIENCE)).when("setsockopt")?;
            end.set_nodelay(true).when("setsockopt")?;
        }
        Ok(Self { client, server })
    }

    fn expect_unread(&self, there: u64, when: &'static str) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let said = ioctl_fionread(&self.client).when("FIONREAD")?;
            if said == there {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Failure::Fionread { said, there, when });
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn unread_at_enrolment(&mut self, bench: &mut Bench, number: u64) -> Result<(), Failure> {
        self.server.write_all(&pattern(100)).when("send")?;
        self.expect_unread(100, "outside of the sockhash")?;
        bench.enrol(number, &self.client).when("enrolment")?;
        self.expect_unread(100, "unread since before the enrolment")?;
        receive(
            &mut self.client,
            &pattern(100),
            "unread since before the enrolment",
        )
    }

    fn fionread(&mut self) -> Result<(), Failure> {
        self.expect_unread(0, "after everything was read")?;
        self.server.write_all(&pattern(1000)).when("send")?;
        self.expect_unread(1000, "after one send")?;
        receive(&mut self.client, &pattern(1000)[..300], "the first part")?;
        self.expect_unread(700, "after a part was read")?;
        receive(&mut self.client, &pattern(1000)[300..], "the rest")?;
        self.expect_unread(0, "after the rest was read")
    }

    fn peek(&mut self) -> Result<(), Failure> {
        self.server.write_all(&pattern(50)).when("send")?;
        self.expect_unread(50, "before a look")?;
        let mut looked = [0; 50];
        let count = self.client.peek(&mut looked).when("MSG_PEEK")?;
        same(&looked[..count], &pattern(50), "a look at unread bytes")?;
        receive(&mut self.client, &pattern(50), "a read after a look")
    }

    /// Level-triggered: ready as long as bytes are unread. Edge-triggered: once for each arrival.
    fn readiness(&mut self) -> Result<(), Failure> {
        for (flags, edge) in [
            (epoll::EventFlags::IN, false),
            (epoll::EventFlags::IN | epoll::EventFlags::ET, true),
        ] {
            let poller = epoll::create(epoll::CreateFlags::CLOEXEC).when("epoll_create")?;
            epoll::add(&poller, &self.client, epoll::EventData::new_u64(1), flags)
                .when("epoll_ctl")?;
            wait(&poller, false, "ready without bytes")?;
            for _ in 0..2 {
                self.server.write_all(&pattern(20)).when("send")?;
                wait(&poller, true, "bytes arrived")?;
                wait(&poller, !edge, "no bytes arrived since the last wait")?;
            }
            receive(
                &mut self.client,
                &[pattern(20), pattern(20)].concat(),
                "what was announced",
            )?;
            wait(&poller, false, "ready after everything was read")?;
        }
        Ok(())
    }

    fn urgent(&mut self) -> Result<(), Failure> {
        self.client.write_all(b"before").when("send")?;
        rustix::net::send(&self.client, b"!", SendFlags::OOB).when("urgent send")?;
        self.client.write_all(b"after").when("send")?;
        rustix::net::sockopt::set_socket_oobinline(&self.server, true).when("setsockopt")?;
        receive(&mut self.server, b"before!after", "urgent data")
    }

    fn sendfile(&mut self) -> Result<(), Failure> {
        let content = pattern(60_000);
        let memory =
            rustix::fs::memfd_create("undertrace", MemfdFlags::CLOEXEC).when("memfd_create")?;
        let mut file = File::from(memory);
        file.write_all(&content).when("write")?;
        file.rewind().when("lseek")?;
        let mut sent = 0;
        let mut received = Vec::new();
        while sent < content.len() {
            let count = rustix::fs::sendfile(&self.client, &file, None, content.len() - sent)
                .when("sendfile")?;
            sent += count;
            let mut part = vec![0; count];
            self.server.read_exact(&mut part).when("receive")?;
            received.extend(part);
        }
        same(&received, &content, "sendfile")
    }

    /// Sends without an instruction arrive as they are, whatever their size.
    fn transfers(&mut self) -> Result<(), Failure> {
        for length in [1, 2, 70, 4095, 4096, 20_000] {
            self.client.write_all(&pattern(length)).when("send")?;
            receive(
                &mut self.server,
                &pattern(length),
                "a send that nothing is written into",
            )?;
        }
        Ok(())
    }

    /// A line goes in exactly where it belongs: small and large heads, bodies of several pages, several buffers, two requests in one send.
    fn insertions(&mut self, bench: &mut Bench, thread: u64) -> Result<(), Failure> {
        let bodies = [0, 1, 3000, 50_000];
        for head in [18, 100, 1000, 5000, 16_000] {
            for body in bodies {
                let message = request(head, body);
                let at = head as u32 - 2;
                bench
                    .instruct(instruction(thread, message.len(), &[(at, Action::Insert)]))
                    .when("instruction")?;
                self.client.write_all(&message).when("send")?;
                receive(
                    &mut self.server,
                    &with_lines(&message, &[at]),
                    "a header that was put in",
                )?;
            }
        }
        let message = request(400, 9000);
        bench
            .instruct(instruction(thread, message.len(), &[(398, Action::Insert)]))
            .when("instruction")?;
        let parts: Vec<_> = message
            .chunks(100)
            .take(4)
            .chain([&message[400..]])
            .map(IoSlice::new)
            .collect();
        let count = self.client.write_vectored(&parts).when("writev")?;
        if count != message.len() {
            return Err(Failure::Bytes {
                when: "a send of several buffers was cut",
            });
        }
        receive(
            &mut self.server,
            &with_lines(&message, &[398]),
            "a header that was put into several buffers",
        )?;

        let two = [request(300, 0), request(200, 10)].concat();
        let places = [298, 498];
        bench
            .instruct(instruction(
                thread,
                two.len(),
                &places.map(|at| (at, Action::Insert)),
            ))
            .when("instruction")?;
        self.client.write_all(&two).when("send")?;
        receive(
            &mut self.server,
            &with_lines(&two, &places),
            "two headers in one send",
        )?;

        // Only the empty line, and then bytes that are none.
        bench
            .instruct(instruction(thread, 2, &[(0, Action::Insert)]))
            .when("instruction")?;
        self.client.write_all(b"\r\n").when("send")?;
        receive(
            &mut self.server,
            &with_lines(b"\r\n", &[0]),
            "a header before a lone empty line",
        )?;
        bench
            .instruct(instruction(thread, 40, &[(20, Action::Insert)]))
            .when("instruction")?;
        self.client.write_all(&pattern(40)).when("send")?;
        receive(&mut self.server, &pattern(40), "bytes that have changed")
    }

    /// A client that leaves small packets to Nagle's algorithm does not wait for an acknowledgement in the midst of a request.
    fn one_piece(&mut self, bench: &mut Bench, thread: u64) -> Result<(), Failure> {
        let message = request(200, 0);
        self.client.set_nodelay(false).when("setsockopt")?;
        bench
            .instruct(instruction(thread, message.len(), &[(198, Action::Insert)]))
            .when("instruction")?;
        self.client.write_all(&message).when("send")?;
        let mut bytes = [0; 1000];
        let count = self.server.read(&mut bytes).when("receive")?;
        self.client.set_nodelay(true).when("setsockopt")?;
        same(
            &bytes[..count],
            &with_lines(&message, &[198]),
            "a request that got a header comes in several packets",
        )
    }

    fn rewriting(&mut self, bench: &mut Bench, thread: u64) -> Result<(), Failure> {
        let line = |span_id| {
            let value = traceparent::format(&TraceParent { span_id, ..CONTEXT });
            [&b"GET / HTTP/1.1\r\ntraceparent: "[..], &value, b"\r\n\r\n"].concat()
        };
        let (message, expected) = (line([9; 8]), line(CONTEXT.span_id));
        let at = b"GET / HTTP/1.1\r\ntraceparent: ".len() as u32;
        bench
            .instruct(instruction(thread, message.len(), &[(at, Action::Rewrite)]))
            .when("instruction")?;
        self.client.write_all(&message).when("send")?;
        receive(&mut self.server, &expected, "a header that was rewritten")
    }

    /// Both directions at once; the reader that is enrolled sizes its reads by FIONREAD.
    fn large_transfer(&mut self) -> Result<(), Failure> {
        let mut server = self.server.try_clone().when("dup")?;
        let mut sender = self.client.try_clone().when("dup")?;
        let mut back = self.server.try_clone().when("dup")?;
        thread::scope(|scope| {
            let answering = scope.spawn(move || back.write_all(&pattern(LARGE)).when("large send"));
            let sending = scope.spawn(move || sender.write_all(&pattern(LARGE)).when("large send"));
            let reading =
                scope.spawn(move || receive(&mut server, &pattern(LARGE), "a large transfer"));
            let mut received = Vec::with_capacity(LARGE);
            let deadline = Instant::now() + 5 * PATIENCE;
            while received.len() < LARGE {
                if Instant::now() > deadline {
                    return Err(Failure::Fionread {
                        said: 0,
                        there: (LARGE - received.len()) as u64,
                        when: "during a large transfer",
                    });
                }
                let said = ioctl_fionread(&self.client).when("FIONREAD")?;
                if said == 0 {
                    thread::sleep(Duration::from_micros(200));
                    continue;
                }
                let mut part = vec![0; usize::try_from(said).unwrap_or(LARGE)];
                self.client.read_exact(&mut part).when("receive")?;
                received.extend(part);
            }
            let joined = |thread: thread::ScopedJoinHandle<'_, Result<(), Failure>>| {
                thread.join().unwrap_or(Err(Failure::Bytes {
                    when: "a large transfer was given up",
                }))
            };
            joined(answering)?;
            joined(sending)?;
            joined(reading)?;
            same(&received, &pattern(LARGE), "a large transfer")
        })
    }

    fn let_go(&mut self, bench: &mut Bench, number: u64) -> Result<(), Failure> {
        self.server.write_all(&pattern(30)).when("send")?;
        self.expect_unread(30, "before the socket is let go")?;
        bench.let_go(number).when("letting go")?;
        self.expect_unread(30, "after the socket was let go")?;
        receive(
            &mut self.client,
            &pattern(30),
            "after the socket was let go",
        )?;
        self.client.write_all(&pattern(30)).when("send")?;
        receive(
            &mut self.server,
            &pattern(30),
            "a send after the socket was let go",
        )
    }

    fn half_close(&mut self) -> Result<(), Failure> {
        self.client.write_all(b"last").when("send")?;
        self.client.shutdown(Shutdown::Write).when("shutdown")?;
        let mut all = Vec::new();
        self.server.read_to_end(&mut all).when("receive")?;
        same(&all, b"last", "a half-closed connection")?;
        self.server.write_all(&pattern(500)).when("send")?;
        self.server.shutdown(Shutdown::Write).when("shutdown")?;
        all.clear();
        self.client.read_to_end(&mut all).when("receive")?;
        same(
            &all,
            &pattern(500),
            "the other half of a half-closed connection",
        )
    }
}

/// Waits a moment for readiness, longer where it is due.
fn wait(poller: &OwnedFd, due: bool, when: &'static str) -> Result<(), Failure> {
    let timeout = if due {
        PATIENCE
    } else {
        Duration::from_millis(5)
    };
    let timeout = Timespec {
        tv_sec: timeout.as_secs().cast_signed(),
        tv_nsec: i64::from(timeout.subsec_nanos()),
    };
    let mut events = Vec::with_capacity(1);
    epoll::wait(
        poller,
        rustix::buffer::spare_capacity(&mut events),
        Some(&timeout),
    )
    .when("epoll_wait")?;
    if events.is_empty() == due {
        return Err(Failure::Readiness { when });
    }
    Ok(())
}

fn receive(from: &mut TcpStream, expected: &[u8], when: &'static str) -> Result<(), Failure> {
    let mut bytes = vec![0; expected.len()];
    from.read_exact(&mut bytes).when(when)?;
    same(&bytes, expected, when)
}

fn same(bytes: &[u8], expected: &[u8], when: &'static str) -> Result<(), Failure> {
    if bytes == expected {
        Ok(())
    } else {
        Err(Failure::Bytes { when })
    }
}

/// Bytes of which no two neighbourhoods are alike, and no line end among them.
fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| b'0' + ((at * 31 + at / 251) % 64) as u8)
        .collect()
}

/// A request with a head and a body of these lengths.
fn request(head: usize, body: usize) -> Vec<u8> {
    let mut message = b"GET / HTTP/1.1".to_vec();
    if head > 22 {
        message.extend(b"\r\nA: ");
        message.extend(pattern(head - 4 - message.len()));
    }
    message.extend(b"\r\n\r\n");
    message.extend(pattern(body));
    message
}

const CONTEXT: TraceParent = TraceParent {
    version: 0,
    trace_id: [
        0x4b, 0xf9, 0x2f, 0x35, 0x77, 0xb3, 0x4d, 0xa6, 0xa3, 0xce, 0x92, 0x9d, 0x0e, 0x0e, 0x47,
        0x36,
    ],
    span_id: [0x00, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7],
    flags: 1,
};

fn instruction(thread: u64, length: usize, places: &[(u32, Action)]) -> Injection {
    let [a, b, c, d, e, f, g, h, rest @ ..] = CONTEXT.trace_id;
    let trace_id = [
        u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
        u64::from_ne_bytes(rest),
    ];
    let mut injection = Injection {
        pid_tgid: thread,
        length: length as u32,
        count: places.len() as u32,
        ..Injection::default()
    };
    for (slot, (at, action)) in injection.slots.iter_mut().zip(places) {
        *slot = InjectionSlot {
            at: *at,
            action: *action as u32,
            trace_id,
            span_id: u64::from_ne_bytes(CONTEXT.span_id),
            trace_flags: u64::from(CONTEXT.flags),
        };
    }
    injection
}

/// The message with a line at each of these places.
fn with_lines(message: &[u8], places: &[u32]) -> Vec<u8> {
    let line = [
        &b"traceparent: "[..],
        &traceparent::format(&CONTEXT),
        b"\r\n",
    ]
    .concat();
    debug_assert_eq!(line.len(), LINE as usize);
    let mut all = Vec::new();
    let mut from = 0;
    for at in places {
        let at = *at as usize;
        all.extend(&message[from..at]);
        all.extend(&line);
        from = at;
    }
    all.extend(&message[from..]);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makes_requests_of_the_length_asked() {
        for head in [18, 100, 16_000] {
            let message = request(head, 7);
            assert_eq!(message.len(), head + 7);
            assert_eq!(&message[head - 4..head], b"\r\n\r\n");
        }
    }

    #[test]
    fn every_socket_passes_that_is_in_no_sockhash() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let mut pair = Pair::connect(&listener).expect("it connects");
        pair.fionread().expect("it counts");
        pair.peek().expect("it looks");
        pair.readiness().expect("it tells");
        pair.urgent().expect("it is urgent");
        pair.sendfile().expect("it sends a file");
        pair.transfers().expect("it sends");
        pair.large_transfer().expect("it sends much");
        pair.half_close().expect("it closes by halves");
    }
}
