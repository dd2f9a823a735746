//! What passes a router, read off the wire by a packet socket: it knows nothing of the agent, nor the agent of it.

use std::{
    os::fd::OwnedFd,
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

/// A TCP segment that carried any payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Number of its first byte.
    pub(crate) sequence: u32,
    /// The options of its header, as they stand there.
    pub(crate) options: Vec<u8>,
    /// What it carries.
    pub(crate) payload: Vec<u8>,
}

impl Segment {
    /// Contents of the options of one kind (RFC 9293 section 3.2), without kind and length.
    pub(crate) fn options_of(&self, kind: u8) -> Vec<&[u8]> {
        let (mut found, mut rest) = (Vec::new(), self.options.as_slice());
        loop {
            match rest {
                [] | [0, ..] => return found,
                [1, behind @ ..] => rest = behind,
                [this, length, ..] if *length >= 2 && usize::from(*length) <= rest.len() => {
                    let (option, behind) = rest.split_at(usize::from(*length));
                    if *this == kind {
                        found.push(&option[2..]);
                    }
                    rest = behind;
                }
                _ => panic!("malformed options: {:02x?}", self.options),
            }
        }
    }
}

/// Reads every IPv4 packet that comes into one network namespace, until it is asked for them.
#[derive(Debug)]
pub(crate) struct Capture {
    ended: Arc<AtomicBool>,
    segments: Arc<Mutex<Vec<Segment>>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Capture {
    /// Begins to read in the namespace with this name. A router gets each packet once as one that comes in.
    ///
    /// # Errors
    /// When there is no packet socket.
    pub(crate) fn start(namespace: &str) -> Result<Self> {
        Ok(Self::by(network::inside(namespace, packets)?))
    }

    /// Begins to read in the namespace of the scenario, whatever comes in from elsewhere or over loopback.
    ///
    /// # Errors
    /// When there is no packet socket.
    pub(crate) fn here() -> Result<Self> {
        Ok(Self::by(packets()?))
    }

    fn by(fd: OwnedFd) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let segments = Arc::new(Mutex::new(Vec::new()));
        let (stop, into) = (Arc::clone(&ended), Arc::clone(&segments));
        let thread = thread::spawn(move || {
            let mut packet = vec![0; PACKET];
            loop {
                match recv(&fd, packet.as_mut_slice(), RecvFlags::empty()) {
                    Ok((size, _)) => {
                        if let Some(segment) = tcp_segment(&packet[..size]) {
                            into.lock()
                                .expect("nobody panics while it is locked")
                                .push(segment);
                        }
                    }
                    // What came before the end was asked for is read to its end.
                    Err(rustix::io::Errno::AGAIN) if stop.load(Ordering::Acquire) => return Ok(()),
                    Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error).context("the packet socket"),
                }
            }
        });
        Self {
            ended,
            segments,
            thread: Some(thread),
        }
    }

    /// The payloads of TCP segments that carried any, in their order. Ends the reading.
    ///
    /// # Errors
    /// When the packet socket failed.
    pub(crate) fn stop(self) -> Result<Vec<Vec<u8>>> {
        let segments = self.stop_segments()?.into_iter();
        Ok(segments.map(|segment| segment.payload).collect())
    }

    /// The TCP segments that carried any payload, in their order. Ends the reading.
    ///
    /// # Errors
    /// When the packet socket failed.
    pub(crate) fn stop_segments(mut self) -> Result<Vec<Segment>> {
        self.ended.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the thread does not panic")?;
        }
        Ok(std::mem::take(
            &mut *self.segments.lock().expect("the thread has ended"),
        ))
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
    }
}

/// A socket that gets every IPv4 packet that comes in.
fn packets() -> Result<OwnedFd> {
    let fd = socket(AddressFamily::PACKET, SocketType::DGRAM, Some(eth::IP))
        .context("no packet socket")?;
    sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, Some(TICK))?;
    Ok(fd)
}

/// The segment in an IPv4 packet with TCP in it (RFC 791 section 3.1, RFC 9293 section 3.1); `None` for others, and where there is no payload.
fn tcp_segment(packet: &[u8]) -> Option<Segment> {
    let version_and_length = *packet.first()?;
    let total = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
    if version_and_length >> 4 != 4 || *packet.get(9)? != 6 {
        return None;
    }
    let tcp = packet
        .get(..total)?
        .get(usize::from(version_and_length & 15) * 4..)?;
    let header = usize::from(tcp.get(12)? >> 4) * 4;
    let payload = tcp.get(header..)?;
    (!payload.is_empty()).then_some(Segment {
        sequence: u32::from_be_bytes(tcp.get(4..8)?.try_into().ok()?),
        options: tcp.get(20..header)?.to_vec(),
        payload: payload.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp_payload(packet: &[u8]) -> Option<Vec<u8>> {
        tcp_segment(packet).map(|segment| segment.payload)
    }

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
        assert_eq!(tcp_payload(&packet), Some(b"GET".to_vec()));
        packet[24 + 4..24 + 8].copy_from_slice(&[1, 2, 3, 4]);
        packet[24 + 20..24 + 32].copy_from_slice(&[1, 1, 8, 3, 9, 253, 4, 7, 7, 253, 2, 0]);
        let segment = tcp_segment(&packet).expect("a segment");
        assert_eq!(segment.sequence, 0x0102_0304);
        assert_eq!(segment.options_of(253), [&[7, 7][..], &[]]);
        assert_eq!(segment.options_of(8), [&[9][..]]);
        packet[3] = 24 + 32;
        assert_eq!(tcp_payload(&packet), None, "an acknowledgement");
        packet[9] = 17;
        assert_eq!(tcp_payload(&packet), None, "a datagram");
    }

    #[test]
    fn cut_packets_have_none() {
        let mut packet = vec![0_u8; 43];
        (packet[0], packet[3], packet[9], packet[32]) = (0x45, 43, 6, 0x50);
        assert_eq!(tcp_payload(&packet).map(|payload| payload.len()), Some(3));
        for cut in 0..packet.len() {
            assert_eq!(tcp_payload(&packet[..cut]), None, "{cut}");
        }
    }
}
