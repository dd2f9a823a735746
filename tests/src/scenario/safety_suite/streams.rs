//! What is more than a request and its answer: a WebSocket behind its upgrade, and git.

use std::{fmt::Write as _, fs, path::Path, process::Command};

use anyhow::{Result, ensure};

use super::{Run, clients::output, same_with_and_without};
use crate::harness::{
    Context,
    origin::{Reads, Recorder, content, pattern},
    requests::{Found, next},
    service,
};

/// A WebSocket whose frames hold requests, straight to the server and through nginx: the upgrade gets a line and nothing behind it does.
pub(super) fn websocket(context: &mut Context) -> Result<()> {
    let python = service::program("python3")?;
    let client = service::workloads().join("clients/client.py");
    let origin = Recorder::origin(context, Reads::Any)?;
    let front = context.port();
    let plan = context.folder().join("plan");
    fs::write(&plan, "")?;
    let backend = origin.port().to_string();
    let values = [
        ("BACKEND", backend.as_str()),
        ("SENDFILE", "on"),
        ("KEEPALIVE", ""),
        ("CONNECTION", "close"),
        ("VERSION", "1.1"),
    ];
    same_with_and_without(context, origin.port(), || {
        let mut run = Run::default();
        let proxy = service::nginx(context, "suite.conf", front, &values)?;
        for port in [origin.port(), front] {
            let mut command = Command::new(&python);
            command
                .arg(&client)
                .arg(format!("127.0.0.1:{port}"))
                .arg(&plan)
                .arg("websocket");
            run.told.push_str(&output(&mut command)?);
            run.add(origin.ended()?);
        }
        drop(proxy);
        ensure!(run.connections == 2, "{} connections", run.connections);
        ensure!(run.told.lines().count() == 2 * 6, "{}", run.told);
        Ok(run)
    })
}

/// git: a push whose pack is sent in chunks, a clone, a small push, a fetch, each from the beginning in both runs.
pub(super) fn git(context: &mut Context) -> Result<()> {
    let program = service::program("git")?;
    let folder = context.folder().to_owned();
    let (root, source) = (folder.join("root"), folder.join("source"));
    let git = |place: &Path, arguments: &[&str]| {
        let mut command = Command::new(&program);
        command
            .arg("-C")
            .arg(place)
            .args(["-c", "pack.threads=1", "-c", "gc.auto=0"])
            .args(arguments)
            .env("HOME", &folder)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0");
        for role in ["AUTHOR", "COMMITTER"] {
            command
                .env(format!("GIT_{role}_NAME"), "shop")
                .env(format!("GIT_{role}_EMAIL"), "shop@shop.test")
                .env(format!("GIT_{role}_DATE"), "2024-01-01T00:00:00Z");
        }
        output(&mut command)
    };
    let commit = |place: &Path, name: &str, content: &[u8]| -> Result<()> {
        fs::write(place.join(name), content)?;
        git(place, &["add", name])?;
        git(place, &["commit", "-q", "-m", name]).map(drop)
    };
    fs::create_dir_all(&source)?;
    git(&folder, &["init", "-q", "-b", "main", "source"])?;
    commit(&source, "large", &incompressible(2_000_000))?;
    commit(&source, "small", &pattern(3_000))?;
    let port = context.port();
    let root_text = root.to_string_lossy().into_owned();
    let _server = service::python(context, "git_http.py", port, &["--root", &root_text])?;
    let tap = Recorder::tap(context, port)?;
    let url = format!("http://127.0.0.1:{}/shop.git", tap.port());
    same_with_and_without(context, tap.port(), || {
        let (copy, reader) = (folder.join("copy"), folder.join("reader"));
        for old in [&root, &copy, &reader] {
            let _ = fs::remove_dir_all(old);
        }
        fs::create_dir_all(&root)?;
        git(&root, &["init", "-q", "--bare", "-b", "main", "shop.git"])?;
        let bare = root.join("shop.git");
        git(&bare, &["config", "http.receivepack", "true"])?;
        // It has the first two commits, and has never seen the third.
        git(&folder, &["clone", "-q", "source", "reader"])?;
        let mut run = Run::default();
        git(&source, &["push", "-q", &url, "main"])?;
        run.add(in_one_chunk(tap.ended()?));
        git(&folder, &["clone", "-q", &url, "copy"])?;
        run.add(in_one_chunk(tap.ended()?));
        commit(&copy, "more", b"more")?;
        git(&copy, &["push", "-q", "origin", "main"])?;
        run.add(in_one_chunk(tap.ended()?));
        git(&reader, &["fetch", "-q", &url, "main:fetched"])?;
        run.add(in_one_chunk(tap.ended()?));
        for (place, name) in [(&bare, "main"), (&copy, "main"), (&reader, "fetched")] {
            git(place, &["fsck", "--strict"])?;
            writeln!(run.told, "{}", git(place, &["rev-parse", name])?)?;
        }
        let heads: Vec<&str> = run.told.split_whitespace().collect();
        ensure!(
            heads.len() == 3 && heads.windows(2).all(|w| w[0] == w[1]),
            "{}",
            run.told
        );
        let mut all = run.received.iter();
        let chunked =
            all.any(|bytes| String::from_utf8_lossy(bytes).contains("Transfer-Encoding: chunked"));
        ensure!(chunked, "no pack was sent in chunks");
        Ok(run)
    })
}

/// The same requests with each chunked body in one chunk: git's chunks are as large as what the packing process has given it by then.
fn in_one_chunk(connections: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let one = |bytes: Vec<u8>| {
        let mut all = Vec::new();
        let mut at = 0;
        while let Found::Whole(request) = next(&bytes, at) {
            all.extend_from_slice(&bytes[at..request.head_end]);
            let content = content(&request, &bytes);
            let is_chunked = request.field("transfer-encoding").is_some();
            if is_chunked {
                all.extend_from_slice(format!("{:x}\r\n", content.len()).as_bytes());
            }
            all.extend_from_slice(&content);
            if is_chunked {
                all.extend_from_slice(b"\r\n0\r\n\r\n");
            }
            at = request.end;
        }
        // What is no whole request stays as it is.
        all.extend_from_slice(&bytes[at..]);
        all
    };
    connections.into_iter().map(one).collect()
}

/// Bytes that compress badly, so that a pack of them is large (xorshift64).
fn incompressible(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_joined_and_nothing_else_changes() {
        let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        let get = "GET / HTTP/1.1\r\n\r\n";
        let joined = |text: String| {
            let mut all = in_one_chunk(vec![text.into_bytes()]);
            String::from_utf8(all.remove(0)).expect("it is text")
        };
        let many = format!("{get}{head}2\r\nab\r\n1\r\nc\r\n0\r\n\r\n{get}GET");
        let one = format!("{get}{head}3\r\nabc\r\n0\r\n\r\n{get}GET");
        assert_eq!(joined(many), one);
        assert_eq!(joined(one.clone()), one);
        let lost = format!("{head}2\r\nb\r\n1\r\nc\r\n0\r\n\r\n");
        assert_eq!(joined(lost.clone()), lost);
    }
}
