use std::{
    path::PathBuf,
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use tempfile::TempDir;

/// A word that no other test has, in this run or another on this machine.
pub fn unique(prefix: &str) -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}_{}_{}", process::id(), COUNTER.fetch_add(1, Ordering::Relaxed))
}

/// A profile whose workers are this test's alone, with the short graces of the demo, so that
/// tracers that run at the same time do not see each other's workers.
#[derive(Debug)]
pub struct TestProfile {
    folder: TempDir,
    module: String,
}

impl TestProfile {
    /// Workers run as `-m slashtrace_test.worker_<unique>`.
    pub fn new() -> Self {
        let module = unique("slashtrace_test.worker");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let text = format!(
            "name = \"test\"\n\
             [worker]\n\
             tokens = [\"-m\", \"{module}\"]\n\
             session_flag = \"--session-key\"\n\
             model_flag = \"--model\"\n\
             [graces]\n\
             overlap = \"2s\"\norphan = \"3s\"\nunreachable = \"3s\"\nzombie = \"5s\"\n\
             [windows]\n\
             churn = \"1m\"\naccumulation = \"1m\"\n"
        );
        std::fs::write(folder.path().join("profile.toml"), text).expect("the profile is written");
        Self { folder, module }
    }

    /// The profile's file.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("profile.toml")
    }

    /// The worker's token behind `-m`.
    pub fn module(&self) -> &str {
        &self.module
    }

    /// argv of a worker behind argv[0].
    pub fn argv(&self, session: &str) -> [String; 6] {
        ["-m", &self.module, "--session-key", session, "--model", "test-model"].map(str::to_owned)
    }
}

impl Default for TestProfile {
    fn default() -> Self {
        Self::new()
    }
}
