//! The one gate between the sensors and everything else: what has passed it may be shown.

use std::{borrow::Cow, collections::hash_map::RandomState, hash::BuildHasher as _};

use super::secrets;
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
#[derive(Clone, Debug, Default)]
pub struct Redaction {
    names: Vec<String>,
    /// Keyed by random numbers of this recording, which nobody keeps.
    sessions: Option<RandomState>,
}

impl Redaction {
    /// Masks these names of people and machines where they stand alone.
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        let told = |name: &String| {
            name.len() >= NAME_MIN && !COMMON.contains(&name.to_ascii_lowercase().as_str())
        };
        Self { names: names.into_iter().filter(told).collect(), sessions: None }
    }

    /// Puts a pseudonym (SipHash-1-3 under a random key) in place of each session key. The same key
    /// has the same one within a recording and another one in every other.
    #[must_use]
    pub fn hashing_sessions(mut self) -> Self {
        self.sessions = Some(RandomState::new());
        self
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
        self.text(comm);
        let parent = parent.iter_mut();
        let parent = parent
            .flat_map(|parent| std::iter::once(&mut parent.process).chain(&mut parent.forker));
        let above = parent.chain(ancestors).chain(opener);
        above.for_each(|process| self.process(process));
        self.maybe(model);
        let key = session.clone();
        if let Some(session) = session {
            self.session(session);
        }
        for token in argv {
            // The session is a token of its own or behind the `=` of its flag.
            match key.as_deref().and_then(|key| token.strip_suffix(key)) {
                Some(before) if before.is_empty() || before.ends_with('=') => {
                    let session = session.as_deref().unwrap_or_default();
                    *token = format!("{before}{session}");
                }
                _ => self.text(token),
            }
        }
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
        [session, resumes].into_iter().flatten().for_each(|session| self.session(session));
    }

    fn program(&self, program: &mut Program) {
        self.maybe(&mut program.unit);
    }

    fn process(&self, process: &mut Process) {
        let Process { comm, argv0, launcher: _, pid: _, start_ns: _ } = process;
        self.text(comm);
        self.maybe(argv0);
    }

    fn session(&self, session: &mut String) {
        if let Some(key) = &self.sessions {
            *session = format!("session-{:016x}", key.hash_one(&*session));
        }
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
