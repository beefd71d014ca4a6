use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, value::MapAccessDeserializer},
};

/// Where a session's key is read from, in this order: the first place with a key that is not empty
/// holds. Empty (`session = "none"`) if its workers have no session.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SessionRule(pub Vec<SessionSource>);

/// One place where a session's key may stand.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(try_from = "Place", into = "Place")]
#[schemars(with = "Place")]
pub enum SessionSource {
    /// `--flag KEY` or `--flag=KEY`, before or behind the rule's tokens; the last one holds.
    Flag(String),
    /// The nth argument, from 1, behind the rule's tokens (or its program) that is no flag. What
    /// stands behind a flag without `=` may be that flag's value, and is not counted.
    Position(u32),
    /// A variable of the worker's environment. No other is read.
    Env(String),
    /// A title that the worker writes over its argv, with one `*` where the key is. It also makes
    /// the worker known that was there before slashtrace.
    Title(String),
    /// The folder in which the worker runs.
    Cwd,
}

/// A source as it is written: a table with exactly one of these keys.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
struct Place {
    /// `--flag KEY` or `--flag=KEY`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    flag: Option<String>,
    /// The nth argument that is no flag, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    position: Option<u32>,
    /// A variable of the worker's environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    env: Option<String>,
    /// A title written over argv, with `*` where the key is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    /// `true`: the folder in which the worker runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cwd: Option<bool>,
}

impl TryFrom<Place> for SessionSource {
    type Error = String;

    fn try_from(place: Place) -> Result<Self, String> {
        let Place { flag, position, env, title, cwd } = place;
        if cwd == Some(false) {
            return Err("`cwd` can only be true; leave it out where it is not meant".to_owned());
        }
        let cwd = cwd.map(|_| Self::Cwd);
        let sources = [
            flag.map(Self::Flag),
            position.map(Self::Position),
            env.map(Self::Env),
            title.map(Self::Title),
            cwd,
        ];
        let mut sources = sources.into_iter().flatten();
        let Some(first) = sources.next() else {
            return Err(
                "it is empty: it needs one of `flag`, `position`, `env`, `title` and `cwd`"
                    .to_owned(),
            );
        };
        match sources.next() {
            None => Ok(first),
            Some(second) => Err(format!(
                "`{}` and `{}` are two places; write a list, in the order in which to look: \
                 [{{ {0} = … }}, {{ {1} = … }}]",
                first.key(),
                second.key(),
            )),
        }
    }
}

impl From<SessionSource> for Place {
    fn from(source: SessionSource) -> Self {
        let place = Self::default();
        match source {
            SessionSource::Flag(flag) => Self { flag: Some(flag), ..place },
            SessionSource::Position(position) => Self { position: Some(position), ..place },
            SessionSource::Env(env) => Self { env: Some(env), ..place },
            SessionSource::Title(title) => Self { title: Some(title), ..place },
            SessionSource::Cwd => Self { cwd: Some(true), ..place },
        }
    }
}

impl SessionSource {
    /// Its key in a profile.
    pub(super) fn key(&self) -> &'static str {
        match self {
            Self::Flag(_) => "flag",
            Self::Position(_) => "position",
            Self::Env(_) => "env",
            Self::Title(_) => "title",
            Self::Cwd => "cwd",
        }
    }
}

impl fmt::Display for SessionSource {
    /// For people: `the value of --session`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "the value of {flag}"),
            Self::Position(nth) => write!(f, "argument {nth} that is no flag"),
            Self::Env(name) => write!(f, "${name}"),
            Self::Title(title) => write!(f, "the title `{title}`"),
            Self::Cwd => f.write_str("the folder it runs in"),
        }
    }
}

/// What stands for [`SessionRule`] without sources.
const NONE: &str = "none";

impl Serialize for SessionRule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_empty() {
            serializer.serialize_str(NONE)
        } else {
            one_or_many::serialize(&self.0, serializer)
        }
    }
}

impl<'de> Deserialize<'de> for SessionRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = SessionRule;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`{ flag = \"--name\" }`, a list of such places, or \"none\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<SessionRule, E> {
                if text == NONE {
                    return Ok(SessionRule::default());
                }
                Err(E::invalid_value(de::Unexpected::Str(text), &self))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<SessionRule, A::Error> {
                SessionSource::deserialize(MapAccessDeserializer::new(map))
                    .map(|source| SessionRule(vec![source]))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<SessionRule, A::Error> {
                let mut sources = Vec::new();
                while let Some(source) = seq.next_element()? {
                    sources.push(source);
                }
                if sources.is_empty() {
                    return Err(de::Error::custom(
                        "the list is empty; without a session: \"none\"",
                    ));
                }
                Ok(SessionRule(sources))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for SessionRule {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SessionRule".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<SessionSource>();
        json_schema!({
            "description": "Where a session's key is read from, in this order; `none` if its \
                            workers have no session.",
            "anyOf": [{ "const": NONE }, one, { "type": "array", "items": one, "minItems": 1 }],
        })
    }
}

/// A list that is written as its only element where it has one.
pub(super) mod one_or_many {
    use std::{fmt, marker::PhantomData};

    use serde::{
        Deserialize, Deserializer, Serialize, Serializer,
        de::{self, value::MapAccessDeserializer},
    };

    pub fn serialize<T: Serialize, S: Serializer>(
        list: &[T],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match list {
            [one] => one.serialize(serializer),
            many => many.serialize(serializer),
        }
    }

    pub fn deserialize<'de, T, D>(deserializer: D) -> Result<Vec<T>, D::Error>
    where
        T: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        struct Visitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> de::Visitor<'de> for Visitor<T> {
            type Value = Vec<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table, or a list of tables")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Vec<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(|one| vec![one])
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
                let mut list = Vec::new();
                while let Some(one) = seq.next_element()? {
                    list.push(one);
                }
                Ok(list)
            }
        }

        deserializer.deserialize_any(Visitor(PhantomData))
    }
}
