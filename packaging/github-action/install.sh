#!/usr/bin/env bash
# Says in the file $GITHUB_ENV which slashtrace is to be run: the one in BINARY, or one that is built
# from the checkout that this action is in.
set -euo pipefail

if [ -n "${BINARY:-}" ]; then
    program=$(realpath -- "$BINARY")
else
    checkout=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
    (cd -- "$checkout" && cargo xtask build --release)
    program="$checkout/target/$(uname -m)-unknown-linux-musl/release/slashtrace"
fi
"$program" --version
echo "SLASHTRACE=$program" >>"$GITHUB_ENV"
