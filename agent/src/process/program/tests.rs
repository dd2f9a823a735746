//! Tests of the names of programs.

use proptest::prelude::*;

use super::*;

fn name(executable: &str, line: &str) -> String {
    let args: Vec<_> = line.split(' ').map(str::to_owned).collect();
    Program::of(executable, &args, "comm").name
}

#[test]
fn names_what_an_interpreter_runs() {
    let cases = [
        ("python3.11", "python3 app.py", "app"),
        (
            "python3.11",
            "/usr/bin/python3 -u -W ignore /srv/shop/app.py --port 80",
            "app",
        ),
        ("python3.11", "python -m http.server 8000", "http.server"),
        ("python3.11", "python3 -um uvicorn shop:app", "uvicorn"),
        ("python3.11", "python3 -mhttp.server", "http.server"),
        (
            "python3.11",
            "/usr/bin/python3 /usr/bin/gunicorn shop:app",
            "gunicorn",
        ),
        ("python3.11", "python3 /srv/shop/__main__.py", "shop"),
        (
            "python3.11",
            "python3 -Xdev -X importtime serve.py",
            "serve",
        ),
        ("python3.11", "python3 -c import-this", "python3.11"),
        ("python3.11", "python3", "python3.11"),
        ("python3.11", "python3 -", "python3.11"),
        ("pypy3", "pypy3 app.py", "app"),
        ("node", "node server.js", "server"),
        (
            "node",
            "node --require ./tracing.js --max-old-space-size=512 dist/server.mjs",
            "server",
        ),
        ("node", "node /srv/catalog/index.js", "catalog"),
        ("node", "node index.js", "index"),
        ("node", "node -e console.log(1)", "node"),
        ("bun", "bun run server.ts", "server"),
        (
            "java",
            "java -Xmx1g -jar /opt/shop-1.4.2-SNAPSHOT.jar --spring.port=1",
            "shop",
        ),
        ("java", "java -jar x.jar", "x"),
        (
            "java",
            "java -cp a.jar:b.jar -Dx=y com.example.ShopServer arg",
            "ShopServer",
        ),
        (
            "java",
            "java -cp a.jar com.example.shop.Main",
            "com.example.shop.Main",
        ),
        (
            "java",
            "java --add-opens a/b=c -m shop.web/com.example.Main",
            "shop.web",
        ),
        ("java", "java -version", "java"),
        (
            "ruby3.1",
            "ruby -I lib -r bundler/setup bin/rails server",
            "rails",
        ),
        (
            "php8.2",
            "php -d memory_limit=1G -S 0:8000 -t public router.php",
            "router",
        ),
        ("php8.2", "php -S 0:8000", "php8.2"),
        ("perl", "perl -I lib -w /usr/bin/starman.pl", "starman"),
        ("perl", "perl -ne print", "perl"),
        ("dotnet", "dotnet /app/Shop.Api.dll", "Shop.Api"),
        ("dotnet", "dotnet exec Shop.dll", "Shop"),
        ("bash", "bash -x ./entry.sh", "entry"),
        ("dash", "/bin/sh -c nginx", "dash"),
        ("dash", "sh -ec nginx", "dash"),
    ];
    for (executable, line, expected) in cases {
        assert_eq!(name(executable, line), expected, "{line}");
    }
}

#[test]
fn names_other_programs_by_their_executable() {
    assert_eq!(name("nginx", "nginx: worker process"), "nginx");
    assert_eq!(name("php-fpm8.2", "php-fpm: pool www"), "php-fpm8.2");
    assert_eq!(name("shop", "./whatever --flag"), "shop");
    assert_eq!(
        name("", "/usr/local/bin/shop --flag"),
        "shop",
        "where the executable cannot be read"
    );
    assert_eq!(Program::of("", &[], "kworker").name, "kworker");
    assert_eq!(Program::of("", &[], "").name, "unknown");
}

#[test]
fn reads_titles_that_replaced_the_arguments() {
    let title = |text: &str| Program::of("python3.11", &[text.to_owned(), String::new()], "x").name;
    assert_eq!(title("gunicorn: master [shop:app]"), "gunicorn");
    assert_eq!(title("puma 6.0.0 (tcp://0.0.0.0:80) [shop]"), "puma");
    assert_eq!(title("celeryd: worker"), "celeryd");
    assert_eq!(title("/usr/bin/python3"), "python3.11");
}

#[test]
fn tells_the_runtime_only_where_it_is_evident() {
    assert_eq!(Interpreter::of("python3.11"), Some(Interpreter::Python));
    assert_eq!(Interpreter::of("php-fpm8.2"), None);
    assert_eq!(Interpreter::of("pythonista"), None);
    assert_eq!(
        Interpreter::of("nginx").and_then(Interpreter::language),
        None
    );
    assert_eq!(Interpreter::Python.language(), Some("python"));
}

proptest! {
    #[test]
    fn never_panics_and_never_gives_an_empty_name(
        executable in "(python3|node|java|ruby|php|perl|dotnet|sh|.{0,8})",
        args in prop::collection::vec("(-[a-zA-Z]{0,3}|--[a-z]{0,9}|-jar|/|é|[a-z./-]{0,12}|.{0,6})", 0..8),
    ) {
        prop_assert!(!Program::of(&executable, &args, "").name.is_empty());
    }
}
