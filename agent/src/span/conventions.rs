//! Names of OpenTelemetry semantic conventions 1.37.0 (the one place where the version is pinned), and our own under `undertrace.`.

/// The version of the conventions, for `schema_url`.
pub const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.37.0";

/// Instrumentation scope of our spans.
pub const SCOPE_NAME: &str = "undertrace";

/// `http.request.method`.
pub const HTTP_REQUEST_METHOD: &str = "http.request.method";
/// `http.request.method_original`: the token of a method that is `_OTHER`.
pub const HTTP_REQUEST_METHOD_ORIGINAL: &str = "http.request.method_original";
/// `http.response.status_code`.
pub const HTTP_RESPONSE_STATUS_CODE: &str = "http.response.status_code";
/// `http.request.resend_count`: which repetition of a failed request this is, from 1.
pub const HTTP_REQUEST_RESEND_COUNT: &str = "http.request.resend_count";
/// `http.request.body.size`: bytes of the body without framing.
pub const HTTP_REQUEST_BODY_SIZE: &str = "http.request.body.size";
/// `http.response.body.size`: bytes of the body without framing.
pub const HTTP_RESPONSE_BODY_SIZE: &str = "http.response.body.size";
/// `url.scheme`.
pub const URL_SCHEME: &str = "url.scheme";
/// `url.path`.
pub const URL_PATH: &str = "url.path";
/// `url.query`.
pub const URL_QUERY: &str = "url.query";
/// `url.full`.
pub const URL_FULL: &str = "url.full";
/// `server.address`: the server as the client names it.
pub const SERVER_ADDRESS: &str = "server.address";
/// `server.port`.
pub const SERVER_PORT: &str = "server.port";
/// `client.address`.
pub const CLIENT_ADDRESS: &str = "client.address";
/// `client.port`.
pub const CLIENT_PORT: &str = "client.port";
/// `network.peer.address`: the other end of the socket.
pub const NETWORK_PEER_ADDRESS: &str = "network.peer.address";
/// `network.peer.port`.
pub const NETWORK_PEER_PORT: &str = "network.peer.port";
/// `network.transport`.
pub const NETWORK_TRANSPORT: &str = "network.transport";
/// `network.protocol.name`.
pub const NETWORK_PROTOCOL_NAME: &str = "network.protocol.name";
/// `network.protocol.version`.
pub const NETWORK_PROTOCOL_VERSION: &str = "network.protocol.version";
/// `tls.established`: whether the handshake succeeded.
pub const TLS_ESTABLISHED: &str = "tls.established";
/// `tls.protocol.name`: `tls`, in lower case.
pub const TLS_PROTOCOL_NAME: &str = "tls.protocol.name";
/// `user_agent.original`.
pub const USER_AGENT_ORIGINAL: &str = "user_agent.original";
/// `error.type`.
pub const ERROR_TYPE: &str = "error.type";
/// `service.name`.
pub const SERVICE_NAME: &str = "service.name";
/// `process.pid`.
pub const PROCESS_PID: &str = "process.pid";

/// Bytes of the whole request on the wire, head and framing included.
pub const UNDERTRACE_REQUEST_WIRE_SIZE: &str = "undertrace.request.wire_size";
/// Bytes of the whole response on the wire.
pub const UNDERTRACE_RESPONSE_WIRE_SIZE: &str = "undertrace.response.wire_size";
/// Where the trace id and the parent come from: `root`, `header`, `same_kernel`, `option`, `causal`.
pub const UNDERTRACE_PARENT_SOURCE: &str = "undertrace.parent.source";
/// The causality rule that found the parent: `none`, `forwarded`, `same_context`, `descendant`, `connect`, `last_read`, `only_open`, `runtime`.
pub const UNDERTRACE_PARENT_METHOD: &str = "undertrace.parent.method";
/// Confidence in the parent, percent.
pub const UNDERTRACE_PARENT_CONFIDENCE: &str = "undertrace.parent.confidence";
/// `false` where the context could not be carried to the receiver because the kernel did not decide the request.
pub const UNDERTRACE_PROPAGATED: &str = "undertrace.propagated";
/// `true` where the response was lost to the agent, so that nothing is known of it.
pub const UNDERTRACE_RESPONSE_UNSEEN: &str = "undertrace.response.unseen";
/// How often TCP sent bytes of the message again that the process sent; absent for never.
pub const UNDERTRACE_RETRANSMISSION_COUNT: &str = "undertrace.retransmission.count";
/// Of an event: bytes that were sent again.
pub const UNDERTRACE_RETRANSMISSION_BYTES: &str = "undertrace.retransmission.bytes";
/// Why a link stands there: `parent_answered`, `parent_unknown`, `untrusted`, `previous_attempt`.
pub const UNDERTRACE_LINK_REASON: &str = "undertrace.link.reason";

/// Event: the head of the request is complete.
pub const EVENT_REQUEST_HEAD: &str = "undertrace.request.head_complete";
/// Event: an interim response (1xx).
pub const EVENT_INTERIM_RESPONSE: &str = "undertrace.response.interim";
/// Event: the first byte of the final response.
pub const EVENT_RESPONSE_FIRST_BYTE: &str = "undertrace.response.first_byte";
/// Event of a client's span: TCP sent bytes of the request again.
pub const EVENT_REQUEST_RETRANSMISSION: &str = "undertrace.request.retransmission";
/// Event of a server's span: TCP sent bytes of the response again.
pub const EVENT_RESPONSE_RETRANSMISSION: &str = "undertrace.response.retransmission";

/// `error.type` of a span whose id was given to its receiver, but whose message was not seen.
pub const ERROR_UNOBSERVED: &str = "unobserved";
/// `error.type` of a connection that could not be made.
pub const ERROR_CONNECT_FAILED: &str = "connect_failed";
