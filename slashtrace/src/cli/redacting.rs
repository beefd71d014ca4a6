use std::fs;

use clap::ValueEnum;

use super::pseudonyms;
use crate::{
    model::Spawn,
    redact::{PseudonymKey, Redaction, is_hidden},
};

/// What is shown of sessions.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub(super) struct Redacting {
    /// Session keys as they are, or pseudonyms: the same for the same key within this recording,
    /// and of no use for finding out the key. Keys that look like a secret or an address, or are
    /// longer than 256 bytes, are pseudonyms in any case
    #[arg(long = "sessions", value_name = "HOW", default_value = "keep")]
    how: Sessions,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
enum Sessions {
    #[default]
    Keep,
    Hash,
}

/// A gate, and what people are to know of it.
pub(super) type Gate = (Redaction, Option<String>);

impl Redacting {
    /// The gate for a recording that others may get. Pseudonyms that were asked for are of this
    /// recording alone.
    pub(super) fn of_recording(self) -> Gate {
        match self.how {
            Sessions::Keep => keyed(of_this_machine()),
            Sessions::Hash => (of_this_machine().hashing_sessions(), None),
        }
    }

    /// The gate for what goes on over restarts, or is asked for again: a key has the same pseudonym
    /// at each start on this host.
    pub(super) fn of_host(self) -> Gate {
        let (redaction, note) = keyed(of_this_machine());
        match self.how {
            Sessions::Keep => (redaction, note),
            Sessions::Hash => (redaction.hashing_sessions(), note),
        }
    }

    /// The same for a list; without pseudonyms in it their key is not needed.
    pub(super) fn of_list(self, spawns: &[Spawn]) -> Gate {
        let hidden = |spawn: &Spawn| spawn.session.as_deref().is_some_and(is_hidden);
        if self.how == Sessions::Hash || spawns.iter().any(hidden) {
            self.of_host()
        } else {
            (of_this_machine(), None)
        }
    }
}

/// With this host's key, or one that nobody keeps.
fn keyed(redaction: Redaction) -> Gate {
    match pseudonyms::of_this_host() {
        Ok(key) => (redaction.keyed(key), None),
        Err(error) => {
            let note = format!("pseudonyms of session keys are of this run alone: {error:#}");
            (redaction.keyed(PseudonymKey::random()), Some(note))
        }
    }
}

/// Masks the names of this machine and its users.
fn of_this_machine() -> Redaction {
    let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let host = node.split('.').next().unwrap_or_default().to_owned();
    let asked = ["SUDO_USER", "USER", "LOGNAME"].into_iter();
    let asked = asked.filter_map(|name| std::env::var(name).ok());
    let passwd = fs::read("/etc/passwd").unwrap_or_default();
    let users = people(&String::from_utf8_lossy(&passwd));
    Redaction::new(asked.chain([host, node]).chain(users))
}

/// Login and full names of accounts of people in passwd(5): the ones from uid 1000 on.
fn people(passwd: &str) -> Vec<String> {
    let lines = passwd.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [login, _, uid, _, full, ..] = fields[..] else { return None };
        let uid: u32 = uid.parse().ok()?;
        (1_000..65_534).contains(&uid).then_some((login, full))
    });
    lines
        .flat_map(|(login, full)| {
            let words = full.split([' ', ',']).filter(|word| !word.is_empty());
            words.chain([login]).map(str::to_owned).collect::<Vec<_>>()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_those_with_a_uid_of_people() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nalice:x:1000:1000:Alice B. Toklas,,,:/home/\
                      alice:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\nbroken\n";
        assert_eq!(people(passwd), ["Alice", "B.", "Toklas", "alice"]);
    }
}
