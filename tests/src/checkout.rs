use std::{
    env,
    path::{Path, PathBuf},
};

/// Root of the checkout.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package is in a workspace")
}

/// A file of this package, by its path from it.
pub(crate) fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(path)
}

/// Cargo's target folder: the one that the running test was built into
/// (`target/<profile>/deps/<test>-<hash>`).
pub fn target() -> PathBuf {
    profile_folder().parent().expect("the profile's folder is in the target folder").to_owned()
}

/// `target/<profile>`.
pub(crate) fn profile_folder() -> PathBuf {
    let test = env::current_exe().expect("the path of the running test");
    test.ancestors().nth(2).expect("a test is built into target/<profile>/deps").to_owned()
}
