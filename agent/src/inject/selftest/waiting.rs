//! Who waits for bytes is woken.
//!
//! Input: a [`Pair`]. Output: nothing, or an event of epoll that was lost or came without a reason.

use std::{io::Write as _, net::TcpStream, os::fd::OwnedFd, time::Duration};

use rustix::event::{Timespec, epoll};

use super::{Failure, PATIENCE, Pair, When as _, pattern, receive, uninterrupted};

impl Pair {
    /// Level-triggered: ready as long as bytes are unread. Edge-triggered: once for each arrival.
    pub(super) fn readiness(&mut self) -> Result<(), Failure> {
        for (flags, edge) in [
            (epoll::EventFlags::IN, false),
            (epoll::EventFlags::IN | epoll::EventFlags::ET, true),
        ] {
            let poller = poller(&self.client, flags)?;
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
}

/// An epoll instance that waits for this on one socket.
pub(super) fn poller(socket: &TcpStream, flags: epoll::EventFlags) -> Result<OwnedFd, Failure> {
    let poller = epoll::create(epoll::CreateFlags::CLOEXEC).when("epoll_create")?;
    epoll::add(&poller, socket, epoll::EventData::new_u64(1), flags).when("epoll_ctl")?;
    Ok(poller)
}

/// Waits a moment for readiness, longer where it is due.
pub(super) fn wait(poller: &OwnedFd, due: bool, when: &'static str) -> Result<(), Failure> {
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
    uninterrupted(|| {
        let space = rustix::buffer::spare_capacity(&mut events);
        epoll::wait(poller, space, Some(&timeout))
    })
    .when("epoll_wait")?;
    if events.is_empty() == due {
        return Err(Failure::Readiness { when });
    }
    Ok(())
}
