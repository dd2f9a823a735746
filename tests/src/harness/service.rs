//! The services that scenarios watch: nginx, Python, Node. None of them knows of the agent.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::{
    Context, Skip,
    group::Group,
    network::Routed,
    process::{self, Program},
    wait_for,
};

/// How long a service may take to listen: Node needs eight seconds in an emulated machine.
const START: Duration = Duration::from_secs(60);

/// The folder of the workloads.
fn workloads() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads")
}

/// Starts nginx with a configuration from `workloads/nginx`, in which `@NAME@` is replaced by the given values and `@DIR@` by its folder,
/// and waits until it listens.
///
/// # Errors
/// [`Skip`] when there is no nginx; otherwise when it does not start.
pub(crate) fn nginx(
    context: &Context,
    template: &str,
    port: u16,
    values: &[(&str, &str)],
) -> Result<Program> {
    nginx_in(context, None, template, port, values)
}

/// Starts an nginx that serves the files of its folder `html`.
///
/// # Errors
/// As [`nginx`].
pub(crate) fn static_nginx(context: &Context, port: u16) -> Result<Program> {
    nginx(
        context,
        "static.conf",
        port,
        &[("LISTEN", ""), ("SENDFILE", "on")],
    )
}

/// The same as [`nginx`] in a network namespace.
///
/// # Errors
/// As [`nginx`].
pub(crate) fn nginx_in(
    context: &Context,
    namespace: Option<&str>,
    template: &str,
    port: u16,
    values: &[(&str, &str)],
) -> Result<Program> {
    let program = program("nginx")?;
    let name = format!("nginx-{port}");
    let folder = context.folder().join(&name);
    fs::create_dir_all(folder.join("html"))?;
    let source = workloads().join("nginx").join(template);
    let mut text =
        fs::read_to_string(&source).with_context(|| format!("cannot read {}", source.display()))?;
    let folder_text = folder.to_string_lossy().into_owned();
    let port_text = port.to_string();
    for (name, value) in values
        .iter()
        .chain(&[("DIR", folder_text.as_str()), ("PORT", port_text.as_str())])
    {
        text = text.replace(&format!("@{name}@"), value);
    }
    ensure!(
        !text.contains('@'),
        "a value is missing for {template}:\n{text}"
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, text)?;
    let mut command = in_namespace(namespace, &program)?;
    command
        .arg("-p")
        .arg(&folder)
        .arg("-e")
        .arg(folder.join("error.log"))
        .arg("-c")
        .arg(&file);
    start(context, &name, &mut command, port)
}

/// The folder from which the nginx on this port serves files.
pub(crate) fn nginx_files(context: &Context, port: u16) -> PathBuf {
    context.folder().join(format!("nginx-{port}/html"))
}

/// Starts a Python script of `workloads` with `--port` and further arguments.
///
/// # Errors
/// [`Skip`] when there is no Python 3; otherwise when it does not listen in time.
pub(crate) fn python(
    context: &Context,
    script: &str,
    port: u16,
    arguments: &[&str],
) -> Result<Program> {
    python_in(context, None, script, port, arguments, &[])
}

/// The same in a network namespace and with variables of its own.
///
/// # Errors
/// As [`python`].
pub(crate) fn python_in(
    context: &Context,
    namespace: Option<&str>,
    script: &str,
    port: u16,
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> Result<Program> {
    let mut command = in_namespace(namespace, &program("python3")?)?;
    command.envs(environment.iter().copied());
    start_script(context, command, script, port, arguments)
}

/// Starts the threaded Python server at the far end of routed namespaces, reachable from all of them.
///
/// # Errors
/// As [`python`].
pub(crate) fn routed_threads(context: &Context, net: &Routed, port: u16) -> Result<Program> {
    let arguments = ["--host", "0.0.0.0"];
    python_in(
        context,
        Some(&net.server),
        "threads.py",
        port,
        &arguments,
        &[],
    )
}

/// Starts a Python script with the command that ends with the interpreter.
fn start_script(
    context: &Context,
    mut command: Command,
    script: &str,
    port: u16,
    arguments: &[&str],
) -> Result<Program> {
    command
        .arg(workloads().join(script))
        .args(["--port", &port.to_string()])
        .args(arguments)
        .env("PYTHONDONTWRITEBYTECODE", "1");
    start(
        context,
        &format!("{}-{port}", script.replace('/', "-")),
        &mut command,
        port,
    )
}

/// Starts a Python script inside a control group, as a container runtime does: the process is there before it runs the program.
///
/// # Errors
/// As [`python`].
pub(crate) fn python_within(
    context: &Context,
    group: &Group,
    script: &str,
    port: u16,
) -> Result<Program> {
    let mut command = Command::new(program("sh")?);
    command
        .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
        .arg(group.processes())
        .arg(program("python3")?);
    start_script(context, command, script, port, &[])
}

/// Starts a script of `workloads` with this interpreter and `--port`, under a process id that nobody has. The program that is returned is its parent:
/// the id is free again when that one has ended, which it does by itself when the script has.
///
/// # Errors
/// [`Skip`] when there is no such interpreter; otherwise when it cannot have the id, or does not listen in time.
pub(crate) fn script_with_pid(
    context: &Context,
    pid: u32,
    interpreter: &str,
    script: &str,
    port: u16,
) -> Result<Program> {
    let mut command = with_pid(pid)?;
    command.arg(program(interpreter)?);
    start_script(context, command, script, port, &[])
}

/// The same for a Python script that runs in a copy of the parent: the process with this id never runs a program of its own.
///
/// # Errors
/// As [`script_with_pid`].
pub(crate) fn copy_with_pid(
    context: &Context,
    pid: u32,
    script: &str,
    port: u16,
) -> Result<Program> {
    let mut command = with_pid(pid)?;
    command.arg("--copy");
    start_script(context, command, script, port, &[])
}

fn with_pid(pid: u32) -> Result<Command> {
    let mut command = Command::new(program("python3")?);
    command
        .arg(workloads().join("with_pid.py"))
        .arg(pid.to_string());
    Ok(command)
}

/// Starts a Node script of `workloads` with `--port` and further arguments.
///
/// # Errors
/// [`Skip`] when there is no Node; otherwise when it does not listen in time.
pub(crate) fn node(
    context: &Context,
    script: &str,
    port: u16,
    arguments: &[&str],
) -> Result<Program> {
    let mut command = Command::new(program("node")?);
    command
        .arg(workloads().join(script))
        .args(["--port", &port.to_string()])
        .args(arguments);
    start(
        context,
        &format!("{}-{port}", script.replace('/', "-")),
        &mut command,
        port,
    )
}

/// A program of the machine.
///
/// # Errors
/// [`Skip`] when it is not installed.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    Ok(process::find(name).ok_or_else(|| Skip(format!("{name} is not installed")))?)
}

fn in_namespace(namespace: Option<&str>, program: &Path) -> Result<Command> {
    let Some(namespace) = namespace else {
        return Ok(Command::new(program));
    };
    let mut command = Command::new(self::program("ip")?);
    command.args(["netns", "exec", namespace]).arg(program);
    Ok(command)
}

fn start(context: &Context, name: &str, command: &mut Command, port: u16) -> Result<Program> {
    let mut program = Program::start(context, name, command)?;
    let pid = program.pid();
    let outcome = wait_for(
        || format!("{name} to listen on port {port}"),
        START,
        || match program.is_running() {
            Ok(true) => process::is_listening(pid, port).then_some(true),
            _ => Some(false),
        },
    );
    match outcome {
        Ok(true) => Ok(program),
        Ok(false) => anyhow::bail!("{name} ended at once:\n{}", program.output()),
        Err(error) => Err(error.context(program.output())),
    }
}
