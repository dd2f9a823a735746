//! Samples of what each target reads, as services, kernels and people write it.

use agent_common::abi::{Decision, Direction, Exec, Exit, Fork, Header, Kind, LiveRequest, Role};
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::Samples;
pub(super) use super::image_seeds::{elf, maps, tls_image};
use crate::{
    event::{
        ClockPair,
        recording::{Description, Recorder},
    },
    kernel::{btf, offsets},
    process::{ProcessFacts, Resource},
    testing::{PROCESS, Record, SegmentExt as _, Socket},
};

/// Trace Context level 2, section 3.2.3.
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

const CURL: &str =
    "GET /items?id=7 HTTP/1.1\r\nHost: shop:8080\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n";

const BROWSER: &str = concat!(
    "GET /static/app.js HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 ",
    "Firefox/128.0\r\nAccept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8\r\nAccept-Encoding: gzip, deflate, br\r\n",
    "Connection: keep-alive\r\nCookie: session=0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "; theme=dark; consent=yes; experiment=b\r\nCache-Control: no-cache\r\n\r\n",
);

const TRACED: &str = concat!(
    "POST /orders HTTP/1.1\r\nhost: orders:8000\r\ncontent-type: application/json\r\ncontent-length: 11\r\n",
    "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\ntracestate: rojo=00f067aa0ba902b7,congo=t61rcWkgMzE\r\n\r\n",
);

const CHUNKED_REQUEST: &str = "PUT /upload HTTP/1.1\r\nHost: files\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n";

const OK: &str = concat!(
    "HTTP/1.1 200 OK\r\nServer: nginx/1.27.0\r\nDate: Tue, 01 Jul 2025 12:00:00 GMT\r\nContent-Type: text/plain\r\n",
    "Content-Length: 5\r\nConnection: keep-alive\r\n\r\n",
);

const CHUNKED_RESPONSE: &str =
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\nTrailer: Expires\r\n\r\n";

const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";

const BODY: &str = "5\r\nhello\r\n1f;name=\"value\"\r\n0\r\n\r\n56789GET /inner HTTP/1.1\r\n\r\n0\r\nExpires: never\r\n\r\n";

/// Numbers in front of the bytes.
fn with(numbers: &[usize], bytes: &str) -> Vec<u8> {
    let mut data: Vec<u8> = numbers
        .iter()
        .flat_map(|number| (*number as u16).to_le_bytes())
        .collect();
    data.extend(bytes.bytes());
    data
}

fn all(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// Each text with a place in it where it is cut.
fn all_cut(texts: &[&str]) -> Vec<Vec<u8>> {
    let place = |text: &str| text.len() / 3;
    texts
        .iter()
        .map(|text| with(&[place(text)], text))
        .collect()
}

pub(super) fn traceparent() -> Samples {
    Samples {
        taken: all(&[
            PARENT,
            "00-80e1afed08e019fc1110464cfa66635c-7a085853722dc6d2-00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-the-future-will-be-like",
        ]),
        refused: all(&[
            "",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 x",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\t,",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 -x",
        ]),
    }
}

pub(super) fn tracestate() -> Samples {
    let long = ["k", &"v".repeat(200)].join("=");
    Samples {
        taken: all(&[
            "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE",
            "fw529a3039@dt=FfAC;Ck9fbGFi, other=1",
            "ot=p:8;r:62",
            "foo=1,,bar=2 , \tbaz=3",
            &[long.as_str(); 4].join(","),
            // As long as a value that is carried on may be.
            &[&long[..170]; 3].join(","),
            &["a=1"; 32].join(","),
        ]),
        refused: all(&["", " , ", "foo", "foo=1=2", "Foo=1", &["a=1"; 33].join(",")]),
    }
}

pub(super) fn tcp_option() -> Samples {
    const SAMPLED: &[u8; 28] = b"\xfd\x1cuT\x4b\xf9\x2f\x35\x77\xb3\x4d\xa6\xa3\xce\x92\x9d\x0e\x0e\x47\x36\x00\xf0\x67\xaa\x0b\xa9\x02\xb7";
    let with = |at: std::ops::Range<usize>, byte: u8| {
        let mut option = SAMPLED.to_vec();
        option[at].fill(byte);
        option
    };
    Samples {
        taken: vec![
            SAMPLED.to_vec(),
            with(3..4, b't'),
            with(4..12, 0),
            [SAMPLED, &[1, 1, 8, 10][..]].concat(),
        ],
        refused: vec![
            Vec::new(),
            SAMPLED[..27].to_vec(),
            with(0..1, 254),
            with(1..2, 27),
            with(2..3, b'U'),
            with(4..20, 0),
            with(20..28, 0),
        ],
    }
}

pub(super) fn head_scan() -> Samples {
    let long = format!(
        "GET /{} HTTP/1.1\r\nHost: a\r\n{}traceparent: {PARENT}\r\n\r\n",
        "x".repeat(1500),
        "Cookie: crumb=0123456789; other=abcdefghij\r\n".repeat(40),
    );
    Samples {
        taken: all_cut(&[
            CURL,
            BROWSER,
            TRACED,
            CHUNKED_REQUEST,
            OK,
            CHUNKED_RESPONSE,
            CONTINUE,
            "\r\nHEAD * HTTP/1.0\nhost:a\n\n",
            "CONNECT proxy:443 HTTP/1.1\r\nHost: proxy:443\r\n\r\n\x16\x03\x01",
            "HTTP/1.0 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 5 6\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length:\t5 \t\r\n\r\nhello",
            "POST / HTTP/1.1\r\nContent-Length: 5, 5\r\n\r\nhello",
            "POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding:chunked\r\n\r\n",
            "POST / HTTP/1.1\nTransfer-Encoding: gzip ,\tChunked \n\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: :chunked\r\n\r\n",
            &format!("GET / HTTP/1.1\r\ntraceparent: {PARENT} x\r\n\r\n"),
            &format!("GET / HTTP/1.1\r\ntraceparent:{PARENT} \t\r\n\r\n"),
            &long,
        ]),
        refused: all_cut(&[
            "GET /unfinished HTTP/1.1\r\nHost: a\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "*1\r\n$4\r\nPING\r\n",
            "\x16\x03\x01\x02\x00\x01\x00",
        ]),
    }
}

pub(super) fn propagators() -> Samples {
    let head = |fields: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
    let (trace, span) = ("80f198ee56343ba864fe8b2a57d3eff7", "e457b5a2e4d86bd1");
    let taken = [
        head(&format!("b3: {trace}-{span}-1-05e3ac9a4f6e3b90")),
        head(&format!("B3: 64fe8b2a57d3eff7-{span}")),
        head(&format!(
            "X-B3-TraceId: {trace}\r\nX-B3-ParentSpanId: 05e3ac9a4f6e3b90\r\nX-B3-SpanId: {span}\r\nX-B3-Sampled: 1"
        )),
        head(&format!(
            "x-b3-traceid: {trace}\r\nx-b3-spanid: {span}\r\nx-b3-flags: 1"
        )),
        head(&format!("uber-trace-id: {trace}:{span}:0:1")),
        head(&format!("uber-trace-id: 64fe8b2a57d3eff7%3A{span}%3A0%3A0")),
        head(&format!("X-Trace-Id: {trace}\r\nX-Span-Id: {span}")),
    ];
    let ids = format!("x-b3-traceid: {trace}\r\nx-b3-spanid: {span}");
    // What stands before these lines is in another block than what stands behind them.
    let between = format!("cookie: {}\r\n", "x".repeat(90)).repeat(12);
    let refused = [
        CURL.to_owned(),
        head(&format!("b3: {trace}-{span}-1\r\ntraceparent: {PARENT}")),
        head("b3: 0"),
        head(&format!("x-b3-traceid: {trace}")),
        head(&format!(
            "{ids}\r\nx-b3-sampled: 1\r\n{between}x-b3-sampled: 1"
        )),
        head(&format!("{ids}\r\nx-b3-flags: 1\r\n{between}x-b3-flags: 1")),
        head(&format!("x-b3-flags: 0\r\n{between}x-b3-flags: 0\r\n{ids}")),
    ];
    Samples {
        taken: all_cut(&taken.each_ref().map(String::as_str)),
        refused: all_cut(&refused.each_ref().map(String::as_str)),
    }
}

pub(super) fn btf() -> Samples {
    let sample = btf::tests::sample().bytes();
    Samples {
        taken: vec![offsets::tests::kernel(|_| ())],
        refused: vec![sample, b"\x9f\xeb\x01\0".to_vec(), Vec::new()],
    }
}

pub(super) fn cgroup() -> Samples {
    const ID: &str = "4a6f1e9b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7";
    const POD: &str = "0f3c8e1a-77d2-4b4e-9c55-1d2e3f405162";
    let slice = POD.replace('-', "_");
    Samples {
        taken: all(&[
            &format!("0::/system.slice/docker-{ID}.scope\n"),
            &format!(
                "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{slice}.slice/cri-containerd-{ID}.scope\n"
            ),
            &format!(
                "12:cpu,cpuacct:/kubepods/pod{POD}/{ID}\n1:name=systemd:/kubepods/pod{POD}/{ID}\n0::/\n"
            ),
            &format!(
                "0::/system.slice/containerd.service/kubepods-besteffort-pod{slice}.slice:cri-containerd:{ID}\n"
            ),
            "9:memory:/ecs/4a6f1e9b2c3d4e5f60718293a4b5c6d7/4a6f1e9b2c3d4e5f60718293a4b5c6d7-1234567890\n",
            "0::/system.slice/my\\x2dshop.service (deleted)\n",
            &format!("0::/../../docker-{ID}.scope\n"),
        ]),
        refused: all(&[
            "",
            "0::/\n",
            "0::/user.slice/user-1000.slice/session-3.scope\n",
        ]),
    }
}

pub(super) fn config() -> Samples {
    Samples {
        taken: all(&[
            "",
            "# nothing\n",
            "port: [80, 8000-8099, \"443\"]\nexe:\n  - /usr/sbin/nginx\n  - 'node*'\nquery: true\n",
            "cgroup: ['/system.slice/*.service']\nsampler: parentbased_traceidratio\nsampler_arg: 0.25\n",
            "otlp:\n  endpoint: http://collector:4317\n  protocol: grpc\n  timeout: 500\n  headers: \"a=b,c=d\"\n",
            "inject: true\ninject_existing: true\ninject_to: [10.0.0.0/8, \"fd00::/8\"]\npropagators: [tracecontext, b3, X-Trace-Id/X-Span-Id]\nconsole: false\n",
        ]),
        refused: all(&[
            "port: [80\n",
            "prot: [80]\n",
            "port: [70000]\n",
            "sampler: sometimes\n",
            "otlp: {endpoint: 5, protocol: smoke}\n",
            "\t- x: &a [*a]\n",
        ]),
    }
}

pub(super) fn event_decode() -> Samples {
    let taken: Vec<Vec<u8>> = records();
    let mut later = taken[0].clone();
    later[2] += 1;
    let mut short = taken[1].clone();
    short.pop();
    Samples {
        taken,
        refused: vec![later, short, Vec::new()],
    }
}

pub(super) fn recording() -> Samples {
    let facts = ProcessFacts {
        key: PROCESS,
        resource: Resource::new(vec![("service.name".into(), "shop".to_owned())]),
    };
    let pair = ClockPair {
        monotonic_ns: 1,
        unix_ns: 1_700_000_000_000_000_000,
    };
    let begun = || {
        let description = Description {
            agent_version: "0.1.0".to_owned(),
            kernel_release: "6.12.0".to_owned(),
            boot_id: String::new(),
            globals: vec![("O_SOCKET_SK".to_owned(), 24)],
            payload_stripped: false,
        };
        let mut recorder = Recorder::begin(Vec::new(), &description).expect("a Vec takes all");
        recorder.clock(pair).expect("a Vec takes all");
        recorder.process(&facts).expect("a Vec takes all");
        recorder
    };
    let mut whole = begun();
    for (record, now_ns) in records().iter().zip(1_u64..) {
        whole.record(record).expect("a Vec takes all");
        whole.tick(now_ns << 30).expect("a Vec takes all");
    }
    let mut live = begun();
    let socket = conversation();
    for record in &socket.records[..4] {
        live.record(&record.bytes()).expect("a Vec takes all");
    }
    live.live(&[socket.live(), LiveRequest::default()])
        .expect("a Vec takes all");
    live.tick(socket.now_ns).expect("a Vec takes all");
    let whole = whole.finish().expect("a Vec takes all");
    let cut = whole[..whole.len() - 1].to_vec();
    Samples {
        taken: vec![whole, live.finish().expect("a Vec takes all")],
        refused: vec![cut, b"utrecord".to_vec(), Vec::new()],
    }
}

pub(super) fn chunk_framing() -> Samples {
    let sends = |sends: &[(u8, u8)], body: &str| {
        let mut data = vec![sends.len() as u8];
        data.extend(sends.iter().flat_map(|(offered, taken)| [*offered, *taken]));
        data.extend(body.bytes());
        data
    };
    let small = "5\r\nhello\r\n0\r\n\r\n";
    Samples {
        taken: vec![
            sends(&[(255, 255)], BODY),
            sends(&[(9, 10), (9, 10), (9, 10), (255, 255)], BODY),
            sends(&[(1, 2); 60], BODY),
            // Less is accepted than was offered: all of it, none of it, a part of the first chunk.
            sends(&[(255, 0), (255, 255)], small),
            sends(&[(14, 5), (255, 255)], small),
        ],
        refused: vec![
            sends(&[(255, 255)], "x\r\n"),
            sends(&[(3, 4)], small),
            sends(&[], small),
            Vec::new(),
        ],
    }
}

pub(super) fn chunked_body() -> Samples {
    Samples {
        taken: all_cut(&[
            BODY,
            "0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\nPOST /next HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
            "a \n0\r\n\r\n56789\n0\n\n",
            "3\r\n0\r\n\r\n1\r\n\n\r\n0\r\nA: b\r\nC: d\r\n\r\n",
        ]),
        refused: all_cut(&["", "x\r\n", "5\r\nhel", "1234567890abcdef0\r\n", "1\r\nab"]),
    }
}

pub(super) fn messages() -> Samples {
    let conversation = |requests: &[&str], responses: &[&str]| {
        let (requests, responses) = (requests.concat(), responses.concat());
        let cuts = [requests.len(), requests.len() / 2, responses.len() / 2];
        with(&cuts, &(requests + &responses))
    };
    Samples {
        taken: vec![
            conversation(&[CURL], &[OK, "hello"]),
            conversation(
                &[TRACED, "{\"item\": 7}", CURL],
                &[OK, "hello", OK, "world"],
            ),
            conversation(
                &[CHUNKED_REQUEST, BODY],
                &[CONTINUE, CHUNKED_RESPONSE, BODY],
            ),
            conversation(
                &["HEAD / HTTP/1.1\r\n\r\n", CURL, BROWSER],
                &[OK, "HTTP/1.1 304 Not Modified\r\n\r\n", OK, "hello"],
            ),
            conversation(&[CURL], &["HTTP/1.0 200 OK\r\n\r\nuntil the end"]),
            conversation(
                &["GET /chat HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"],
                &["HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x01\x05hello"],
            ),
        ],
        refused: vec![
            conversation(&[CURL], &[]),
            conversation(&[], &[OK, "hello"]),
            conversation(&["*1\r\n$4\r\nPING\r\n"], &["+PONG\r\n"]),
        ],
    }
}

/// A served conversation: a decision of the kernel, a chunked response whose end it tells, bytes that are sent again.
fn conversation() -> Socket {
    let mut socket = Socket::open(1, Role::Server);
    let decision = Decision {
        trace_id: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.to_be_bytes(),
        span_id: 0x00f0_67aa_0ba9_02b7_u64.to_be_bytes(),
        ..Decision::default()
    };
    socket.receive(TRACED.as_bytes()).starts().decided(decision);
    socket.receive(b"{\"item\": 7}");
    socket.send([OK, "hello"].concat().as_bytes()).starts();
    socket.receive(CURL.as_bytes()).starts();
    let start = socket.position(Direction::Send);
    socket.send(CHUNKED_RESPONSE.as_bytes()).starts();
    let end = start + (CHUNKED_RESPONSE.len() + BODY.len()) as u64;
    socket.send_partly(BODY.as_bytes(), 12);
    socket.send(&BODY.as_bytes()[12..]);
    socket.message_end(Direction::Send, start, end, 36);
    socket.resend(end, 10);
    socket.decide(Decision {
        position: TRACED.len() as u64 + 11,
        ..decision
    });
    socket.close(0);
    socket
}

/// One record of each kind and more.
fn records() -> Vec<Vec<u8>> {
    let mut records: Vec<Vec<u8>> = conversation().records.iter().map(Record::bytes).collect();
    let header = |kind: Kind, length: usize| Header {
        kind: kind as u16,
        version: agent_common::abi::ABI_VERSION,
        length: length as u32,
        time_ns: 1 << 30,
        ..Header::default()
    };
    let mut exec = Exec::new_zeroed();
    exec.header = header(Kind::Exec, size_of::<Exec>());
    let mut fork = Fork::new_zeroed();
    fork.header = header(Kind::Fork, size_of::<Fork>());
    let mut exit = Exit::new_zeroed();
    exit.header = header(Kind::Exit, size_of::<Exit>());
    (exec.tgid, fork.tgid, exit.tgid) = (43, 43, PROCESS.tgid);
    exit.process_start_ns = PROCESS.start_ns;
    let release = Header {
        connection: 1,
        ..header(Kind::Release, size_of::<Header>())
    };
    records.push(exec.as_bytes().to_vec());
    records.push(fork.as_bytes().to_vec());
    records.push(exit.as_bytes().to_vec());
    records.push(release.as_bytes().to_vec());
    let wanted = Header {
        kind: Kind::Await as u16,
        ..release
    };
    records.push(wanted.as_bytes().to_vec());
    records
}
