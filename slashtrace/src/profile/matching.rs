use super::Profile;

/// What the worker rule read from an argv that it matched.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WorkerMatch<'a> {
    /// Value of the session flag, raw bytes; absent if argv has none (or it was cut off).
    pub session: Option<&'a [u8]>,
    /// Value of the model flag, raw bytes.
    pub model: Option<&'a [u8]>,
}

/// Splits an argument area (`mm->arg_start..arg_end`, /proc/PID/cmdline) into its tokens. A last
/// token without its NUL is kept: in a truncated area it may be incomplete.
pub fn tokens_of(area: &[u8]) -> Vec<&[u8]> {
    let mut tokens: Vec<&[u8]> = area.split(|&b| b == 0).collect();
    if area.is_empty() || area.ends_with(&[0]) {
        tokens.pop();
    }
    tokens
}

impl Profile {
    /// Applies the worker rule to argv tokens: the rule's tokens one behind the other in argv[1..].
    pub fn match_worker<'a>(&self, argv: &[&'a [u8]]) -> Option<WorkerMatch<'a>> {
        let rule = &self.worker.tokens;
        let arguments = argv.get(1..)?;
        let at = arguments.windows(rule.len()).position(|window| {
            window.iter().zip(rule).all(|(token, wanted)| *token == wanted.as_bytes())
        })?;
        let behind = &arguments[at + rule.len()..];
        Some(WorkerMatch {
            session: flag_value(behind, &self.worker.session_flag),
            model: self.worker.model_flag.as_deref().and_then(|flag| flag_value(behind, flag)),
        })
    }

    /// The name of the known helper that this argv belongs to.
    pub fn match_helper(&self, argv: &[&[u8]]) -> Option<&str> {
        self.helpers
            .iter()
            .find(|helper| {
                argv.iter().any(|token| {
                    token.rsplit(|&b| b == b'/').next() == Some(helper.file.as_bytes())
                })
            })
            .map(|helper| helper.name.as_str())
    }
}

/// Value of `flag` in `argv`, as `--flag VALUE` or `--flag=VALUE`; the last one wins, as in argparse.
fn flag_value<'a>(argv: &[&'a [u8]], flag: &str) -> Option<&'a [u8]> {
    let mut value = None;
    let mut tokens = argv.iter();
    while let Some(token) = tokens.next() {
        if *token == flag.as_bytes() {
            value = tokens.next().copied().or(value);
        } else if let Some(inline) =
            token.strip_prefix(flag.as_bytes()).and_then(|rest| rest.strip_prefix(b"="))
        {
            value = Some(inline);
        }
    }
    value
}
