//! Raw HTTP/1 clients that control every byte and every call.

mod queues;

use std::{
    io::{IoSlice, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    num::NonZeroU32,
    os::{fd::OwnedFd, unix::net::UnixStream},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketType, sockopt};

use super::{PATIENCE, Skip};

/// A response as it came.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    /// Status code.
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// Bytes of the head on the wire.
    pub(crate) head_wire_bytes: usize,
    /// The body, without chunk framing.
    pub(crate) body: Vec<u8>,
    /// Bytes of the body on the wire, chunk framing included.
    pub(crate) body_wire_bytes: usize,
}

impl Response {
    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }
}

/// A stream of either family.
#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A client connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Stream,
    buffer: Vec<u8>,
    step: usize,
}

/// Most bytes taken in one read.
const READ: usize = 16 << 10;

impl Connection {
    /// Connects to a port of loopback.
    ///
    /// # Errors
    /// When nobody listens.
    pub(crate) fn open(port: u16) -> Result<Self> {
        Self::open_to(SocketAddr::from(([127, 0, 0, 1], port)))
    }

    /// Connects to an address.
    ///
    /// # Errors
    /// When nobody listens.
    pub(crate) fn open_to(address: SocketAddr) -> Result<Self> {
        let stream =
            TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
        Self::of(stream)
    }

    /// Connects with a receive buffer of about 4 KiB, so that the server's sends fill up at once.
    ///
    /// # Errors
    /// When nobody listens.
    pub(crate) fn open_narrow(port: u16) -> Result<Self> {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
        sockopt::set_socket_recv_buffer_size(&socket, 4096)?;
        rustix::net::connect(&socket, &SocketAddr::from(([127, 0, 0, 1], port)))?;
        Self::of(socket.into())
    }

    /// Connects from this port of loopback, which nobody holds any more.
    ///
    /// # Errors
    /// When the port is taken, or nobody listens.
    pub(crate) fn open_from(own: u16, port: u16) -> Result<Self> {
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        rustix::net::bind(&socket, &loopback(own))
            .with_context(|| format!("cannot have port {own}"))?;
        rustix::net::connect(&socket, &loopback(port))
            .with_context(|| format!("cannot connect from port {own} to {port}"))?;
        Self::of(socket.into())
    }

    /// Connects with Multipath TCP.
    ///
    /// # Errors
    /// [`Skip`] when the kernel has none; otherwise when nobody listens.
    pub(crate) fn open_mptcp(port: u16) -> Result<Self> {
        let socket = mptcp_socket()?;
        rustix::net::connect(&socket, &SocketAddr::from(([127, 0, 0, 1], port)))?;
        Self::of(socket.into())
    }

    /// Connects to a unix socket.
    ///
    /// # Errors
    /// When nobody listens.
    pub(crate) fn open_unix(path: &std::path::Path) -> Result<Self> {
        let stream = UnixStream::connect(path)
            .with_context(|| format!("cannot connect to {}", path.display()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream: Stream::Unix(stream),
            buffer: Vec::new(),
            step: READ,
        })
    }

    fn of(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream: Stream::Tcp(stream),
            buffer: Vec::new(),
            step: READ,
        })
    }

    /// The client's own port; 0 for unix sockets.
    ///
    /// # Errors
    /// When the socket is broken.
    pub(crate) fn local_port(&self) -> Result<u16> {
        Ok(match &self.stream {
            Stream::Tcp(stream) => stream.local_addr()?.port(),
            Stream::Unix(_) => 0,
        })
    }

    /// Sends bytes in one write (as many calls as the kernel wants for more than it takes at once).
    ///
    /// # Errors
    /// When the peer is gone.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.stream {
            Stream::Tcp(stream) => stream.write_all(bytes)?,
            Stream::Unix(stream) => stream.write_all(bytes)?,
        }
        Ok(())
    }

    /// Sends bytes in one call from `pieces` buffers.
    ///
    /// # Errors
    /// When the peer is gone, or the kernel does not take all at once.
    pub(crate) fn send_scattered(&mut self, bytes: &[u8], pieces: usize) -> Result<()> {
        let Stream::Tcp(stream) = &mut self.stream else {
            bail!("only TCP is scattered here")
        };
        let buffers: Vec<_> = bytes
            .chunks(bytes.len().div_ceil(pieces))
            .map(IoSlice::new)
            .collect();
        let sent = stream.write_vectored(&buffers)?;
        ensure!(sent == bytes.len(), "{sent} of {} bytes sent", bytes.len());
        Ok(())
    }

    /// Throws `count` bytes away that have not been read, in steps of at most 1 KiB with MSG_TRUNC: the kernel copies nothing (tcp(7)).
    ///
    /// # Errors
    /// When they do not come.
    pub(crate) fn discard(&mut self, count: usize) -> Result<()> {
        self.discard_by(count, 1024)
    }

    /// The same in steps of at most `step` bytes.
    ///
    /// # Errors
    /// As [`Self::discard`].
    pub(crate) fn discard_by(&mut self, count: usize, step: usize) -> Result<()> {
        let Stream::Tcp(stream) = &self.stream else {
            bail!("only TCP discards")
        };
        let buffered = count.min(self.buffer.len());
        self.buffer.drain(..buffered);
        let mut left = count - buffered;
        let mut nowhere = vec![0; step];
        while left > 0 {
            let step = left.min(nowhere.len());
            let (_, length) = rustix::net::recv(stream, &mut nowhere[..step], RecvFlags::TRUNC)?;
            ensure!(length > 0, "the connection ended");
            left -= length.min(step);
        }
        Ok(())
    }

    /// Reads once, at most `limit` bytes, into nowhere; gives how many.
    ///
    /// # Errors
    /// When nothing comes in time.
    pub(crate) fn swallow(&mut self, limit: usize) -> Result<usize> {
        let mut chunk = vec![0; limit];
        Ok(match &mut self.stream {
            Stream::Tcp(stream) => stream.read(&mut chunk)?,
            Stream::Unix(stream) => stream.read(&mut chunk)?,
        })
    }

    /// Sends a request without body and reads its response.
    ///
    /// # Errors
    /// As [`Self::send`] and [`Self::response`].
    pub(crate) fn get(&mut self, path: &str) -> Result<Response> {
        self.get_with(path, "")
    }

    /// The same with further header lines, each ended by CRLF.
    ///
    /// # Errors
    /// As [`Self::send`] and [`Self::response`].
    pub(crate) fn get_with(&mut self, path: &str, headers: &str) -> Result<Response> {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: shop.test\r\n{headers}\r\n").as_bytes())?;
        self.response("GET")
    }

    /// Reads one response to a request with this method.
    ///
    /// # Errors
    /// When it does not come in time, or is no HTTP.
    pub(crate) fn response(&mut self, method: &str) -> Result<Response> {
        let mut response = loop {
            let mut fields = [httparse::EMPTY_HEADER; 64];
            let mut head = httparse::Response::new(&mut fields);
            if let httparse::Status::Complete(length) = head.parse(&self.buffer)? {
                let response = Response {
                    status: head.code.context("a response has a status")?,
                    headers: head
                        .headers
                        .iter()
                        .map(|h| {
                            (
                                h.name.to_ascii_lowercase(),
                                String::from_utf8_lossy(h.value).into_owned(),
                            )
                        })
                        .collect(),
                    head_wire_bytes: length,
                    body: Vec::new(),
                    body_wire_bytes: 0,
                };
                self.buffer.drain(..length);
                break response;
            }
            ensure!(self.fill()? > 0, "the connection ended before a response");
        };
        if method == "HEAD" || response.status < 200 || matches!(response.status, 204 | 304) {
            return Ok(response);
        }
        if response
            .header("transfer-encoding")
            .is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
        {
            self.chunks(&mut response)?;
        } else if let Some(length) = response.header("content-length") {
            let length: usize = length.parse()?;
            while self.buffer.len() < length {
                ensure!(self.fill()? > 0, "the connection ended inside a body");
            }
            response.body = self.buffer.drain(..length).collect();
            response.body_wire_bytes = length;
        } else {
            while self.fill()? > 0 {}
            response.body = std::mem::take(&mut self.buffer);
            response.body_wire_bytes = response.body.len();
        }
        Ok(response)
    }

    fn chunks(&mut self, response: &mut Response) -> Result<()> {
        loop {
            let line = self.line()?;
            response.body_wire_bytes += line.len() + 2;
            let size =
                usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16)?;
            if size == 0 {
                loop {
                    let trailer = self.line()?;
                    response.body_wire_bytes += trailer.len() + 2;
                    if trailer.is_empty() {
                        return Ok(());
                    }
                }
            }
            while self.buffer.len() < size + 2 {
                ensure!(self.fill()? > 0, "the connection ended inside a chunk");
            }
            response.body.extend(self.buffer.drain(..size));
            self.buffer.drain(..2);
            response.body_wire_bytes += size + 2;
        }
    }

    fn line(&mut self) -> Result<String> {
        loop {
            if let Some(at) = self.buffer.windows(2).position(|w| w == b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..at]).into_owned();
                self.buffer.drain(..at + 2);
                return Ok(line);
            }
            ensure!(self.fill()? > 0, "the connection ended inside a line");
        }
    }

    fn fill(&mut self) -> Result<usize> {
        let mut chunk = [0; READ];
        let count = match &mut self.stream {
            Stream::Tcp(stream) => stream.read(&mut chunk[..self.step])?,
            Stream::Unix(stream) => stream.read(&mut chunk[..self.step])?,
        };
        self.buffer.extend_from_slice(&chunk[..count]);
        Ok(count)
    }

    /// The same as [`Self::get`], but takes the answer in reads of `step` bytes, each once the one before has been taken.
    ///
    /// # Errors
    /// As [`Self::send`] and [`Self::response`].
    pub(crate) fn get_slowly(&mut self, path: &str, step: usize) -> Result<Response> {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: shop.test\r\n\r\n").as_bytes())?;
        self.step = step.min(READ);
        let response = self.response("GET");
        self.step = READ;
        response
    }

    /// Ends the connection with a reset instead of a FIN.
    ///
    /// # Errors
    /// For a unix socket, which has no resets.
    pub(crate) fn reset(self) -> Result<()> {
        let Stream::Tcp(stream) = self.stream else {
            bail!("a unix socket cannot be reset")
        };
        sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
        Ok(())
    }
}

/// A socket for Multipath TCP.
///
/// # Errors
/// [`Skip`] when the kernel has none.
pub(super) fn mptcp_socket() -> Result<OwnedFd> {
    let mptcp = Protocol::from_raw(NonZeroU32::new(262).expect("IPPROTO_MPTCP is 262"));
    Ok(
        rustix::net::socket(AddressFamily::INET, SocketType::STREAM, Some(mptcp))
            .map_err(|error| Skip(format!("this kernel has no Multipath TCP ({error})")))?,
    )
}

/// A head of exactly `bytes` bytes: request line, Host, the given lines, filler, the empty line.
///
/// # Panics
/// When the given parts need more.
pub(crate) fn head_of(bytes: usize, path: &str, first: &str, last: &str) -> String {
    let start = format!("GET {path} HTTP/1.1\r\nHost: shop.test\r\n{first}");
    let end = format!("{last}\r\n");
    let mut filler = String::new();
    let mut left = bytes
        .checked_sub(start.len() + end.len())
        .expect("room for what is given");
    // Lines of at most 1,000 bytes: servers bound the length of a line, too.
    while left > 0 {
        let line = if left > 1_020 { 1_000 } else { left };
        assert!(line >= 8, "a filler line needs eight bytes");
        filler.push_str(&format!("X-F: {}\r\n", "f".repeat(line - 7)));
        left -= line;
    }
    format!("{start}{filler}{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_have_the_length_asked_for() {
        for bytes in [100, 4_096, 8_192, 16_384] {
            let head = head_of(bytes, "/", "A: b\r\n", "Traceparent: x\r\n");
            assert_eq!(head.len(), bytes);
            assert!(head.ends_with("\r\nTraceparent: x\r\n\r\n"));
        }
    }

    #[test]
    fn an_address_is_used_again_after_a_reset() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let port = listener.local_addr().expect("it is bound").port();
        let first = Connection::open(port).expect("it listens");
        let own = first.local_port().expect("it is connected");
        assert!(Connection::open_from(own, port).is_err(), "it is in use");
        first.reset().expect("TCP has resets");
        let second = Connection::open_from(own, port).expect("the address is free");
        assert_eq!(second.local_port().expect("it is connected"), own);
    }

    #[test]
    fn chunked_bodies_are_read_to_their_end() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let port = listener.local_addr().expect("it is bound").port();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client comes");
            let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\nHTTP/1.1 204 No\r\n\r\n";
            stream.write_all(answer.as_bytes()).expect("it reads");
        });
        let mut client = Connection::open(port).expect("it listens");
        let response = client.response("GET").expect("well formed");
        assert_eq!(
            (response.text().as_str(), response.body_wire_bytes),
            ("hello", 15)
        );
        assert_eq!(client.response("GET").expect("well formed").status, 204);
        server.join().expect("no panic");
    }
}
