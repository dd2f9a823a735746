//! A server that keeps every byte that arrives and answers each request by what it asks for, and a tap that keeps what passes between a client
//! and a real server.
//!
//! `/size/N` is answered with N bytes of [`pattern`], `/chunked/N` with as many in chunks, anything else with the length and checksum of the
//! request's body ([`receipt`]). Behind a request that ends HTTP ([`Request::ends_http`]) every byte is sent back.

use std::{
    cell::Cell,
    io::{self, Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, channel},
    },
    thread,
};

use anyhow::{Context as _, Result};

use super::{
    Context, PATIENCE,
    requests::{Found, Request, next},
};

/// Most bytes of one read or write.
const STEP: usize = 64 << 10;

/// Bytes of one chunk of a chunked answer.
const CHUNK: usize = 10_000;

/// How the server reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reads {
    /// As much as comes.
    Any,
    /// As much as FIONREAD says there is, once there is any.
    Available,
}

/// A listener that hands over what each connection's client has sent, once that connection has ended.
#[derive(Debug)]
pub(crate) struct Recorder {
    port: u16,
    /// Connections so far.
    opened: Arc<AtomicUsize>,
    /// Those of them that were handed over.
    taken: Cell<usize>,
    ended: Receiver<Ended>,
}

/// A connection's number in the order of their beginnings, and what arrived on it.
type Ended = (usize, io::Result<Vec<u8>>);

impl Recorder {
    /// The server described above.
    ///
    /// # Errors
    /// When the port cannot be bound.
    pub(crate) fn origin(context: &Context, reads: Reads) -> Result<Self> {
        Self::start(context, move |stream| serve(stream, reads))
    }

    /// A tap: connections to it are passed on to this port of loopback, and back.
    ///
    /// # Errors
    /// When the port cannot be bound.
    pub(crate) fn tap(context: &Context, server: u16) -> Result<Self> {
        Self::start(context, move |stream| pass_on(stream, server))
    }

    fn start(
        context: &Context,
        serve: impl Fn(TcpStream) -> io::Result<Vec<u8>> + Copy + Send + 'static,
    ) -> Result<Self> {
        // Another thread of this process may take a port between the look and the bind.
        let bound = (0..50).find_map(|_| {
            let port = context.port();
            Some((port, TcpListener::bind(("127.0.0.1", port)).ok()?))
        });
        let (port, listener) = bound.context("no port could be had")?;
        let (sender, ended) = channel();
        let opened = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&opened);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let number = count.fetch_add(1, Ordering::Relaxed);
                let sender = sender.clone();
                thread::spawn(move || sender.send((number, serve(stream))));
            }
        });
        Ok(Self {
            port,
            opened,
            taken: Cell::new(0),
            ended,
        })
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// What arrived on the connection that ended next.
    ///
    /// # Errors
    /// When none ends in time, or one broke.
    pub(crate) fn received(&self) -> Result<Vec<u8>> {
        Ok(self.next()?.1)
    }

    fn next(&self) -> Result<(usize, Vec<u8>)> {
        let ended = self.ended.recv_timeout(PATIENCE);
        let (number, bytes) = ended.context("no connection has ended")?;
        self.taken.set(self.taken.get() + 1);
        Ok((number, bytes.context("a connection broke")?))
    }

    /// What arrived on all connections that were opened and not handed over yet, in the order of their beginnings, which a client's requests
    /// have where their ends have not; waits until they have ended.
    ///
    /// # Errors
    /// As [`Self::received`].
    pub(crate) fn ended(&self) -> Result<Vec<Vec<u8>>> {
        let mut all = Vec::new();
        while self.taken.get() < self.opened.load(Ordering::Relaxed) {
            all.push(self.next()?);
        }
        all.sort_by_key(|(number, _)| *number);
        Ok(all.into_iter().map(|(_, bytes)| bytes).collect())
    }
}

/// The first `length` bytes of the answers' content.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    // It comes again after 251 bytes, a prime: whatever is cut or doubled shows.
    let once: Vec<u8> = (0..251_usize)
        .map(|at| ((at * 31 + 7) % 251) as u8)
        .collect();
    once.repeat(length.div_ceil(once.len()))[..length].to_vec()
}

/// Checksum as zlib's crc32, which clients of all languages have.
pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// What a request with this body is answered.
pub(crate) fn receipt(body: &[u8]) -> String {
    format!("{} {}\n", body.len(), checksum(body))
}

/// The body of the answer to a request for this path that carries `body`.
pub(crate) fn answer(path: &str, body: &[u8]) -> Vec<u8> {
    match sized(path) {
        Some((length, _)) => pattern(length),
        None => receipt(body).into_bytes(),
    }
}

/// The length that a path asks for, and whether in chunks.
fn sized(path: &str) -> Option<(usize, bool)> {
    // Proxies may be asked with the whole URI.
    let path = path
        .strip_prefix("http://")
        .map_or(path, |rest| rest.find('/').map_or("/", |at| &rest[at..]));
    let in_chunks = path.strip_prefix("/chunked/");
    let length = in_chunks.or_else(|| path.strip_prefix("/size/"))?;
    let length = length.split('?').next().unwrap_or_default();
    Some((length.parse().ok()?, in_chunks.is_some()))
}

fn serve(mut stream: TcpStream, reads: Reads) -> io::Result<Vec<u8>> {
    stream.set_nodelay(true)?;
    let mut all = Vec::new();
    let (mut at, mut continued) = (0, usize::MAX);
    loop {
        match next(&all, at) {
            Found::Whole(request) => {
                respond(&mut stream, &request, &all)?;
                at = request.end;
                if request.ends_http() {
                    return echo(stream, all, at, reads);
                }
                if request.wants_close() {
                    // A proxy may reset a connection of which it wants nothing more.
                    let _ = stream.shutdown(Shutdown::Write);
                    while read(&mut stream, &mut all, reads).is_ok_and(|count| count != 0) {}
                    return Ok(all);
                }
                continue;
            }
            Found::Head(request) if request.field("expect").is_some() && continued != at => {
                continued = at;
                stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            // What is no HTTP gets no answer.
            Found::Head(_) | Found::Part | Found::NotHttp => {}
        }
        if read(&mut stream, &mut all, reads)? == 0 {
            return Ok(all);
        }
    }
}

fn respond(stream: &mut TcpStream, request: &Request, all: &[u8]) -> io::Result<()> {
    let path = request.target.as_str();
    if request.ends_http() && request.method != "CONNECT" {
        let protocol = request.field("upgrade").unwrap_or("echo");
        let text = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: {protocol}\r\nConnection: Upgrade\r\n\r\n"
        );
        return stream.write_all(text.as_bytes());
    }
    let (status, body) = match request.method.as_str() {
        "CONNECT" if request.ends_http() => ("200 OK", Vec::new()),
        "CONNECT" => ("405 Method Not Allowed", Vec::new()),
        _ => ("200 OK", answer(path, &content(request, all))),
    };
    let in_chunks = sized(path).is_some_and(|(_, in_chunks)| in_chunks);
    let framing = if in_chunks {
        "Transfer-Encoding: chunked".to_owned()
    } else {
        format!("Content-Length: {}", body.len())
    };
    let close = if request.wants_close() {
        "Connection: close\r\n"
    } else {
        ""
    };
    let mut text = format!("HTTP/1.1 {status}\r\n{framing}\r\n{close}\r\n").into_bytes();
    if request.method == "HEAD" {
        return stream.write_all(&text);
    }
    if in_chunks {
        for part in body.chunks(CHUNK) {
            text.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
            text.extend_from_slice(part);
            text.extend_from_slice(b"\r\n");
        }
        text.extend_from_slice(b"0\r\n\r\n");
    } else {
        text.extend_from_slice(&body);
    }
    for part in text.chunks(STEP) {
        stream.write_all(part)?;
    }
    Ok(())
}

/// A request's body without chunk framing.
pub(crate) fn content(request: &Request, all: &[u8]) -> Vec<u8> {
    let mut wire = &all[request.head_end..request.end];
    if request.field("transfer-encoding").is_none() {
        return wire.to_vec();
    }
    let mut content = Vec::new();
    // The framing was found to be whole.
    while let Some(at) = wire.windows(2).position(|pair| pair == b"\r\n") {
        let digits = String::from_utf8_lossy(&wire[..at]).into_owned();
        let digits = digits.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(digits, 16).unwrap_or_default();
        if size == 0 {
            break;
        }
        content.extend_from_slice(&wire[at + 2..at + 2 + size]);
        wire = &wire[at + 2 + size + 2..];
    }
    content
}

/// Sends back what comes behind `at`.
fn echo(mut stream: TcpStream, mut all: Vec<u8>, at: usize, reads: Reads) -> io::Result<Vec<u8>> {
    let mut sent = at;
    loop {
        stream.write_all(&all[sent..])?;
        sent = all.len();
        if read(&mut stream, &mut all, reads)? == 0 {
            return Ok(all);
        }
    }
}

/// Adds what one read brings; 0 at the end.
fn read(stream: &mut TcpStream, all: &mut Vec<u8>, reads: Reads) -> io::Result<usize> {
    let mut limit = STEP;
    if reads == Reads::Available {
        // Something is there, or the end.
        stream.peek(&mut [0])?;
        let available = rustix::io::ioctl_fionread(&*stream)? as usize;
        limit = available.clamp(1, STEP);
    }
    let before = all.len();
    all.resize(before + limit, 0);
    let count = stream.read(&mut all[before..]);
    all.truncate(before + count.as_ref().copied().unwrap_or_default());
    count
}

fn pass_on(client: TcpStream, server: u16) -> io::Result<Vec<u8>> {
    let server = TcpStream::connect(("127.0.0.1", server))?;
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
    }
    let (from, to) = (server.try_clone()?, client.try_clone()?);
    let back = thread::spawn(move || copy(from, to, None));
    let mut all = Vec::new();
    copy(client, server, Some(&mut all))?;
    // A client that went away does not take the rest.
    let _ = back.join().expect("copying does not panic");
    Ok(all)
}

fn copy(mut from: TcpStream, mut to: TcpStream, mut kept: Option<&mut Vec<u8>>) -> io::Result<()> {
    let mut chunk = vec![0; STEP];
    loop {
        let count = from.read(&mut chunk)?;
        if count == 0 {
            return to.shutdown(Shutdown::Write);
        }
        to.write_all(&chunk[..count])?;
        if let Some(kept) = &mut kept {
            kept.extend_from_slice(&chunk[..count]);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::harness::{http::Connection, requests::shapes::conversations};

    fn context(name: &str) -> Context {
        Context::new(name).expect("the temporary folder is writable")
    }

    #[test]
    fn generated_conversations_arrive_as_they_were_sent() {
        for (name, reads) in [("any", Reads::Any), ("available", Reads::Available)] {
            let context = context(&format!("origin_{name}"));
            let origin = Recorder::origin(&context, reads).expect("a port is free");
            for one in conversations(11, 300) {
                one.run(origin.port()).expect("all is answered");
                let received = origin.received().expect("it has ended");
                assert!(received == one.bytes(), "{}", received.escape_ascii());
            }
        }
    }

    #[test]
    fn answers_are_what_clients_expect_and_pass_a_tap_unchanged() {
        let context = context("tap");
        let origin = Recorder::origin(&context, Reads::Any).expect("a port is free");
        let tap = Recorder::tap(&context, origin.port()).expect("a port is free");
        let mut client = Connection::open(tap.port()).expect("it listens");
        for path in ["/size/0", "/size/70000", "/chunked/25000"] {
            let response = client.get(path).expect("it answers");
            assert!(response.body == answer(path, b""), "{path}");
        }
        let post = "POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        client.send(post.as_bytes()).expect("it is connected");
        let response = client.response("POST").expect("it answers");
        assert_eq!(response.text(), receipt(b"abcde"));
        drop(client);
        let at_tap = tap.received().expect("it has ended");
        assert!(at_tap.ends_with(post.as_bytes()));
        assert!(at_tap == origin.received().expect("it has ended"));
        assert!(tap.ended().expect("none is open").is_empty());
    }

    #[test]
    fn connections_are_handed_over_in_the_order_of_their_beginnings() {
        let context = context("order");
        let origin = Recorder::origin(&context, Reads::Any).expect("a port is free");
        let mut first = Connection::open(origin.port()).expect("it listens");
        first.get("/first").expect("it answers");
        let mut second = TcpStream::connect(("127.0.0.1", origin.port())).expect("it listens");
        second
            .write_all(b"GET /second HTTP/1.1\r\nConnection: close\r\n\r\n")
            .expect("it is connected");
        second.read_to_end(&mut Vec::new()).expect("it answers");
        drop(second);
        drop(first);
        let all = origin.ended().expect("both have ended");
        let starts = all.iter().map(|bytes| &bytes[..10]);
        assert!(starts.eq([b"GET /first", b"GET /secon"]));
    }

    #[test]
    fn a_reset_behind_the_last_answer_is_an_end() {
        let context = context("reset");
        let origin = Recorder::origin(&context, Reads::Any).expect("a port is free");
        let request = b"GET /size/3 HTTP/1.1\r\nConnection: close\r\n\r\n";
        let mut client = TcpStream::connect(("127.0.0.1", origin.port())).expect("it listens");
        client.write_all(request).expect("it is connected");
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).expect("it answers");
        assert!(answer.ends_with(&pattern(3)));
        // Its close is a reset (SO_LINGER, socket(7)).
        rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO))
            .expect("it is a socket");
        drop(client);
        let received = origin.received().expect("it has ended");
        assert!(received == request, "{}", received.escape_ascii());
    }

    #[test]
    fn the_pattern_is_that_of_the_clients() {
        assert_eq!(pattern(5), [7, 38, 69, 100, 131]);
        assert!((0..5_000).all(|at| pattern(5_000)[at] == ((at * 31 + 7) % 251) as u8));
        assert_eq!(checksum(b"123456789"), 0xcbf4_3926);
    }
}
