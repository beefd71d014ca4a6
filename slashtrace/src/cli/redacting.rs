use std::fs;

use clap::ValueEnum;

use crate::redact::Redaction;

/// What is shown of sessions.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(super) struct Redacting {
    /// Session keys as they are, or pseudonyms: the same for the same key within this recording,
    /// and of no use for finding out the key
    #[arg(long, value_name = "HOW", default_value = "keep")]
    sessions: Sessions,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Sessions {
    Keep,
    Hash,
}

impl Redacting {
    /// The gate for what is observed on this machine.
    pub(super) fn redaction(self) -> Redaction {
        match self.sessions {
            Sessions::Keep => of_this_machine(),
            Sessions::Hash => of_this_machine().hashing_sessions(),
        }
    }
}

/// Masks the names of this machine and its users.
pub(super) fn of_this_machine() -> Redaction {
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
