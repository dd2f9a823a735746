//! The services that are measured. Each counts the requests it served, so that the agent's figures are compared with the truth and
//! not with what the load generator waited for.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::process::{Program, batch, wait_for};

/// How long a service may take to listen: Node needs some seconds under emulation.
const PATIENCE: Duration = Duration::from_secs(60);

/// First of the ports used; a service's count is asked at the port after its own.
const PORT: u16 = 18_080;

/// A kind of service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// nginx that answers by itself.
    Nginx,
    /// nginx in front of nginx, upstream connections kept.
    Proxy,
    /// Threads of CPython.
    Python,
    /// Node.
    Node,
    /// nginx without any request.
    Idle,
}

impl Kind {
    /// Every kind, in the order of the table.
    pub(crate) const ALL: [Self; 5] = [
        Self::Nginx,
        Self::Proxy,
        Self::Python,
        Self::Node,
        Self::Idle,
    ];

    /// Its name in the table.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Proxy => "proxy",
            Self::Python => "python",
            Self::Node => "node",
            Self::Idle => "idle",
        }
    }
}

/// A service that listens.
#[derive(Debug)]
pub(crate) struct Service {
    /// Where to send requests.
    pub(crate) url: String,
    /// What the agent is told to trace.
    pub(crate) selectors: Vec<String>,
    #[expect(dead_code, reason = "dropping them ends them")]
    programs: Vec<Program>,
    /// One for each server: its port for counts, spans of each of its requests, and questions asked so far that it counted itself.
    counts: Vec<Count>,
}

#[derive(Debug)]
struct Count {
    port: u16,
    spans: u64,
    /// nginx counts the question for its count too.
    counts_itself: bool,
    asked: u64,
}

/// Requests that a service has served, and the spans that they are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Served {
    /// Requests of the server that the load generator speaks to.
    pub(crate) requests: u64,
    /// Spans of all its servers.
    pub(crate) spans: u64,
}

impl Service {
    /// Starts a service and waits until it answers.
    ///
    /// # Errors
    /// When a program is missing or does not listen.
    pub(crate) fn start(kind: Kind, folder: &Path) -> Result<Self> {
        let url = format!("http://127.0.0.1:{PORT}/");
        let count = |port: u16, spans, counts_itself| Count {
            port: port + 1,
            spans,
            counts_itself,
            asked: 0,
        };
        let (programs, counts, selectors) = match kind {
            Kind::Nginx | Kind::Idle => {
                let programs = vec![nginx(folder, PORT, "return 200 \"hello\\n\";")?];
                (programs, vec![count(PORT, 1, true)], exe("nginx")?)
            }
            Kind::Proxy => {
                let back = PORT + 2;
                let pass = "proxy_pass http://kept; proxy_http_version 1.1; proxy_set_header Connection \"\";";
                let programs = vec![
                    nginx(folder, back, "return 200 \"hello\\n\";")?,
                    nginx(folder, PORT, pass)?,
                ];
                // In front: one span as server, one as client.
                (
                    programs,
                    vec![count(PORT, 2, true), count(back, 1, true)],
                    exe("nginx")?,
                )
            }
            Kind::Python => {
                let program = script(folder, "python3", "server.py", include_str!("server.py"))?;
                (vec![program], vec![count(PORT, 1, false)], exe("python3")?)
            }
            Kind::Node => {
                let program = script(folder, "node", "server.js", include_str!("server.js"))?;
                (vec![program], vec![count(PORT, 1, false)], exe("node")?)
            }
        };
        let mut service = Self {
            url,
            selectors,
            programs,
            counts,
        };
        for count in &mut service.counts {
            wait_for("a service to listen", PATIENCE, || Ok(count.ask().ok()))?;
        }
        Ok(service)
    }

    /// What it served so far.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) fn served(&mut self) -> Result<Served> {
        let mut served = Served {
            requests: 0,
            spans: 0,
        };
        for (index, count) in self.counts.iter_mut().enumerate() {
            let requests = count.ask()?;
            if index == 0 {
                served.requests = requests;
            }
            served.spans += requests * count.spans;
        }
        Ok(served)
    }
}

impl Count {
    fn ask(&mut self) -> Result<u64> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.write_all(b"GET /count HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        // The last number of the answer that stands in a line of numbers alone: stub_status has three there, the scripts one.
        let line = answer
            .lines()
            .rev()
            .find(|line| line.trim().starts_with(|c: char| c.is_ascii_digit()));
        let number = line
            .and_then(|line| line.split_whitespace().last())
            .context("a service does not tell its count")?;
        let number: u64 = number
            .parse()
            .with_context(|| format!("a service's count is `{number}`"))?;
        self.asked += 1;
        Ok(if self.counts_itself {
            number - self.asked
        } else {
            number
        })
    }
}

/// A process is selected by the file that it runs, which `python3` is a symbolic link to. A port would select the load generator too.
fn exe(name: &str) -> Result<Vec<String>> {
    Ok(vec![
        "--exe".into(),
        find(name)?.canonicalize()?.display().to_string(),
    ])
}

/// Debian's own first: a version manager's stand-in for an interpreter is a shell script.
fn find(name: &str) -> Result<PathBuf> {
    let places = ["/usr/bin", "/usr/sbin"].map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut files = places
        .into_iter()
        .chain(std::env::split_paths(&path))
        .map(|place| place.join(name));
    files
        .find(|file| file.is_file())
        .with_context(|| format!("no program {name}"))
}

fn script(folder: &Path, interpreter: &str, name: &str, text: &str) -> Result<Program> {
    let file = folder.join(name);
    fs::write(&file, text)?;
    let mut command = batch(find(interpreter)?);
    Program::start(
        command.arg(file).arg(PORT.to_string()),
        &folder.join(format!("{name}.log")),
    )
}

fn nginx(folder: &Path, port: u16, answer: &str) -> Result<Program> {
    let folder = folder.join(format!("nginx-{port}"));
    fs::create_dir_all(&folder)?;
    let configuration = include_str!("nginx.conf")
        .replace("@DIR@", &folder.display().to_string())
        .replace("@PORT@", &port.to_string())
        .replace("@COUNT@", &(port + 1).to_string())
        .replace("@BACKEND@", &(PORT + 2).to_string())
        .replace("@ANSWER@", answer);
    let file = folder.join("nginx.conf");
    fs::write(&file, configuration)?;
    Program::start(
        batch(find("nginx")?).arg("-c").arg(&file),
        &folder.join("log"),
    )
}
