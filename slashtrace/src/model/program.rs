use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Identity, Source};

/// How a program came onto the machine.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Install {
    /// From a package index or file, by pip, uv or another installer.
    Package,
    /// From a version control system (`direct_url.json` of the distribution, PEP 610).
    Vcs,
    /// From a folder, in place (`pip install -e`).
    Editable,
    /// From a folder.
    Folder,
}

/// What runs as a gateway: for whoever reads the report. The engine does not use it.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Program {
    /// Thread group id of the gateway.
    pub pid: u32,
    /// Its start time, ns of the boot clock.
    pub start_ns: u64,
    /// The distribution that the profile asks for; absent where it was not found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<String>,
    /// Its version, from its metadata.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// How it was installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub install: Option<Install>,
    /// By what: `pip`, `uv` (the distribution's `INSTALLER`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installer: Option<String>,
    /// Version of Python: `3.11`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub python: Option<String>,
    /// The sort of container that it runs in: `docker`, `podman`, `kubernetes`, `lxc`, `other`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The systemd unit that it belongs to; masked unless its name says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Names of variables in its environment, of a fixed list; never a value.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub environment: Vec<String>,
    /// How this was observed.
    pub source: Source,
}

impl Program {
    /// The gateway.
    pub fn identity(&self) -> Identity {
        Identity { pid: self.pid, start_ns: self.start_ns }
    }
}
