//! What is beside the stream and at its ends: urgent data, a socket that is let go, a connection that is closed by halves.
//!
//! Input: a [`Pair`]. Output: nothing, or what differs from a socket that is in no sockhash.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
};

use rustix::{
    event::epoll,
    net::{RecvFlags, SendFlags, sockopt::set_socket_oobinline},
};

use super::{
    Failure, Pair, When as _, pattern, receive, same, uninterrupted,
    waiting::{poller, wait},
};
use crate::probe::inject::Bench;

impl Pair {
    /// An urgent byte beside the stream, which epoll announces; and as one of the stream's, in both directions.
    pub(super) fn urgent(&mut self) -> Result<(), Failure> {
        let poller = poller(&self.client, epoll::EventFlags::PRI)?;
        send_urgent(&mut self.server)?;
        wait(&poller, true, "an urgent byte arrived")?;
        let mut byte = [0];
        uninterrupted(|| rustix::net::recv(&self.client, &mut byte, RecvFlags::OOB))
            .when("urgent receive")?;
        same(&byte, b"!", "an urgent byte")?;
        receive(&mut self.client, b"beforeafter", "around an urgent byte")?;
        wait(&poller, false, "the urgent byte was read")?;

        set_socket_oobinline(&self.client, true).when("setsockopt")?;
        send_urgent(&mut self.server)?;
        receive(&mut self.client, b"before!after", "urgent data")?;
        set_socket_oobinline(&self.server, true).when("setsockopt")?;
        send_urgent(&mut self.client)?;
        receive(&mut self.server, b"before!after", "urgent data")
    }

    pub(super) fn let_go(&mut self, bench: &mut Bench, number: u64) -> Result<(), Failure> {
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

    pub(super) fn half_close(&mut self) -> Result<(), Failure> {
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

fn send_urgent(from: &mut TcpStream) -> Result<(), Failure> {
    from.write_all(b"before").when("send")?;
    uninterrupted(|| rustix::net::send(&*from, b"!", SendFlags::OOB)).when("urgent send")?;
    from.write_all(b"after").when("send")
}
