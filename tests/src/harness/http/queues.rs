//! What lies in the kernel's queues of a connection: a client waits for the other end to have read, or for bytes to have come.

use std::{fs, thread, time::Duration};

use anyhow::{Result, ensure};

use super::{Connection, Stream};
use crate::harness::{PATIENCE, wait_for};

impl Connection {
    /// Waits until the server on this port of loopback has read everything that was sent, so that what is sent next begins a new read.
    ///
    /// # Errors
    /// When it does not read.
    pub(crate) fn wait_until_read(&self, port: u16) -> Result<()> {
        let own = self.local_port()?;
        wait_for(
            || "the server to read".into(),
            PATIENCE,
            || (unread(port, own) == 0).then_some(()),
        )?;
        // The kernel's count moves before the read has ended: what looks at it from there comes a moment later.
        thread::sleep(Duration::from_millis(50));
        Ok(())
    }

    /// Waits until at least so many bytes lie unread in the kernel.
    ///
    /// # Errors
    /// When they do not come in time.
    pub(crate) fn wait_until_unread(&self, least: u64) -> Result<()> {
        wait_for(
            || format!("{least} unread bytes"),
            PATIENCE,
            || (self.unread().ok()? >= least).then_some(()),
        )
    }

    /// Takes what lies unread in the kernel, for the next response.
    ///
    /// # Errors
    /// When the connection is broken.
    pub(crate) fn take_unread(&mut self) -> Result<()> {
        let until = self.buffer.len() + usize::try_from(self.unread()?)?;
        while self.buffer.len() < until {
            ensure!(self.fill()? > 0, "the connection ended");
        }
        Ok(())
    }

    fn unread(&self) -> Result<u64> {
        Ok(match &self.stream {
            Stream::Tcp(stream) => rustix::io::ioctl_fionread(stream)?,
            Stream::Unix(stream) => rustix::io::ioctl_fionread(stream)?,
        })
    }
}

/// Bytes that the server's end of a connection holds unread: `rx_queue` of /proc/net/tcp (proc(5)).
fn unread(server: u16, client: u16) -> u32 {
    let port = |address: &str| {
        address
            .rsplit_once(':')
            .and_then(|(_, hex)| u16::from_str_radix(hex, 16).ok())
    };
    let tables = ["tcp", "tcp6"]
        .map(|table| fs::read_to_string(format!("/proc/self/net/{table}")).unwrap_or_default());
    let row = tables
        .iter()
        .flat_map(|table| table.lines().skip(1))
        .find_map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let ends = (port(fields.get(1)?)?, port(fields.get(2)?)?);
            (ends == (server, client)).then(|| {
                fields
                    .get(4)
                    .and_then(|queues| queues.split_once(':'))
                    .map(|(_, rx)| rx.to_owned())
            })?
        });
    row.and_then(|hex| u32::from_str_radix(&hex, 16).ok())
        .unwrap_or(0)
}
