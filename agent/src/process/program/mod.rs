//! What a process should be called when nobody gave it a name: its program, or what its interpreter runs.
//!
//! Input: the executable's base name and the arguments. Output: [`Program`]. It reads no file: a script's contents and a
//! package's manifest are not looked at.

/// A program as an operator would call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Script, module, jar or executable, without folder and suffix; never empty.
    pub name: String,
    /// What interprets it, where that is evident from the executable.
    pub interpreter: Option<Interpreter>,
}

/// Language runtimes that run a file given on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interpreter {
    /// CPython or PyPy.
    Python,
    /// Node.js, Deno, Bun.
    JavaScript,
    /// A Java virtual machine.
    Java,
    /// Ruby.
    Ruby,
    /// PHP's command line.
    Php,
    /// Perl.
    Perl,
    /// The `dotnet` host.
    DotNet,
    /// A Bourne shell.
    Shell,
}

impl Interpreter {
    /// The interpreter with this base name: `python3.11`, `node`, `php8.2`.
    pub fn of(executable: &str) -> Option<Self> {
        let stem =
            executable.trim_end_matches(|c: char| c.is_ascii_digit() || matches!(c, '.' | '-'));
        Some(match stem {
            "python" | "pypy" => Self::Python,
            "node" | "nodejs" | "deno" | "bun" => Self::JavaScript,
            "java" => Self::Java,
            "ruby" => Self::Ruby,
            "php" => Self::Php,
            "perl" => Self::Perl,
            "dotnet" => Self::DotNet,
            "sh" | "bash" | "dash" | "ash" | "zsh" | "ksh" => Self::Shell,
            _ => return None,
        })
    }

    /// `process.runtime.name` of the OpenTelemetry conventions.
    pub fn runtime_name(self) -> Option<&'static str> {
        match self {
            Self::Python => Some("cpython"),
            Self::JavaScript => Some("nodejs"),
            Self::Java => Some("java"),
            Self::Ruby => Some("ruby"),
            Self::Php => Some("php"),
            Self::DotNet => Some(".NET"),
            Self::Perl | Self::Shell => None,
        }
    }

    /// `telemetry.sdk.language` of the OpenTelemetry conventions.
    pub fn language(self) -> Option<&'static str> {
        match self {
            Self::Python => Some("python"),
            Self::JavaScript => Some("nodejs"),
            Self::Java => Some("java"),
            Self::Ruby => Some("ruby"),
            Self::Php => Some("php"),
            Self::DotNet => Some("dotnet"),
            Self::Perl | Self::Shell => None,
        }
    }

    /// Options that take the next argument with them.
    fn takes_value(self, option: &str) -> bool {
        match self {
            Self::Python => matches!(option, "-W" | "-X" | "--check-hash-based-pycs"),
            Self::JavaScript => matches!(
                option,
                "-r" | "--require"
                    | "--import"
                    | "--loader"
                    | "--experimental-loader"
                    | "-C"
                    | "--conditions"
                    | "--title"
                    | "--preload"
                    | "-c"
                    | "--config"
                    | "--env-file"
            ),
            Self::Java => matches!(
                option,
                "-cp"
                    | "-classpath"
                    | "--class-path"
                    | "-p"
                    | "--module-path"
                    | "--upgrade-module-path"
                    | "--add-modules"
                    | "--limit-modules"
                    | "--add-exports"
                    | "--add-opens"
                    | "--add-reads"
                    | "--patch-module"
                    | "--source"
            ),
            Self::Ruby => matches!(option, "-I" | "-r" | "-C" | "-E" | "-W"),
            Self::Php => matches!(option, "-c" | "-d" | "-S" | "-t" | "-z"),
            Self::Perl => matches!(option, "-I" | "-M" | "-m"),
            Self::DotNet => {
                matches!(
                    option,
                    "--depsfile"
                        | "--runtimeconfig"
                        | "--fx-version"
                        | "--additionalprobingpath"
                        | "--roll-forward"
                )
            }
            Self::Shell => matches!(
                option,
                "-o" | "+o" | "-O" | "+O" | "--rcfile" | "--init-file"
            ),
        }
    }

    /// Options after which code follows and not a file: there is no script then.
    fn gives_code(self, option: &str) -> bool {
        match self {
            Self::Python | Self::Shell => is_cluster(option) && option.contains('c'),
            Self::JavaScript => matches!(
                option,
                "-e" | "--eval" | "-p" | "--print" | "-i" | "--interactive"
            ),
            Self::Ruby => option.starts_with("-e"),
            Self::Perl => is_cluster(option) && option.to_ascii_lowercase().contains('e'),
            Self::Php => matches!(option, "-r" | "-B" | "-R" | "-a" | "-i"),
            Self::Java | Self::DotNet => false,
        }
    }

    /// Suffixes of the files it runs.
    fn suffixes(self) -> &'static [&'static str] {
        match self {
            Self::Python => &[".py", ".pyc", ".pyz"],
            Self::JavaScript => &[".js", ".mjs", ".cjs", ".ts", ".mts"],
            Self::Java => &[".jar", ".war", ".java"],
            Self::Ruby => &[".rb"],
            Self::Php => &[".php", ".phar"],
            Self::Perl => &[".pl"],
            Self::DotNet => &[".dll"],
            Self::Shell => &[".sh", ".bash"],
        }
    }
}

impl Program {
    /// Names the process with executable `executable` (base name), arguments `args` (the first is the program's own
    /// name) and thread name `comm`; each may be empty.
    pub fn of(executable: &str, args: &[String], comm: &str) -> Self {
        let own_name = args.first().map_or("", |first| base_name(first));
        let plain = [executable, own_name, comm]
            .into_iter()
            .find(|name| !name.is_empty())
            .unwrap_or("unknown");
        let interpreter = Interpreter::of(plain);
        let run = interpreter.and_then(|interpreter| match args.split_first() {
            // A program that rewrote its arguments (setproctitle) shows one text: `gunicorn: master [shop]`.
            Some((title, rest)) if rest.iter().all(String::is_empty) && is_title(title) => {
                Some(first_word(title))
            }
            Some((_, rest)) => run_by(interpreter, rest),
            None => None,
        });
        let name = run
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| plain.to_owned());
        Self { name, interpreter }
    }
}

/// What the interpreter was asked to run, from the arguments after its own name.
fn run_by(interpreter: Interpreter, args: &[String]) -> Option<String> {
    let mut args = args.iter().map(String::as_str);
    let mut first = true;
    while let Some(arg) = args.next() {
        let was_first = std::mem::take(&mut first);
        if let Some(module) = module_option(interpreter, arg) {
            let module = if module.is_empty() {
                args.next()?
            } else {
                module
            };
            return Some(if interpreter == Interpreter::Java {
                java_module(module)
            } else {
                module.to_owned()
            });
        }
        match (interpreter, arg) {
            (Interpreter::Java, "-jar") | (Interpreter::Php, "-f") => {
                return file_name(interpreter, args.next()?);
            }
            (_, "-") => return None,
            (_, "--") => return file_name(interpreter, args.next()?),
            // Subcommands before the file.
            (Interpreter::JavaScript, "run") | (Interpreter::DotNet, "exec" | "run" | "watch")
                if was_first => {}
            _ if interpreter.gives_code(arg) => return None,
            _ if interpreter.takes_value(arg) => {
                args.next()?;
            }
            _ if arg.starts_with('-') || arg.starts_with('+') || arg.is_empty() => {}
            // Files of further Java options.
            (Interpreter::Java, _) if arg.starts_with('@') => {}
            (Interpreter::Java, _) if !arg.ends_with(".java") => return Some(java_class(arg)),
            _ => return file_name(interpreter, arg),
        }
    }
    None
}

/// The rest of an option that names a module (`-m`, or a cluster that ends in it, for Python); empty when the module is
/// the next argument.
fn module_option(interpreter: Interpreter, arg: &str) -> Option<&str> {
    match interpreter {
        Interpreter::Python if is_cluster(arg) => {
            let (before, module) = arg.split_once('m')?;
            // These letters take the rest of the argument as their value.
            (!before.contains(['c', 'W', 'X'])).then_some(module)
        }
        Interpreter::Java if matches!(arg, "-m" | "--module") => Some(""),
        Interpreter::Java => arg.strip_prefix("--module="),
        _ => None,
    }
}

/// Base name of a script without its suffix; its folder's name where the script's own says nothing.
fn file_name(interpreter: Interpreter, path: &str) -> Option<String> {
    let file = base_name(path);
    let stem = interpreter
        .suffixes()
        .iter()
        .find_map(|suffix| file.strip_suffix(suffix))
        .unwrap_or(file);
    let stem = if interpreter == Interpreter::Java {
        without_version(stem)
    } else {
        stem
    };
    let folder = path
        .trim_end_matches('/')
        .rsplit('/')
        .nth(1)
        .filter(|folder| !matches!(*folder, "" | "." | ".."));
    let name = match (stem, folder) {
        ("__main__" | "index", Some(folder)) => folder,
        _ => stem,
    };
    (!name.is_empty()).then(|| name.to_owned())
}

/// `shop-1.4.2-SNAPSHOT` is `shop`: a new release is the same service.
fn without_version(stem: &str) -> &str {
    let version = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit()) && rest.contains('.');
    stem.match_indices('-')
        .find(|(at, _)| *at > 0 && version(&stem[at + 1..]))
        .map_or(stem, |(at, _)| &stem[..at])
}

/// `com.example.ShopServer` is `ShopServer`; names that everybody gives stay whole.
fn java_class(class: &str) -> String {
    let simple = class.rsplit('.').next().unwrap_or(class);
    let common = [
        "Main",
        "App",
        "Application",
        "Launcher",
        "JarLauncher",
        "Server",
        "Bootstrap",
        "Start",
        "Startup",
    ];
    if simple.is_empty() || common.contains(&simple) {
        class.to_owned()
    } else {
        simple.to_owned()
    }
}

/// `shop.module/com.example.Main` is `shop.module`.
fn java_module(module: &str) -> String {
    module.split('/').next().unwrap_or(module).to_owned()
}

/// The part of a path after its last slash.
pub(crate) fn base_name(path: &str) -> &str {
    path.trim_end_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or(path)
}

/// `-abc`: one-letter options in a row.
fn is_cluster(option: &str) -> bool {
    option.starts_with('-') && !option.starts_with("--") && option.len() > 1
}

/// Whether a lone first argument is a text for `ps` and not a path.
fn is_title(first: &str) -> bool {
    let first = first.trim_end();
    first.contains(": ") || first.contains(' ') && !first.starts_with('/') || first.ends_with(':')
}

fn first_word(title: &str) -> String {
    let word = title.split([' ', ':']).next().unwrap_or(title);
    base_name(word).to_owned()
}

#[cfg(test)]
mod tests;
