//! Requests of every form, made from a fixed seed: heads from 100 bytes to 16 KiB, bodies of each framing, names and values that look like
//! what is looked for, sent in pieces cut anywhere, from several buffers, with MSG_MORE, one behind the other.
//!
//! Output: conversations, each held ([`Conversation::run`]) with a server that answers as [`Request::ends_http`](super::Request::ends_http) says.

use anyhow::{Result, ensure};

use crate::harness::http::{Connection, head_of};

/// How the bytes of one send are handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// One buffer.
    Plain,
    /// So many buffers at once.
    Buffers(usize),
    /// One buffer, and the promise of more.
    More,
}

/// One call.
#[derive(Clone, Debug)]
struct Call {
    bytes: Vec<u8>,
    how: How,
}

/// What is sent before the next answer is waited for.
#[derive(Clone, Debug, Default)]
struct Turn {
    calls: Vec<Call>,
    /// Methods of the requests in it, each of which is answered.
    methods: Vec<&'static str>,
    /// Bytes that come back as they are, when the connection speaks no HTTP any more.
    echo: usize,
}

/// All that is sent on one connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conversation {
    turns: Vec<Turn>,
}

impl Conversation {
    /// Its bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let calls = self.turns.iter().flat_map(|turn| &turn.calls);
        calls.flat_map(|call| call.bytes.iter().copied()).collect()
    }

    /// Offsets at which its sends end.
    pub(crate) fn ends(&self) -> Vec<usize> {
        let calls = self.turns.iter().flat_map(|turn| &turn.calls);
        calls
            .scan(0, |sum, call| {
                *sum += call.bytes.len();
                Some(*sum)
            })
            .collect()
    }

    /// Requests that are answered.
    pub(crate) fn requests(&self) -> usize {
        self.turns.iter().map(|turn| turn.methods.len()).sum()
    }

    /// Holds it on a connection of its own.
    ///
    /// # Errors
    /// When the connection breaks, or an answer is not what it should be.
    pub(crate) fn run(&self, port: u16) -> Result<()> {
        let mut connection = Connection::open(port)?;
        for turn in &self.turns {
            for call in &turn.calls {
                match call.how {
                    How::Plain => connection.send(&call.bytes)?,
                    How::Buffers(count) => connection.send_scattered(&call.bytes, count)?,
                    How::More => connection.send_more(&call.bytes)?,
                }
            }
            for method in &turn.methods {
                let response = connection.response(method)?;
                ensure!(
                    matches!(response.status, 101 | 200 | 405),
                    "answered {}",
                    response.status
                );
            }
            if turn.echo != 0 {
                connection.discard(turn.echo)?;
            }
        }
        Ok(())
    }
}

/// Numbers from a seed (splitmix64).
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From `least` to `most`.
    fn between(&mut self, least: usize, most: usize) -> usize {
        least + (self.next() % (most - least + 1) as u64) as usize
    }

    fn percent(&mut self, chance: usize) -> bool {
        self.between(1, 100) <= chance
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.between(0, all.len() - 1)]
    }
}

/// Lines that are near to what is looked for, and are none of it.
const NEAR: &[&str] = &[
    "traceparen: x\r\n",
    "traceparents: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n",
    "x-traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n",
    "Cookie: traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n",
    "Trace: parent:\r\n",
    "Content-Lengths: 7\r\n",
    "X-Content-Length: 7\r\n",
    "Accept: */*\r\n",
    "User-Agent: shop/1.0 (GET / HTTP/1.1)\r\n",
    "X-Empty:\r\n",
    "Cookie: a=b; c=d\r\n",
];

/// Conversations of at least so many requests in all.
pub(crate) fn conversations(seed: u64, requests: usize) -> Vec<Conversation> {
    let mut random = Random(seed);
    let mut all = Vec::new();
    let mut count = 0;
    while count < requests {
        let one = conversation(&mut random);
        count += one.requests();
        all.push(one);
    }
    all
}

fn conversation(random: &mut Random) -> Conversation {
    let mut turns = Vec::new();
    if random.percent(4) {
        let start = random.one_of(&["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\u{16}\u{3}\u{1}\0\r\n"]);
        let text = format!("{start}GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        turns.push(silent(text.into_bytes()));
        return Conversation { turns };
    }
    for _ in 0..random.between(4, 20) {
        turns.push(match random.between(1, 100) {
            1..=70 => single(random),
            71..=85 => pipelined(random, true),
            86..=97 => pipelined(random, false),
            _ => refused_tunnel(),
        });
    }
    if random.percent(20) {
        let (head, method) = random.one_of(&[
            (
                "CONNECT shop.test:80 HTTP/1.1\r\nHost: shop.test:80\r\n\r\n",
                "CONNECT",
            ),
            (
                "GET /upgrade HTTP/1.1\r\nHost: a\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n",
                "GET",
            ),
        ]);
        turns.push(plain(head.into(), vec![method]));
        let (text, _) = request(random, 600);
        let length = text.len();
        turns.push(Turn {
            echo: length,
            ..plain(text, Vec::new())
        });
    }
    Conversation { turns }
}

/// One send.
fn plain(bytes: Vec<u8>, methods: Vec<&'static str>) -> Turn {
    let how = How::Plain;
    Turn {
        calls: vec![Call { bytes, how }],
        methods,
        echo: 0,
    }
}

fn silent(bytes: Vec<u8>) -> Turn {
    plain(bytes, Vec::new())
}

fn refused_tunnel() -> Turn {
    let head = "CONNECT refused.test:80 HTTP/1.1\r\nHost: refused.test:80\r\n\r\n";
    plain(head.into(), vec!["CONNECT"])
}

/// Several requests whose answers are not waited for: in one send, or in one send each.
fn pipelined(random: &mut Random, in_one: bool) -> Turn {
    let mut turn = Turn::default();
    let mut all = Vec::new();
    for _ in 0..random.between(2, 7) {
        // All heads of a send within the blocks that the kernel looks at.
        let (bytes, method) = request(random, 900);
        turn.methods.push(method);
        if in_one {
            all.extend_from_slice(&bytes);
        } else {
            let how = How::Plain;
            turn.calls.push(Call { bytes, how });
        }
    }
    if in_one {
        let how = if random.percent(30) {
            How::Buffers(random.between(2, 16))
        } else {
            How::Plain
        };
        turn.calls.push(Call { bytes: all, how });
    }
    turn
}

/// One request, cut into sends.
fn single(random: &mut Random) -> Turn {
    let most = match random.between(1, 100) {
        1..=60 => 600,
        61..=85 => 2_000,
        86..=95 => 8_000,
        _ => 16 << 10,
    };
    let (bytes, method) = request(random, most);
    let head = head_length(&bytes);
    let mut turn = Turn {
        methods: vec![method],
        ..Turn::default()
    };
    let mut cuts: Vec<usize> = Vec::new();
    let mut how = How::Plain;
    match random.between(1, 100) {
        1..=35 => {}
        36..=45 => cuts.push(head),
        46..=57 => how = How::Buffers(random.between(2, 16)),
        58..=64 => {
            cuts.push(head);
            how = How::More;
        }
        65..=76 => {
            for _ in 0..random.between(1, 5) {
                cuts.push(random.between(1, head));
            }
        }
        77..=86 => cuts.push(head - random.between(1, 4)),
        87..=92 if head <= 400 => cuts.extend(1..=head),
        _ => {
            let ends = bytes[..head].iter().enumerate();
            cuts.extend(ends.filter(|(_, b)| **b == b'\n').map(|(at, _)| at + 1));
        }
    }
    cuts.sort_unstable();
    cuts.dedup();
    cuts.retain(|cut| *cut < bytes.len());
    let mut from = 0;
    for cut in cuts.into_iter().chain([bytes.len()]) {
        // The last one must go out.
        let how = if cut == bytes.len() && how == How::More {
            How::Plain
        } else {
            how
        };
        let bytes = bytes[from..cut].to_vec();
        turn.calls.push(Call { bytes, how });
        from = cut;
    }
    turn
}

fn head_length(bytes: &[u8]) -> usize {
    let ends = [&b"\r\n\r\n"[..], b"\n\n", b"\n\r\n"].map(|end| {
        let at = bytes.windows(end.len()).position(|part| part == end);
        at.map(|at| at + end.len())
    });
    ends.into_iter().flatten().min().expect("a head ends")
}

/// A request whose head has from 100 to `most` bytes, and its method.
fn request(random: &mut Random, most: usize) -> (Vec<u8>, &'static str) {
    let method = random.one_of(&[
        "GET", "GET", "GET", "GET", "GET", "POST", "POST", "POST", "PUT", "HEAD", "DELETE",
        "OPTIONS",
    ]);
    let mut lines = String::new();
    for _ in 0..random.between(0, 3) {
        lines.push_str(random.one_of(NEAR));
    }
    let mut own = String::new();
    if random.percent(12) {
        let line = random.one_of(&[
            "traceparent: VALUE\r\n",
            "TraceParent:VALUE\r\n",
            "traceparent: 00-x\r\n",
            "traceparent:\r\n",
            "traceparent: VALUE\r\nTRACEPARENT: VALUE\r\n",
        ]);
        // Of its own for each request: one that is equal to an open request's of the same process is forwarded, and rewritten.
        let ids =
            [random.next(), random.next(), random.next()].map(|id| format!("{:016x}", id | 1));
        let value = format!("00-{}{}-{}-01", ids[0], ids[1], ids[2]);
        own = line.replace("VALUE", &value);
    }
    let has_body = matches!(method, "POST" | "PUT");
    let size = match random.between(1, 100) {
        1..=10 => 0,
        11..=90 => random.between(1, 2_000),
        // Only where one request stands alone.
        _ if most > 900 => random.between(2_000, 100_000),
        _ => random.between(2_000, 4_000),
    };
    let mut body = Vec::new();
    if has_body {
        body = request_like(size);
        if random.percent(30) {
            own.push_str("Transfer-Encoding: chunked\r\n");
            body = chunked(random, &body);
        } else {
            own.push_str(&format!("Content-Length: {size}\r\n"));
        }
    }
    let path = format!("/{}", random.next() % 1_000_000);
    let least = 100.max(44 + path.len() + lines.len() + own.len() + 8);
    let length = if random.percent(10) {
        most
    } else {
        random.between(100, most)
    };
    // The method is put in afterwards.
    let length = length.max(least + 8) + "GET".len() - method.len();
    let (first, last) = if random.percent(50) {
        (own, lines)
    } else {
        (lines, own)
    };
    // The filler stands between the two.
    let head = head_of(length, &path, &first, &last);
    let head = head.replacen("GET ", &format!("{method} "), 1);
    let head = match random.between(1, 100) {
        1..=3 => head.replace("\r\n", "\n"),
        4 => format!("{}\n", head.strip_suffix("\r\n").expect("it ends so")),
        _ => head,
    };
    ([head.into_bytes(), body].concat(), method)
}

/// Bytes in which requests stand.
fn request_like(size: usize) -> Vec<u8> {
    let text = "GET /body HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n0\r\n\r\n";
    text.bytes().cycle().take(size).collect()
}

fn chunked(random: &mut Random, body: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    let chunk = (body.len() / random.between(1, 5)).max(1);
    for part in body.chunks(chunk) {
        all.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
        all.extend_from_slice(part);
        all.extend_from_slice(b"\r\n");
    }
    all.extend_from_slice(b"0\r\n\r\n");
    all
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::harness::requests::{Found, due::Due, next};

    #[test]
    fn the_same_seed_makes_the_same_requests() {
        let bytes = |seed| {
            conversations(seed, 200)
                .iter()
                .map(Conversation::bytes)
                .collect::<Vec<_>>()
        };
        assert_eq!(bytes(7), bytes(7));
        assert_ne!(bytes(7), bytes(8));
    }

    #[test]
    fn every_request_is_found_in_the_bytes_and_forms_of_all_kinds_are_there() {
        let mut due = Due::default();
        let (mut heads, mut hows) = (Vec::new(), HashSet::new());
        let (mut silent, mut sends) = (0, 0);
        for one in conversations(1, 3_000) {
            let bytes = one.bytes();
            let ends = one.ends();
            assert_eq!(ends.last(), Some(&bytes.len()));
            let of_one = Due::of(&bytes, Some(&ends));
            assert_eq!(of_one.requests, one.requests() as u64);
            due.add(&of_one);
            let mut at = 0;
            while let Found::Whole(request) = next(&bytes, at) {
                heads.push(request.head_end - at);
                at = if request.ends_http() {
                    bytes.len()
                } else {
                    request.end
                };
            }
            silent += usize::from(one.requests() == 0);
            sends += ends.len();
            for call in one.turns.iter().flat_map(|turn| &turn.calls) {
                hows.insert(std::mem::discriminant(&call.how));
            }
        }
        for (name, count) in due.counters() {
            assert!(count >= 10, "{name}: {count}");
        }
        assert!(silent > 2 && hows.len() == 3, "{silent}");
        assert!(sends > due.requests as usize, "most are cut somewhere");
        assert!(due.inserted * 10 > due.requests * 6, "{due:?}");
        assert_eq!(heads.iter().max(), Some(&(16 << 10)));
        let short = heads.iter().filter(|length| **length < 200).count();
        assert!(short > 100, "{short} heads are short");
    }

    #[test]
    fn no_send_has_more_than_the_kernel_looks_at() {
        const STEPS: usize = 20;
        const BLOCK: usize = 1024;
        for one in conversations(2, 2_000) {
            for call in one.turns.iter().flat_map(|turn| &turn.calls) {
                let mut at = 0;
                let mut steps = 0;
                while let Found::Whole(request) | Found::Head(request) = next(&call.bytes, at) {
                    steps += 1 + (request.head_end - at) / BLOCK;
                    at = request.end.max(request.head_end);
                }
                assert!(steps <= STEPS, "{steps} in {} bytes", call.bytes.len());
            }
        }
    }
}
