//! Programs that only start another one, and wait for it: `sh -c`, `npx`, `uv run`.

use super::{Profile, program};

/// The usual ones, each as the name of the program and the words that follow it.
const LAUNCHERS: &[&str] = &[
    "sh -c",
    "bash -c",
    "dash -c",
    "zsh -c",
    "ash -c",
    "ksh -c",
    "npx",
    "npm exec",
    "npm run",
    "npm start",
    "pnpm exec",
    "pnpm dlx",
    "pnpm run",
    "yarn exec",
    "yarn dlx",
    "yarn run",
    "bunx",
    "bun x",
    "uv run",
    "uv tool run",
    "uvx",
    "pipx run",
    "poetry run",
    "pdm run",
    "hatch run",
    "conda run",
    "docker run",
    "docker exec",
    "docker compose run",
    "podman run",
    "podman exec",
    "env",
    "timeout",
    "nice",
    "nohup",
    "setsid",
    "stdbuf",
    "dotenv run",
    "doppler run",
    "op run",
    "sudo",
    "tini",
    "dumb-init",
    "npm-cli.js exec",
    "npx-cli.js",
];

/// Options of a launcher that are skipped while its words are looked for.
const OPTIONS_MAX: usize = 8;

impl Profile {
    /// The launcher that this argv is of, one of the usual ones or of the profile's: a program that
    /// only starts the worker, and waits for it. As it is written in the profile: `npm exec`. Also
    /// of one that wrote a title over its argv (`npm exec c03-mcp`, in one token). It says nothing
    /// of who is started.
    pub fn launcher(&self, argv: &[&[u8]]) -> Option<&str> {
        let own = self.workers.iter().flat_map(|rule| &rule.launchers).map(String::as_str);
        let words = title_words(argv);
        let argv = words.as_deref().unwrap_or(argv);
        let (at, name) = program::name(argv)?;
        let behind = argv.get(at + 1..).unwrap_or_default();
        LAUNCHERS.iter().copied().chain(own).find(|launcher| is_of(launcher, name, behind))
    }

    /// Whether this argv is that of a launcher: see [`Self::launcher`].
    pub fn is_launcher(&self, argv: &[&[u8]]) -> bool {
        self.launcher(argv).is_some()
    }
}

/// Launchers of which a match means themselves: what runs containers starts the worker elsewhere, and
/// is how it is spoken to; a shell's command is one token, in which no rule looks.
const THEMSELVES: &[&str] =
    &["docker", "podman", "nerdctl", "sh", "bash", "dash", "zsh", "ash", "ksh"];

impl Profile {
    /// Whether this argv is that of a process which is about to start the worker that it names. A
    /// rule that names the launcher itself means it.
    pub(super) fn only_launches(&self, argv: &[&[u8]]) -> bool {
        let Some(launcher) = self.launcher(argv) else { return false };
        let program = launcher.split(' ').next().unwrap_or(launcher);
        let meant = self.workers.iter().any(|rule| rule.program.as_deref() == Some(program));
        !meant && !THEMSELVES.contains(&program)
    }
}

fn is_of(launcher: &str, name: &[u8], behind: &[&[u8]]) -> bool {
    let mut words = launcher.split_ascii_whitespace();
    if words.next().map(str::as_bytes) != Some(name) {
        return false;
    }
    let mut tokens = behind.iter();
    let mut skipped = 0;
    words.all(|word| {
        loop {
            match tokens.next() {
                Some(token) if *token == word.as_bytes() => return true,
                // `-lc`, `-ec`.
                Some(token) if word == "-c" && is_cluster_with(token, b'c') => return true,
                Some(token) if token.starts_with(b"-") && skipped < OPTIONS_MAX => skipped += 1,
                _ => return false,
            }
        }
    })
}

fn is_cluster_with(token: &[u8], letter: u8) -> bool {
    token.len() > 2
        && token[0] == b'-'
        && token[1..].iter().all(u8::is_ascii_alphabetic)
        && token.ends_with(&[letter])
}

/// The words of a title that a program wrote over its argv: a lone token with spaces in it.
pub(super) fn title_words<'a>(argv: &[&'a [u8]]) -> Option<Vec<&'a [u8]>> {
    let (first, rest) = argv.split_first()?;
    let lone = rest.iter().all(|token| token.is_empty()) && first.contains(&b' ');
    lone.then(|| first.split(|&byte| byte == b' ').filter(|word| !word.is_empty()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(profile: &Profile, argv: &[&str]) -> bool {
        let argv: Vec<&[u8]> = argv.iter().map(|token| token.as_bytes()).collect();
        profile.is_launcher(&argv)
    }

    #[test]
    fn the_usual_ones_are_known_in_each_spelling() {
        let profile = Profile::hermes();
        for argv in [
            &["sh", "-c", "c03-mcp --session K"][..],
            &["/bin/bash", "-lc", "x"],
            &["npx", "c03-mcp"],
            &["node", "/usr/bin/npx", "c03-mcp"],
            &["/usr/bin/node", "/usr/share/npm/bin/npx-cli.js", "c03-mcp"],
            &["npm exec c03-mcp --session K", "", ""],
            &["npm", "--silent", "exec", "c03-mcp"],
            &["uv", "run", "--with", "x", "srv"],
            &["uv", "tool", "run", "srv"],
            &["docker", "run", "-i", "image"],
            &["/usr/bin/env", "-i", "srv"],
        ] {
            assert!(is(&profile, argv), "{argv:?}");
        }
        for argv in [
            &["sh"][..],
            &["sh", "run.sh", "-c", "x"],
            &["bash", "-i"],
            &["npm", "install", "exec"],
            &["uv", "pip", "run"],
            &["my-wrapper", "go"],
            &["agent: worker [npx run]"],
            &[],
        ] {
            assert!(!is(&profile, argv), "{argv:?}");
        }
    }

    #[test]
    fn a_profile_adds_its_own() {
        let mut profile = Profile::hermes();
        profile.workers[0].launchers = vec!["my-wrapper go".to_owned()];
        assert!(is(&profile, &["/opt/my-wrapper", "-v", "go", "srv"]));
        assert!(!is(&profile, &["/opt/my-wrapper", "stop"]));
    }
}
