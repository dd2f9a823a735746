//! Requests over TLS, seen in the libraries of unmodified programs.
//!
//! Each conversation is had in plaintext, too: what the agent makes of it must be the same.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};

use super::Scenario;
use crate::harness::{
    Context, PATIENCE,
    agent::{Agent, Setup, Statistics},
    assert_text,
    collector::Collector,
    process::Program,
    service,
    tls::Authority,
    trace::{Span, Spans},
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::core("tls_openssl_as_in_plaintext", |context| {
        as_in_plaintext(context, "TLSv1.3")
    }),
    Scenario::full("tls_openssl_1_2_as_in_plaintext", |context| {
        as_in_plaintext(context, "TLSv1.2")
    }),
    Scenario::full("tls_gnutls_client", gnutls_client),
    Scenario::full("tls_older_connection", older_connection),
    Scenario::full("tls_off", off),
    Scenario::full("accounting_tls_calls_full", |context| {
        table_full(context, "tls-calls-full", "tls_calls_full")
    }),
    Scenario::full("accounting_tls_sessions_full", |context| {
        table_full(context, "tls-sessions-full", "tls_sessions_full")
    }),
];

/// nginx in front of a Python server with a thread for each connection. With a certificate all of it is TLS.
struct Chain {
    front: u16,
    back: u16,
    authority: PathBuf,
    scheme: &'static str,
    _programs: [Program; 2],
}

impl Chain {
    fn new(context: &Context, protocol: &str, encrypted: bool) -> Result<Self> {
        let (front, back) = (context.port(), context.port());
        let signer = Authority::new("authority")?;
        let authority = signer.write(context.folder())?;
        let [certificate, key] = signer.write_issued(context.folder(), "localhost")?;
        let text = |path: &PathBuf| -> Result<String> {
            Ok(path.to_str().context("a path that is no text")?.to_owned())
        };
        let (certificate, key) = (text(&certificate)?, text(&key)?);
        let tls = ["--tls", &certificate, &key];
        let arguments: &[&str] = if encrypted { &tls } else { &[] };
        let python = service::python(context, "threads.py", back, arguments)?;
        let scheme = if encrypted { "https" } else { "http" };
        let backend = format!("127.0.0.1:{back}");
        let values = [
            ("BACKEND", backend.as_str()),
            ("CERTIFICATE", &certificate),
            ("KEY", &key),
            ("PROTOCOL", protocol),
            ("SCHEME", scheme),
            ("SSL", if encrypted { "ssl" } else { "" }),
        ];
        let nginx = service::nginx(context, "tls.conf", front, &values)?;
        Ok(Self {
            front,
            back,
            authority,
            scheme,
            _programs: [nginx, python],
        })
    }

    fn agent(&self, context: &Context, collector: &Collector, arguments: &[&str]) -> Result<Agent> {
        let setup = Setup::grpc(collector).port(self.front).port(self.back);
        let setup = arguments.iter().fold(setup, |setup, one| setup.arg(*one));
        setup.start(context)
    }

    fn url(&self, path: &str) -> String {
        format!("{}://localhost:{}{path}", self.scheme, self.front)
    }

    /// Several requests on one connection of curl.
    fn curl(&self, arguments: &[&str], paths: &[&str]) -> Result<()> {
        let urls: Vec<String> = paths.iter().map(|path| self.url(path)).collect();
        let mut command = Command::new(service::program("curl")?);
        command.args(["-sS", "-m", "30", "--http1.1", "--cacert"]);
        command.arg(&self.authority).args(arguments);
        for url in &urls {
            command.args(["-o", "/dev/null", url]);
        }
        succeeds(command)
    }
}

fn succeeds(mut command: Command) -> Result<()> {
    let output = command.output()?;
    ensure!(
        output.status.success(),
        "{:?}: {}",
        command.get_program(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// What is asked in every conversation.
const PATHS: [&str; 6] = ["/b/1", "/b/2", "/", "/b/3", "/size/300000", "/b/4"];

/// Spans of those: client and server on each of the three hops, of which the third is not for `/`.
const SPANS: usize = 4 * 5 + 2;

/// A conversation of curl, nginx and Python; its spans, and what the agent counted.
fn conversation(context: &Context, protocol: &str, encrypted: bool) -> Result<(Spans, Statistics)> {
    let chain = Chain::new(context, protocol, encrypted)?;
    let collector = Collector::start()?;
    let agent = chain.agent(context, &collector, &[])?;
    chain.curl(&[], &PATHS)?;
    chain.curl(&["--data-binary", &"x".repeat(100_000)], &["/upload"])?;
    collector.wait_for_spans(SPANS + 4, PATIENCE)?;
    drop(chain);
    let statistics = agent.stop()?;
    Ok((collector.spans(), statistics))
}

/// Trees, names, sizes and sources of curl, nginx and Python are those of the same conversation in plaintext.
fn as_in_plaintext(context: &mut Context, protocol: &str) -> Result<()> {
    let (plain, _) = conversation(context, protocol, false)?;
    let (spans, statistics) = conversation(context, protocol, true)?;
    println!("{statistics}");
    assert_text("the traces", &spans.render(), &plain.render());
    assert_eq!(facts(&spans), facts(&plain));
    for span in &spans.0 {
        assert_eq!(span.get("url.scheme"), "https", "{}", span.line());
        assert_eq!(span.get("tls.protocol.name"), "tls", "{}", span.line());
    }
    for span in &plain.0 {
        assert_eq!(span.get("url.scheme"), "http", "{}", span.line());
        assert_eq!(span.get("tls.protocol.name"), "", "{}", span.line());
    }
    // Two of curl's connections and one of nginx's to Python, of each both ends.
    assert_eq!(statistics.get("tls_sessions"), 6, "{statistics}");
    for name in ["tls_unproven", "tls_ambiguous", "tls_calls_full"] {
        assert_eq!(statistics.get(name), 0, "{statistics}");
    }
    Ok(())
}

/// What is to be the same: of each span its line, its sizes and where its parent came from.
fn facts(spans: &Spans) -> Vec<String> {
    let fact = |span: &&Span| {
        let names = [
            "http.request.body.size",
            "http.response.body.size",
            "undertrace.parent.source",
            "undertrace.parent.method",
        ];
        let values = names.map(|name| format!("{name}={}", span.get(name)));
        format!("{} {}", span.line(), values.join(" "))
    };
    let mut facts: Vec<String> = spans.by_start().iter().map(fact).collect();
    facts.sort();
    facts
}

/// wget, which has GnuTLS.
fn gnutls_client(context: &mut Context) -> Result<()> {
    let wget = service::program("wget")?;
    let chain = Chain::new(context, "TLSv1.2 TLSv1.3", true)?;
    let collector = Collector::start()?;
    let agent = chain.agent(context, &collector, &[])?;
    // Its library is known from the first one on.
    let run = |path: &str| {
        let mut command = Command::new(&wget);
        command.args(["-q", "-O", "/dev/null", "--ca-certificate"]);
        command.arg(&chain.authority).arg(chain.url(path));
        succeeds(command)
    };
    run("/b/1")?;
    std::thread::sleep(std::time::Duration::from_secs(2));
    run("/b/2")?;
    let of_second = |spans: &Spans| spans.filter(|span| span.path() == "/b/2");
    crate::harness::wait_for(
        || {
            format!(
                "the second request's spans:\n{}",
                collector.spans().render()
            )
        },
        PATIENCE,
        || (of_second(&collector.spans()).len() >= 4).then_some(()),
    )?;
    let statistics = agent.stop()?;
    let expected = "CLIENT wget GET /b/2 200\n\
                    \x20 SERVER nginx GET /b/2 200\n\
                    \x20   CLIENT nginx GET /b/2 200\n\
                    \x20     SERVER threads GET /b/2 200\n";
    assert_text(
        "the second trace",
        &of_second(&collector.spans()).render(),
        expected,
    );
    assert_eq!(statistics.get("tls_ambiguous"), 0, "{statistics}");
    Ok(())
}

/// A connection that is older than the agent: what is asked on it later has spans, and its first request has none.
fn older_connection(context: &mut Context) -> Result<()> {
    let chain = Chain::new(context, "TLSv1.3", true)?;
    let script = context.folder().join("older.py");
    std::fs::write(
        &script,
        "import http.client, ssl, sys\n\
         context = ssl.create_default_context(cafile=sys.argv[2])\n\
         connection = http.client.HTTPSConnection('localhost', int(sys.argv[1]), context=context)\n\
         for line in sys.stdin:\n\
         \x20   connection.request('GET', line.strip())\n\
         \x20   print(connection.getresponse().read(), flush=True)\n",
    )?;
    let mut client = Command::new(service::program("python3")?)
        .arg(&script)
        .arg(chain.front.to_string())
        .arg(&chain.authority)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let mut ask = client.stdin.take().context("its input is piped")?;
    let answers = client.stdout.take().context("its output is piped")?;
    let mut answers = std::io::BufRead::lines(std::io::BufReader::new(answers));
    let mut request = |path: &str| -> Result<()> {
        std::io::Write::write_all(&mut ask, format!("{path}\n").as_bytes())?;
        answers.next().context("it ended")??;
        Ok(())
    };
    request("/b/1")?;
    let collector = Collector::start()?;
    let agent = chain.agent(context, &collector, &[])?;
    for path in ["/b/2", "/b/3", "/b/4"] {
        request(path)?;
    }
    let of_last = |spans: &Spans| spans.filter(|span| span.path() == "/b/4");
    crate::harness::wait_for(
        || format!("the last request's spans:\n{}", collector.spans().render()),
        PATIENCE,
        || (of_last(&collector.spans()).len() >= 4).then_some(()),
    )?;
    drop(ask);
    client.wait()?;
    let statistics = agent.stop()?;
    let spans = collector.spans();
    let expected = "CLIENT older GET /b/4 200\n\
                    SERVER nginx GET /b/4 200\n\
                    \x20 CLIENT nginx GET /b/4 200\n\
                    SERVER threads GET /b/4 200\n";
    let lines = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
        lines.sort();
        lines
    };
    // Both ends count from where each began to look, so nothing is handed over: no link is better than a wrong one.
    assert_eq!(
        lines(&of_last(&spans).render()),
        lines(expected),
        "{}",
        spans.render()
    );
    assert!(
        spans.filter(|span| span.path() == "/b/1").is_empty(),
        "{}",
        spans.render()
    );
    let handed = spans.filter(|span| span.get("undertrace.parent.source") == "same_kernel");
    assert!(handed.is_empty(), "{}", spans.render());
    assert_eq!(statistics.get("tls_sessions"), 4, "{statistics}");
    Ok(())
}

/// The negative control: without a look into libraries there are no spans.
fn off(context: &mut Context) -> Result<()> {
    let chain = Chain::new(context, "TLSv1.3", true)?;
    let collector = Collector::start()?;
    let agent = chain.agent(context, &collector, &["--tls=false"])?;
    chain.curl(&[], &PATHS)?;
    drop(chain);
    let statistics = agent.stop()?;
    assert!(
        collector.spans().is_empty(),
        "{}",
        collector.spans().render()
    );
    assert_eq!(statistics.get("tls_sessions"), 0, "{statistics}");
    assert!(
        statistics.get("connections_not_recognised") > 0,
        "{statistics}"
    );
    Ok(())
}

/// A table without room: nothing of the conversation is seen, and that is counted.
fn table_full(context: &mut Context, fault: &str, counter: &str) -> Result<()> {
    let chain = Chain::new(context, "TLSv1.3", true)?;
    let collector = Collector::start()?;
    let agent = chain.agent(context, &collector, &["--fault", fault])?;
    chain.curl(&[], &PATHS)?;
    drop(chain);
    let statistics = agent.stop()?;
    assert!(statistics.get(counter) > 0, "{statistics}");
    assert!(
        collector.spans().is_empty(),
        "{}",
        collector.spans().render()
    );
    assert_eq!(statistics.get("tls_sessions"), 0, "{statistics}");
    Ok(())
}
