//! The script that runs inside the guest: mounts, loopback, then the command.
//!
//! The kernel's command line holds 2048 characters, so the guest is handed the path of a script and not the script.

use std::path::Path;

/// Written to standard error just before the command begins; what comes before it is the kernel booting.
pub(super) const BEGIN: &str = "undertrace: the command begins";

/// The script that runs `shell` in `cwd` and leaves its exit code in the file `exit_code`.
pub(super) fn script(
    cwd: &Path,
    env: &[(String, String)],
    shell: &str,
    exit_code: &Path,
) -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut exports = format!(
        "export PATH={}:/usr/sbin:/sbin HOME=/run/home\n",
        quote(path)
    );
    for (name, value) in env {
        exports.push_str(&format!("export {name}={}\n", quote(value)));
    }
    format!(
        r#"mounted() {{ grep -q " $1 " /proc/mounts; }}
mounted /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf
mounted /sys/fs/cgroup || mount -t cgroup2 cgroup2 /sys/fs/cgroup
mounted /sys/kernel/debug || mount -t debugfs debugfs /sys/kernel/debug
mounted /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing
ip link set lo up
echo {BEGIN} >&2
# The kernel's warnings reach standard error while the command runs; a panic says why the machine died.
echo 5 > /proc/sys/kernel/printk
mkdir -p /run/home
{exports}cd {cwd} || exit 125
( {shell}
)
code=$?
echo 0 > /proc/sys/kernel/printk
echo $code > {exit_code}
sync
exit $code
"#,
        cwd = quote(cwd),
        exit_code = quote(exit_code),
    )
}

/// A word for the shell.
pub(super) fn quote(word: impl AsRef<std::ffi::OsStr>) -> String {
    format!(
        "'{}'",
        word.as_ref().to_string_lossy().replace('\'', r"'\''")
    )
}

/// A command line for the shell made of separate words, each taken literally.
pub(crate) fn command_line(words: &[String]) -> String {
    words.iter().map(quote).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_shell() {
        let words = [
            "printf".to_owned(),
            "%s|".to_owned(),
            "it's".to_owned(),
            "a b".to_owned(),
            "$HOME".to_owned(),
        ];
        let output = std::process::Command::new("sh")
            .arg("-c")
            .arg(command_line(&words))
            .output()
            .expect("sh runs");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "it's|a b|$HOME|");
    }

    #[test]
    fn script_is_valid_shell() {
        let env = [("NAME".to_owned(), "it's".to_owned())];
        let text = script(
            Path::new("/tmp/a b"),
            &env,
            "echo hi # comment",
            Path::new("/tmp/exit-code"),
        );
        let checked = std::process::Command::new("bash")
            .args(["-n", "-c", &text])
            .status()
            .expect("bash runs");
        assert!(checked.success(), "{text}");
    }
}
