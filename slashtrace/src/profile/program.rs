//! Which program an argv runs: its first token, or the file that an interpreter is given.

/// How an interpreter finds the file that it runs.
struct Interpreter {
    /// Names of its programs; what follows as a version (`3.12`) is left out.
    names: &'static [&'static str],
    /// Options whose value is the next token.
    with_value: &'static [&'static str],
    /// Options behind which no file is run: a command is given as text, or nothing is run.
    without_file: &'static [&'static str],
    /// Options whose value is what is run; to `-m` it may be glued.
    runs: &'static [&'static str],
    /// Words that may stand in front of the file: `run` of `deno run FILE`.
    verbs: &'static [&'static str],
}

const INTERPRETERS: &[Interpreter] = &[
    Interpreter {
        names: &["python", "pypy"],
        with_value: &["-X", "-W", "--check-hash-based-pycs"],
        without_file: &["-c", "-"],
        runs: &["-m"],
        verbs: &[],
    },
    Interpreter {
        names: &["node", "nodejs", "tsx", "ts-node", "bun", "deno"],
        with_value: &[
            "-r",
            "--require",
            "--import",
            "--loader",
            "--experimental-loader",
            "-C",
            "--conditions",
            "--env-file",
            "--title",
            "--input-type",
            "--config",
            "--preload",
        ],
        without_file: &["-e", "--eval", "-p", "--print", "-"],
        runs: &[],
        verbs: &["run"],
    },
    Interpreter {
        names: &["sh", "bash", "dash", "zsh", "ksh", "ash"],
        with_value: &["-o", "+o", "-O", "+O", "--rcfile", "--init-file"],
        without_file: &["-c", "-s"],
        runs: &[],
        verbs: &[],
    },
    Interpreter {
        names: &["ruby"],
        with_value: &["-I", "-r", "-C", "-E"],
        without_file: &["-e", "-"],
        runs: &[],
        verbs: &[],
    },
    Interpreter {
        names: &["perl"],
        with_value: &["-I"],
        without_file: &["-e", "-E", "-"],
        runs: &[],
        verbs: &[],
    },
    Interpreter {
        names: &["php"],
        with_value: &["-d", "-c", "-z"],
        without_file: &["-r", "-"],
        runs: &["-f"],
        verbs: &[],
    },
    Interpreter {
        names: &["java"],
        with_value: &[
            "-cp",
            "-classpath",
            "--class-path",
            "-p",
            "--module-path",
            "--add-modules",
            "--add-opens",
            "--add-exports",
            "--add-reads",
            "--upgrade-module-path",
        ],
        without_file: &[],
        runs: &["-jar"],
        verbs: &[],
    },
];

/// The last part of a path.
pub(super) fn basename(token: &[u8]) -> &[u8] {
    token.rsplit(|&byte| byte == b'/').next().unwrap_or(token)
}

/// Whether this is the name of an interpreter: it runs other programs' files.
pub(super) fn is_interpreter(name: &[u8]) -> bool {
    interpreter(name).is_some()
}

fn interpreter(name: &[u8]) -> Option<&'static Interpreter> {
    let version = |b: &u8| b.is_ascii_digit() || *b == b'.' || *b == b'-';
    let end = name.iter().rposition(|b| !version(b)).map_or(0, |at| at + 1);
    let stem = &name[..end];
    INTERPRETERS.iter().find(|it| it.names.iter().any(|known| known.as_bytes() == stem))
}

/// Where argv names `program`: at the index of that token, which is compared by its last part.
pub(super) fn find(program: &str, argv: &[&[u8]]) -> Option<usize> {
    let wanted = program.as_bytes();
    let own = basename(argv.first()?);
    if own == wanted {
        return Some(0);
    }
    let (at, name) = file(interpreter(own)?, argv)?;
    (basename(name) == wanted).then_some(at)
}

/// The name of the program that argv runs, and where it stands.
pub(super) fn name<'a>(argv: &[&'a [u8]]) -> Option<(usize, &'a [u8])> {
    let own = basename(argv.first()?);
    let run = interpreter(own).and_then(|it| file(it, argv));
    Some(run.map_or((0, own), |(at, name)| (at, basename(name))))
}

/// The file, or module, that an interpreter runs, and the index of its token.
fn file<'a>(interpreter: &Interpreter, argv: &[&'a [u8]]) -> Option<(usize, &'a [u8])> {
    let is = |list: &[&str], token: &[u8]| list.iter().any(|it| it.as_bytes() == token);
    let mut at = 1;
    loop {
        let token = *argv.get(at)?;
        if is(interpreter.runs, token) {
            return Some((at + 1, argv.get(at + 1)?));
        }
        // The kernel programs know this spelling, and no other that is glued.
        if let Some(module) = token.strip_prefix(b"-m").filter(|_| is(interpreter.runs, b"-m")) {
            return Some((at, module));
        }
        if is(interpreter.without_file, token) {
            return None;
        }
        if token == b"--" {
            return Some((at + 1, argv.get(at + 1)?));
        }
        if is(interpreter.with_value, token) {
            at += 2;
        } else if token.starts_with(b"-") || token.starts_with(b"+") || is(interpreter.verbs, token)
        {
            // Short ones may stand together, `-um pkg.mod`: the last may take a value, or run it.
            let (cluster, last) = match token {
                [b'-', letters @ .., last] if !letters.is_empty() && letters[0] != b'-' => {
                    (letters.iter().all(u8::is_ascii_alphabetic), [b'-', *last])
                }
                _ => (false, [0, 0]),
            };
            if cluster && is(interpreter.runs, &last) {
                return Some((at + 1, argv.get(at + 1)?));
            }
            if cluster && is(interpreter.without_file, &last) {
                return None;
            }
            at += 1 + usize::from(cluster && is(interpreter.with_value, &last));
        } else {
            return Some((at, token));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(argv: &[&str]) -> Option<(usize, String)> {
        let argv: Vec<&[u8]> = argv.iter().map(|token| token.as_bytes()).collect();
        name(&argv).map(|(at, name)| (at, String::from_utf8_lossy(name).into_owned()))
    }

    #[test]
    fn the_program_is_what_an_interpreter_runs() {
        for (argv, at, name) in [
            (&["/usr/bin/gopls", "-mode=stdio"][..], 0, "gopls"),
            (&["gopls"], 0, "gopls"),
            (&["node", "/app/node_modules/.bin/c03-mcp", "--session", "K"], 1, "c03-mcp"),
            (&["/usr/bin/node", "--require", "./hook.js", "--no-warnings", "srv.js"], 4, "srv.js"),
            (&["bun", "run", "srv.ts"], 2, "srv.ts"),
            (&["python3", "-m", "pkg.mod"], 2, "pkg.mod"),
            (&["python3.12", "-mpkg.mod"], 1, "pkg.mod"),
            (&["python", "-u", "-X", "dev", "-Wignore", "-m", "pkg"], 6, "pkg"),
            (&["python", "-um", "pkg"], 2, "pkg"),
            (&["pypy3", "/opt/x/worker.py", "-m", "other"], 1, "worker.py"),
            (&["bash", "--", "/opt/run"], 2, "run"),
            (&["bash", "-eo", "pipefail", "x"], 3, "x"),
            (&["ruby", "-I", "lib", "srv.rb"], 3, "srv.rb"),
            (&["java", "-cp", "a.jar:b.jar", "-Xmx1g", "org.Main"], 4, "org.Main"),
            (&["java", "-jar", "/opt/jdtls/server.jar"], 2, "server.jar"),
            (&["php", "-d", "x=1", "-f", "srv.php"], 4, "srv.php"),
        ] {
            assert_eq!(run(argv), Some((at, name.to_owned())), "{argv:?}");
        }
    }

    #[test]
    fn an_interpreter_without_a_file_runs_itself() {
        for argv in [
            &["python3"][..],
            &["python3", "-c", "import x", "worker.py"],
            &["bash", "-c", "worker", "worker"],
            &["bash", "-lc", "worker"],
            &["node", "-e", "1", "worker.js"],
            &["python3", "-m"],
            &["python3", "-"],
        ] {
            assert_eq!(run(argv), Some((0, argv[0].to_owned())), "{argv:?}");
        }
        assert_eq!(run(&[]), None);
        assert!(is_interpreter(b"python3.12") && is_interpreter(b"ruby") && !is_interpreter(b"go"));
    }
}
