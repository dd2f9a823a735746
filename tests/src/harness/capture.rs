//! What passes a router, read off the wire by a packet socket: it knows nothing of the agent, nor the agent of it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::net::{AddressFamily, RecvFlags, SocketType, eth, recv, socket, sockopt};

use super::network;

/// How often the thread looks whether it shall end.
const TICK: Duration = Duration::from_millis(50);
/// The largest packet that a veth pair hands over at once.
const PACKET: usize = 1 << 16;

/// Reads every IPv4 packet that comes into one network namespace, until it is asked for them.
#[derive(Debug)]
pub(crate) struct Capture {
    ended: Arc<AtomicBool>,
    payloads: Arc<Mutex<Vec<Vec<u8>>>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Capture {
    /// Begins to read in the namespace with this name. A router gets each packet once as one that comes in.
    ///
    /// # Errors
    /// When there is no packet socket.
    pub(crate) fn start(namespace: &str) -> Result<Self> {
        let fd = network::inside(namespace, || {
            let fd = socket(AddressFamily::PACKET, SocketType::DGRAM, Some(eth::IP))
                .context("no packet socket")?;
            sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, Some(TICK))?;
            Ok(fd)
        })?;
        let ended = Arc::new(AtomicBool::new(false));
        let payloads = Arc::new(Mutex::new(Vec::new()));
        let (stop, into) = (Arc::clone(&ended), Arc::clone(&payloads));
        let thread = thread::spawn(move || {
            let mut packet = vec![0; PACKET];
            while !stop.load(Ordering::Acquire) {
                match recv(&fd, packet.as_mut_slice(), RecvFlags::empty()) {
                    Ok((size, _)) => {
                        if let Some(payload) = tcp_payload(&packet[..size]) {
                            into.lock()
                                .expect("nobody panics while it is locked")
                                .push(payload.to_vec());
                        }
                    }
                    Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error).context("the packet socket"),
                }
            }
            Ok(())
        });
        Ok(Self {
            ended,
            payloads,
            thread: Some(thread),
        })
    }

    /// The payloads of TCP segments that carried any, in their order. Ends the reading.
    ///
    /// # Errors
    /// When the packet socket failed.
    pub(crate) fn stop(mut self) -> Result<Vec<Vec<u8>>> {
        self.ended.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the thread does not panic")?;
        }
        Ok(std::mem::take(
            &mut *self.payloads.lock().expect("the thread has ended"),
        ))
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
    }
}

/// The payload of an IPv4 packet with TCP in it (RFC 791 section 3.1, RFC 9293 section 3.1); `None` for others, and where there is none.
fn tcp_payload(packet: &[u8]) -> Option<&[u8]> {
    let version_and_length = *packet.first()?;
    let total = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
    if version_and_length >> 4 != 4 || *packet.get(9)? != 6 {
        return None;
    }
    let tcp = packet
        .get(..total)?
        .get(usize::from(version_and_length & 15) * 4..)?;
    let payload = tcp.get(usize::from(tcp.get(12)? >> 4) * 4..)?;
    (!payload.is_empty()).then_some(payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet with options in both headers, and what Ethernet pads it with behind.
    #[test]
    fn finds_the_payload_behind_options() {
        let mut packet = vec![0_u8; 24 + 32];
        packet[0] = 0x46;
        packet[9] = 6;
        packet[24 + 12] = 0x80;
        packet.extend(b"GET");
        packet[3] = 56 + 3;
        packet.extend([0; 6]);
        assert_eq!(tcp_payload(&packet), Some(&b"GET"[..]));
        packet[3] = 24 + 32;
        assert_eq!(tcp_payload(&packet), None, "an acknowledgement");
        packet[9] = 17;
        assert_eq!(tcp_payload(&packet), None, "a datagram");
    }

    #[test]
    fn cut_packets_have_none() {
        let mut packet = vec![0_u8; 43];
        (packet[0], packet[3], packet[9], packet[32]) = (0x45, 43, 6, 0x50);
        assert_eq!(tcp_payload(&packet).map(<[u8]>::len), Some(3));
        for cut in 0..packet.len() {
            assert_eq!(tcp_payload(&packet[..cut]), None, "{cut}");
        }
    }
}
