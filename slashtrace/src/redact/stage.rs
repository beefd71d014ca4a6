//! The one gate between the sensors and everything else: what has passed it may be shown.

use std::borrow::Cow;

use super::{PseudonymKey, keys, secrets, value_of};
use crate::model::{Body, Exec, Process, Program, Spawn, TerminalEvent};

/// Names shorter than this are words.
const NAME_MIN: usize = 3;
/// Names of accounts that say nothing of a person.
const COMMON: [&str; 14] = [
    "root", "user", "admin", "ubuntu", "debian", "hermes", "agent", "node", "python", "app", "www",
    "runner", "nobody", "worker",
];

/// What of a recording is masked beyond what the sensors mask. Applied to every observation before
/// it is judged or written, so that replay sees what the engine saw.
#[derive(Clone, Debug)]
pub struct Redaction {
    names: Vec<String>,
    pseudonyms: PseudonymKey,
    /// No session key is shown, whatever it looks like.
    every_session: bool,
}

impl Default for Redaction {
    /// Masks no names. Pseudonyms are of this redaction alone.
    fn default() -> Self {
        Self { names: Vec::new(), pseudonyms: PseudonymKey::random(), every_session: false }
    }
}

impl Redaction {
    /// Masks these names of people and machines where they stand alone.
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        let told = |name: &String| {
            name.len() >= NAME_MIN && !COMMON.contains(&name.to_ascii_lowercase().as_str())
        };
        Self { names: names.into_iter().filter(told).collect(), ..Self::default() }
    }

    /// Makes pseudonyms under this key: the same for the same session wherever it is used.
    #[must_use]
    pub fn keyed(mut self, key: PseudonymKey) -> Self {
        self.pseudonyms = key;
        self
    }

    /// Puts a pseudonym in place of each session key, not only of those that look like a secret.
    #[must_use]
    pub fn hashing_sessions(mut self) -> Self {
        self.every_session = true;
        self
    }

    /// Under which key, and of which keys, pseudonyms are made: the same where the same session has
    /// the same name. It does not show the key.
    pub fn fingerprint(&self) -> String {
        let of = if self.every_session { "every" } else { "hidden" };
        format!("{of}:{}", self.pseudonyms.pseudonym("which key this is"))
    }

    /// What stands for a session key, escaped: itself, or a pseudonym.
    pub fn session_key<'a>(&self, key: &'a str) -> Cow<'a, str> {
        if self.every_session || keys::is_hidden(key) {
            Cow::Owned(self.pseudonyms.pseudonym(key))
        } else {
            keys::shown(key)
        }
    }

    /// Masks what is to be masked of an observation.
    pub fn apply(&self, body: &mut Body) {
        match body {
            Body::Spawn(spawn) => self.spawn(spawn),
            Body::Exec(exec) => {
                let Exec { comm, argv0, pid: _, start_ns: _, role: _, is_worker: _, helper: _, source: _ } = exec;
                self.text(comm);
                self.maybe(argv0);
            }
            Body::Signal(signal) => {
                if let Some(sender) = &mut signal.sender {
                    self.text(&mut sender.comm);
                }
            }
            Body::Terminal(event) => self.terminal(event),
            Body::Program(program) => self.program(program),
            Body::Start(start) => {
                for capability in &mut start.capabilities {
                    self.text(&mut capability.detail);
                }
            }
            Body::Exit(_)
            | Body::Sample(_)
            | Body::Clients(_)
            | Body::Reply(_)
            | Body::Tick(_)
            | Body::Gap(_)
            | Body::Stop(_)
            // Made of what has passed here.
            | Body::Checkpoint(_)
            | Body::Action(_)
            | Body::Finding(_) => {}
        }
    }

    /// The same for a spawn alone.
    pub fn spawn(&self, spawn: &mut Spawn) {
        // Each field is named, so that a new one cannot be forgotten.
        let Spawn {
            comm,
            parent,
            ancestors,
            opener,
            argv,
            session,
            model,
            role: _,
            pid: _,
            start_ns: _,
            source: _,
            inherited: _,
            worker: _,
            uid: _,
            sid: _,
            argv_bytes: _,
            argv_truncated: _,
            terminal: _,
            helper: _,
            thread: _,
            rule: _,
        } = spawn;
        let key = session.take();
        *session = key.as_deref().map(|key| self.session_key(key).into_owned());
        let key = key.as_deref().zip(session.as_deref());
        let parent = parent.iter_mut();
        let parent = parent
            .flat_map(|parent| std::iter::once(&mut parent.process).chain(&mut parent.forker));
        let above = parent.chain(ancestors).chain(opener);
        for Process { comm, argv0, launcher: _, pid: _, start_ns: _ } in above {
            [Some(comm), argv0.as_mut()].into_iter().flatten().for_each(|it| self.beside(it, key));
        }
        [Some(comm), model.as_mut()].into_iter().flatten().for_each(|it| self.beside(it, key));
        for token in argv {
            let Some((key, shown)) = key else {
                self.text(token);
                continue;
            };
            // The session is a token of its own or behind the `=` of its flag, and may be cut there.
            let value = value_of(key);
            let before = token.strip_suffix(key).or_else(|| token.strip_suffix(&value));
            match before {
                Some(before) if before.is_empty() || before.ends_with('=') => {
                    *token = format!("{before}{shown}");
                }
                _ => self.beside(token, Some((key, shown))),
            }
        }
    }

    /// Text beside a session key: where that one is not shown, it does not stand here either.
    fn beside(&self, text: &mut String, key: Option<(&str, &str)>) {
        if let Some((key, shown)) = key.filter(|(key, _)| keys::is_hidden(key)) {
            keys::without(text, key, shown);
        }
        self.text(text);
    }

    fn terminal(&self, event: &mut TerminalEvent) {
        let TerminalEvent {
            master,
            leader,
            closer,
            session,
            resumes,
            uid: _,
            session_ns: _,
            ports: _,
            instance: _,
            index: _,
            opened_ns: _,
            state: _,
            source: _,
            processes: _,
        } = event;
        [master, leader, closer].into_iter().flatten().for_each(|process| self.process(process));
        for session in [session, resumes].into_iter().flatten() {
            if let Cow::Owned(shown) = self.session_key(session) {
                *session = shown;
            }
        }
    }

    fn program(&self, program: &mut Program) {
        self.maybe(&mut program.unit);
    }

    fn process(&self, process: &mut Process) {
        let Process { comm, argv0, launcher: _, pid: _, start_ns: _ } = process;
        self.text(comm);
        self.maybe(argv0);
    }

    fn maybe(&self, text: &mut Option<String>) {
        if let Some(text) = text {
            self.text(text);
        }
    }

    fn text(&self, text: &mut String) {
        if let Cow::Owned(scrubbed) = secrets::scrub(text) {
            *text = scrubbed;
        }
        if let Some(masked) = secrets::mask_words(text, &self.names) {
            *text = masked;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::samples;

    fn applied(redaction: &Redaction, spawn: Spawn) -> Spawn {
        let mut body = Body::Spawn(Box::new(spawn));
        redaction.apply(&mut body);
        match body {
            Body::Spawn(spawn) => *spawn,
            other => unreachable!("{other:?}"),
        }
    }

    #[test]
    fn what_is_harmless_stays_as_it_is() {
        let redaction = Redaction::new(["python".to_owned(), "ab".to_owned()]);
        for record in samples::every_type() {
            let mut body = record.body.clone();
            redaction.apply(&mut body);
            assert_eq!(body, record.body);
        }
    }

    #[test]
    fn names_and_secrets_are_masked_in_every_text() {
        let mut spawn = samples::spawn();
        spawn.comm = "alice".to_owned();
        spawn.model = Some("ghp_0123456789abcdef".to_owned());
        spawn.argv.push("--model=/data/alice/m.gguf".to_owned());
        spawn.ancestors[0].argv0 = Some("/srv/alice/run".to_owned());
        spawn.opener.as_mut().unwrap().argv0 = Some("/srv/alice/hermes".to_owned());
        let shown = applied(&Redaction::new(["alice".to_owned()]), spawn);
        let json = serde_json::to_string(&shown).unwrap();
        assert!(!json.contains("alice") && !json.contains("0123456789abcdef"), "{json}");
        assert!(json.contains("/data/***/m.gguf"), "{json}");
    }

    #[test]
    fn a_secret_for_a_key_is_nowhere_and_joins_terminals_to_workers() {
        const JWT: &str = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl";
        let long = "k".repeat(3_000);
        for key in [JWT, "https://alice:pw@example.org/chat", "alice@example.org", &long] {
            let mut spawn = samples::spawn().session(key);
            spawn.argv = ["python", "-m", "w", "--session-key"].map(str::to_owned).to_vec();
            spawn.argv.push(crate::redact::value(key.as_bytes()));
            spawn.argv.push(format!("--session-key={}", crate::redact::value(key.as_bytes())));
            spawn.comm = key.chars().take(15).collect();
            spawn.model = Some(key.to_owned());
            let redaction = Redaction::default();
            let shown = applied(&redaction, spawn);
            let json = serde_json::to_string(&shown).unwrap();
            for part in [&key[..key.len().min(15)], &key[..10], "alice", "example.org"] {
                assert!(!key.contains(part) || !json.contains(part), "{part}: {json}");
            }
            let session = shown.session.unwrap();
            assert!(session.starts_with("session-"), "{session}");
            assert_eq!(shown.argv[4..], [session.clone(), format!("--session-key={session}")]);

            let is_terminal = |body: &Body| matches!(body, Body::Terminal(_));
            let found = samples::all().into_iter().map(|record| record.body).find(is_terminal);
            let Some(Body::Terminal(mut event)) = found else { unreachable!() };
            event.session = Some(key.to_owned());
            event.resumes = Some(key.to_owned());
            let mut body = Body::Terminal(event);
            redaction.apply(&mut body);
            let Body::Terminal(event) = body else { unreachable!() };
            assert_eq!((event.session, event.resumes), (Some(session.clone()), Some(session)));
        }
    }

    #[test]
    fn pseudonyms_are_those_of_their_key() {
        let kept = || PseudonymKey::from_bytes(*b"0123456789abcdef");
        let (one, other) = (Redaction::default().keyed(kept()), Redaction::default().keyed(kept()));
        let key = "sk-live-1234567890";
        assert_eq!(one.session_key(key), other.hashing_sessions().session_key(key));
        assert_ne!(one.session_key(key), Redaction::default().session_key(key));
        // What was hidden once can be given again, to look for it.
        assert_eq!(one.session_key(&one.session_key(key)), one.session_key(key));
        assert_eq!(one.session_key("k"), "k");
    }

    #[test]
    fn hashed_sessions_are_equal_within_a_recording_only() {
        let key = samples::spawn().session.unwrap();
        let redaction = Redaction::default().hashing_sessions();
        let spawn = applied(&redaction, samples::spawn());
        let session = spawn.session.clone().unwrap();
        assert!(session.starts_with("session-") && session != key);
        assert!(spawn.argv.contains(&session) && !spawn.argv.iter().any(|it| it.contains(&key)));
        assert_eq!(applied(&redaction, samples::spawn()), spawn);
        let other = Redaction::default().hashing_sessions();
        assert_ne!(applied(&other, samples::spawn()).session, spawn.session);
    }
}
