//! Raw servers on threads of the scenario's own process: they answer with given bytes, and read in every way there is.

use std::{
    fs::File,
    io::{self, IoSlice, IoSliceMut, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
};

use anyhow::Result;
use rustix::net::sockopt;

use super::{Context, http::mptcp_socket};

/// Most bytes taken in one read.
const READ: usize = 16 << 10;

/// A server of the scenario's own, on threads of its process.
#[derive(Debug)]
pub(crate) struct Scripted {
    port: u16,
}

impl Scripted {
    /// For every head that arrives, calls `answer` with the connection and the head. Ignores bodies: requests have none.
    ///
    /// # Errors
    /// When the port cannot be bound.
    pub(crate) fn start(
        context: &Context,
        answer: impl Fn(&mut TcpStream, &str) -> io::Result<()> + Send + Sync + 'static,
    ) -> Result<Self> {
        let port = context.port();
        let listener = TcpListener::bind(("127.0.0.1", port))?;
        Ok(Self::start_at(listener, port, answer))
    }

    /// The same at a listener of the scenario's own, on this port.
    pub(crate) fn start_at(
        listener: TcpListener,
        port: u16,
        answer: impl Fn(&mut TcpStream, &str) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self::over(listener, port, move |stream| heads(stream, &answer))
    }

    /// The same, listening with Multipath TCP.
    ///
    /// # Errors
    /// [`Skip`](super::Skip) when the kernel has none.
    pub(crate) fn start_mptcp(
        context: &Context,
        answer: impl Fn(&mut TcpStream, &str) -> io::Result<()> + Send + Sync + 'static,
    ) -> Result<Self> {
        let port = context.port();
        let socket = mptcp_socket()?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        rustix::net::bind(&socket, &SocketAddr::from(([127, 0, 0, 1], port)))?;
        rustix::net::listen(&socket, 16)?;
        Ok(Self::over(socket.into(), port, move |stream| {
            heads(stream, &answer)
        }))
    }

    /// Like [`Self::start`], but looks at what there is with MSG_PEEK before each read.
    ///
    /// # Errors
    /// When the port cannot be bound.
    pub(crate) fn start_peeking(
        context: &Context,
        answer: impl Fn(&mut TcpStream, &str) -> io::Result<()> + Send + Sync + 'static,
    ) -> Result<Self> {
        let port = context.port();
        Ok(Self::over(
            TcpListener::bind(("127.0.0.1", port))?,
            port,
            move |stream| {
                let look = |stream: &mut TcpStream, chunk: &mut [u8]| {
                    stream.peek(&mut chunk[..10])?;
                    stream.peek(chunk)?;
                    stream.read(chunk)
                };
                heads_by(stream, &answer, look)
            },
        ))
    }

    /// Reads into many small buffers at once, and answers every head with `answer` from as many.
    ///
    /// # Errors
    /// When the port cannot be bound.
    pub(crate) fn start_scattered(context: &Context, answer: &'static [u8]) -> Result<Self> {
        let port = context.port();
        Ok(Self::over(
            TcpListener::bind(("127.0.0.1", port))?,
            port,
            move |stream| {
                let scatter = |stream: &mut TcpStream, chunk: &mut [u8]| {
                    let mut buffers: Vec<_> =
                        chunk[..256].chunks_mut(17).map(IoSliceMut::new).collect();
                    stream.read_vectored(&mut buffers)
                };
                let gather = |stream: &mut TcpStream, _: &str| {
                    let buffers: Vec<_> = answer.chunks(7).map(IoSlice::new).collect();
                    stream.write_vectored(&buffers).map(drop)
                };
                heads_by(stream, gather, scatter)
            },
        ))
    }

    /// Sends back whatever arrives.
    ///
    /// # Errors
    /// When the port cannot be bound.
    pub(crate) fn start_raw(context: &Context) -> Result<Self> {
        let port = context.port();
        Ok(Self::over(
            TcpListener::bind(("127.0.0.1", port))?,
            port,
            |mut stream| {
                let mut chunk = [0; 4096];
                loop {
                    let count = stream.read(&mut chunk)?;
                    if count == 0 {
                        return Ok(());
                    }
                    stream.write_all(&chunk[..count])?;
                }
            },
        ))
    }

    fn over(
        listener: TcpListener,
        port: u16,
        serve: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let serve = Arc::new(serve);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serve = Arc::clone(&serve);
                // A connection that ends with an error is the client's business.
                thread::spawn(move || drop(serve(stream)));
            }
        });
        Self { port }
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

/// Sends the first `count` bytes of a file: the kernel hands them to the socket, and no process touches them (sendfile(2)).
///
/// # Errors
/// When the file is shorter, or the peer is gone.
pub(crate) fn send_file(stream: &TcpStream, file: &File, count: u64) -> io::Result<()> {
    let mut offset = 0;
    while offset < count {
        let left = usize::try_from(count - offset).unwrap_or(usize::MAX);
        if rustix::fs::sendfile(stream, file, Some(&mut offset), left)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

fn heads(
    stream: TcpStream,
    answer: impl Fn(&mut TcpStream, &str) -> io::Result<()>,
) -> io::Result<()> {
    heads_by(stream, answer, TcpStream::read)
}

/// Calls `answer` for every head in what `read` brings.
fn heads_by(
    mut stream: TcpStream,
    answer: impl Fn(&mut TcpStream, &str) -> io::Result<()>,
    read: impl Fn(&mut TcpStream, &mut [u8]) -> io::Result<usize>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    let mut chunk = [0; READ];
    loop {
        while let Some(at) = buffer.windows(4).position(|w: &[u8]| w == b"\r\n\r\n") {
            let head: Vec<u8> = buffer.drain(..at + 4).collect();
            answer(&mut stream, &String::from_utf8_lossy(&head))?;
        }
        let count = read(&mut stream, &mut chunk)?;
        if count == 0 {
            return Ok(());
        }
        buffer.extend_from_slice(&chunk[..count]);
    }
}
