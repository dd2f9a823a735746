//! Network namespaces of a scenario's own, joined by veth pairs, with address translation between them; and how long TCP waits for a peer.

use std::{
    fs::{self, File},
    process::Command,
    thread,
};

use anyhow::{Context as _, Result, ensure};
use rustix::thread::LinkNameSpaceType;

use super::{PATIENCE, Skip, service, wait_for};

/// A client's namespace, a router's, a server's; the client reaches the server only through the router.
#[derive(Debug)]
pub(crate) struct Routed {
    /// Name of the client's namespace; address 10.77.1.2.
    pub(crate) client: String,
    /// Name of the server's namespace; address 10.77.2.2.
    pub(crate) server: String,
    /// Name of the router's namespace.
    pub(crate) router: String,
}

impl Routed {
    /// Makes the three namespaces and the routes between them.
    ///
    /// # Errors
    /// [`Skip`] when the kernel or iproute2 cannot.
    pub(crate) fn new() -> Result<Self> {
        let id = std::process::id();
        let name = |part: &str| format!("ut{id}{part}");
        let this = Self {
            client: name("c"),
            server: name("s"),
            router: name("r"),
        };
        for namespace in [&this.client, &this.server, &this.router] {
            ip(&["netns", "add", namespace])
                .map_err(|error| Skip(format!("no network namespaces: {error:#}")))?;
            ip(&["-n", namespace, "link", "set", "lo", "up"])?;
        }
        for (end, network) in [(&this.client, "1"), (&this.server, "2")] {
            let outside = format!("v{id}n{network}");
            ip(&[
                "-n",
                end,
                "link",
                "add",
                "eth0",
                "type",
                "veth",
                "peer",
                "name",
                &outside,
                "netns",
                &this.router,
            ])
            .map_err(|error| Skip(format!("no veth pairs: {error:#}")))?;
            ip(&[
                "-n",
                end,
                "address",
                "add",
                &format!("10.77.{network}.2/24"),
                "dev",
                "eth0",
            ])?;
            ip(&["-n", end, "link", "set", "eth0", "up"])?;
            ip(&[
                "-n",
                &this.router,
                "address",
                "add",
                &format!("10.77.{network}.1/24"),
                "dev",
                &outside,
            ])?;
            ip(&["-n", &this.router, "link", "set", &outside, "up"])?;
            ip(&[
                "-n",
                end,
                "route",
                "add",
                "default",
                "via",
                &format!("10.77.{network}.1"),
            ])?;
        }
        run_in(
            &this.router,
            "sh",
            &["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"],
        )?;
        Ok(this)
    }

    /// Makes the router translate the address 10.77.9.9 to the server's: the client sees an address that the server does not have.
    ///
    /// # Errors
    /// [`Skip`] when the traffic control action `nat` is not there.
    pub(crate) fn translate(&self) -> Result<()> {
        self.rewrite("1", "ingress", "10.77.9.9", "10.77.2.2")
    }

    /// Makes the router put its own address 10.77.2.1 in the place of the client's, as masquerading does: the server sees an address that the client
    /// does not have. Ports stay, which is what the kernel's own masquerading does unless one is taken.
    ///
    /// # Errors
    /// As [`Self::translate`].
    pub(crate) fn masquerade(&self) -> Result<()> {
        self.rewrite("2", "egress", "10.77.1.2", "10.77.2.1")
    }

    /// Makes the router drop what comes from the client with a TCP option of this kind behind the timestamps, as some that do not know it do.
    ///
    /// # Errors
    /// [`Skip`] when traffic control cannot.
    pub(crate) fn drop_option(&self, kind: u8) -> Result<()> {
        self.on_option(kind, &["drop"])
    }

    /// The router drops the first of the segments from the client that have this option, and each second one from there on.
    ///
    /// # Errors
    /// As [`Self::drop_option`].
    pub(crate) fn drop_every_other(&self, kind: u8) -> Result<()> {
        self.on_option(kind, &["drop", "random", "determ", "ok", "2"])
    }

    /// The router drops nothing any more for its options.
    ///
    /// # Errors
    /// When traffic control refuses it.
    pub(crate) fn drop_nothing(&self) -> Result<()> {
        let interface = format!("v{}n1", std::process::id());
        let qdisc = ["qdisc", "del", "dev", &interface, "clsact"];
        run_in(&self.router, "tc", &qdisc)
    }

    /// The client's device cuts no packets any more: the kernel does when they leave.
    ///
    /// # Errors
    /// [`Skip`] when the device always does.
    pub(crate) fn cut_by_kernel(&self) -> Result<()> {
        let script = service::workloads().join("segmentation.py");
        let script = script.to_str().context("a path that is no text")?;
        run_in(&self.client, "python3", &[script, "eth0"])
            .map_err(|error| Skip(format!("the device cuts packets: {error:#}")).into())
    }

    /// Gives the server a second address, 10.77.2.3.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub(crate) fn second_server(&self) -> Result<()> {
        ip(&[
            "-n",
            &self.server,
            "address",
            "add",
            "10.77.2.3/24",
            "dev",
            "eth0",
        ])
    }

    /// Gives both ends addresses of IPv6 too: the client fd77:1::2, the server fd77:2::2.
    ///
    /// # Errors
    /// [`Skip`] when the kernel cannot.
    pub(crate) fn with_ipv6(&self) -> Result<()> {
        let attempt = || -> Result<()> {
            for (end, network) in [(&self.client, "1"), (&self.server, "2")] {
                let outside = format!("v{}n{network}", std::process::id());
                let (own, gate) = (format!("fd77:{network}::2"), format!("fd77:{network}::1"));
                for (namespace, address, device) in
                    [(end, &own, "eth0"), (&self.router, &gate, outside.as_str())]
                {
                    let address = format!("{address}/64");
                    ip(&[
                        "-n", namespace, "address", "add", &address, "dev", device, "nodad",
                    ])?;
                }
                ip(&["-n", end, "-6", "route", "add", "default", "via", &gate])?;
            }
            let forward = "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding";
            run_in(&self.router, "sh", &["-c", forward])
        };
        Ok(attempt().map_err(|error| Skip(format!("no IPv6 here: {error:#}")))?)
    }

    fn on_option(&self, kind: u8, action: &[&str]) -> Result<()> {
        self.on_byte("1", kind, action)
    }

    /// Does this with packets from one network whose byte behind the timestamps is this one: the next option's kind, or the payload's first.
    fn on_byte(&self, network: &str, byte: u8, action: &[&str]) -> Result<()> {
        /// Offset in a packet: 20 bytes of IPv4, 20 of TCP, 12 of timestamps with what aligns them.
        const AT: &str = "52";
        let interface = format!("v{}n{network}", std::process::id());
        let tc = |arguments: &[&str]| run_in(&self.router, "tc", arguments);
        let kind = format!("0x{byte:02x}");
        let filter = [
            "filter", "add", "dev", &interface, "ingress", "protocol", "ip",
        ];
        let packets = ["u32", "match", "ip", "protocol", "6", "0xff"];
        let option = ["match", "u8", &kind, "0xff", "at", AT, "action"];
        let attempt = || -> Result<()> {
            tc(&["qdisc", "add", "dev", &interface, "clsact"])?;
            tc(&[&filter[..], &packets, &option, action].concat())
        };
        Ok(attempt().map_err(|error| Skip(format!("nothing is dropped here: {error:#}")))?)
    }

    /// At the router's end of the pair to this network, makes one address another: the destination of what comes in (`ingress`), or the source of what
    /// goes out (`egress`); and undoes it for what goes the other way.
    fn rewrite(&self, network: &str, hook: &str, from: &str, to: &str) -> Result<()> {
        let interface = format!("v{}n{network}", std::process::id());
        let tc = |arguments: &[&str]| run_in(&self.router, "tc", arguments);
        let rule = |hook: &str, from: &str, to: &str| {
            let field = if hook == "ingress" { "dst" } else { "src" };
            let address = format!("{from}/32");
            let filter = ["filter", "add", "dev", &interface, hook];
            let packets = ["protocol", "ip", "u32", "match", "ip", field, &address];
            tc(&[&filter[..], &packets, &["action", "nat", hook, from, to]].concat())
        };
        let back = if hook == "ingress" {
            "egress"
        } else {
            "ingress"
        };
        let attempt = || -> Result<()> {
            tc(&["qdisc", "add", "dev", &interface, "clsact"])?;
            rule(hook, from, to)?;
            rule(back, to, from)
        };
        Ok(attempt().map_err(|error| Skip(format!("no address translation here: {error:#}")))?)
    }
}

impl Drop for Routed {
    fn drop(&mut self) {
        for namespace in [&self.client, &self.server, &self.router] {
            let _ = ip(&["netns", "delete", namespace]);
        }
    }
}

/// As long as it lives, the router drops what goes to one address, and says so to nobody.
#[derive(Debug)]
pub(crate) struct Loss<'a> {
    net: &'a Routed,
    address: &'static str,
}

impl<'a> Loss<'a> {
    /// Nothing reaches the client.
    ///
    /// # Errors
    /// When the router does not take the route.
    pub(crate) fn to_client(net: &'a Routed) -> Result<Self> {
        Self::to(net, "10.77.1.2/32")
    }

    /// Nothing reaches the server.
    ///
    /// # Errors
    /// When the router does not take the route.
    pub(crate) fn to_server(net: &'a Routed) -> Result<Self> {
        Self::to(net, "10.77.2.2/32")
    }

    fn to(net: &'a Routed, address: &'static str) -> Result<Self> {
        ip(&["-n", &net.router, "route", "add", "blackhole", address])?;
        Ok(Self { net, address })
    }
}

impl Drop for Loss<'_> {
    fn drop(&mut self) {
        let router = &self.net.router;
        let _ = ip(&["-n", router, "route", "del", "blackhole", self.address]);
    }
}

/// Segments that TCP has sent again in a network namespace (`RetransSegs` of /proc/net/snmp, RFC 4022).
///
/// # Errors
/// When the namespace cannot be entered, or has no such count.
pub(crate) fn retransmitted(namespace: &str) -> Result<u64> {
    counted(namespace, "snmp", "Tcp:", "RetransSegs")
}

/// What the kernel counts under this name: one line has the names, the next one the values.
fn counted(namespace: &str, file: &str, group: &str, name: &str) -> Result<u64> {
    inside(namespace, || {
        let text = std::fs::read_to_string(format!("/proc/thread-self/net/{file}"))?;
        let mut lines = text.lines().filter(|line| line.starts_with(group));
        let (names, values) = (lines.next(), lines.next());
        let mut pairs = names
            .into_iter()
            .flat_map(str::split_whitespace)
            .zip(values.into_iter().flat_map(str::split_whitespace));
        let found = pairs.find(|(one, _)| *one == name);
        let (_, value) = found.with_context(|| format!("no {name}"))?;
        Ok(value.parse()?)
    })
}

/// Waits until TCP sends something again in this namespace.
///
/// # Errors
/// When it does not in time.
pub(crate) fn wait_for_retransmission(namespace: &str) -> Result<()> {
    let before = retransmitted(namespace)?;
    wait_for(
        || format!("a retransmission in {namespace}"),
        PATIENCE,
        || {
            retransmitted(namespace)
                .is_ok_and(|now| now > before)
                .then_some(())
        },
    )
}

/// Runs `work` on a thread inside a network namespace.
///
/// # Errors
/// When the namespace cannot be entered, or `work` fails.
pub(crate) fn inside<T: Send>(
    namespace: &str,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let path = format!("/run/netns/{namespace}");
            let file = File::open(&path).with_context(|| format!("cannot open {path}"))?;
            rustix::thread::move_into_link_name_space(
                std::os::fd::AsFd::as_fd(&file),
                Some(LinkNameSpaceType::Network),
            )
            .with_context(|| format!("cannot enter {namespace}"))?;
            work()
        });
        thread.join().expect("work does not panic")
    })
}

fn ip(arguments: &[&str]) -> Result<()> {
    run(&mut Command::new(service::program("ip")?), arguments)
}

fn run_in(namespace: &str, program: &str, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new(service::program("ip")?);
    command
        .args(["netns", "exec", namespace])
        .arg(service::program(program)?);
    run(&mut command, arguments)
}

/// Runs a command with these arguments.
///
/// # Errors
/// When it fails, with what it said.
pub(crate) fn run(command: &mut Command, arguments: &[&str]) -> Result<()> {
    let output = command.args(arguments).output()?;
    ensure!(
        output.status.success(),
        "{}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// Seconds for which a closed socket waits for its peer to close too.
const FIN_TIMEOUT: &str = "/proc/sys/net/ipv4/tcp_fin_timeout";

/// While it lives, a socket that its process has closed stays in TCP_FIN_WAIT2 until its peer closes too. With the kernel's own minute a smaller thing
/// takes its place when the FIN is acknowledged, which looks like the end of the connection (`__tcp_close`, net/ipv4/tcp.c: TCP_TIMEWAIT_LEN).
#[derive(Debug)]
pub(crate) struct LongFinWait {
    before: String,
}

impl LongFinWait {
    /// Sets it for the namespace of the scenario.
    ///
    /// # Errors
    /// When the setting cannot be changed.
    pub(crate) fn start() -> Result<Self> {
        let before = fs::read_to_string(FIN_TIMEOUT).context(FIN_TIMEOUT)?;
        fs::write(FIN_TIMEOUT, "240").context(FIN_TIMEOUT)?;
        Ok(Self { before })
    }
}

impl Drop for LongFinWait {
    fn drop(&mut self) {
        let _ = fs::write(FIN_TIMEOUT, &self.before);
    }
}
