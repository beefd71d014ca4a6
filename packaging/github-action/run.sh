#!/usr/bin/env bash
# Records while RUN runs as this user; slashtrace itself runs as root, through sudo where it has to.
# The exit code is slashtrace's: 1 for findings, else the command's own.
set -euo pipefail

: "${SLASHTRACE:?install.sh says which}" "${RUN:?the command}"
flags=(record --quiet --output "${OUTPUT:-slashtrace-report}")
[ -z "${FAIL_ON:-}" ] || flags+=(--fail-on "$FAIL_ON")
[ -z "${JUNIT:-}" ] || flags+=(--junit "$JUNIT")
[ -z "${PROFILE:-}" ] || flags+=(--profile "$PROFILE")
[ "${COUNT_CALLS:-false}" != true ] || flags+=(--count-calls)
command=(bash -eo pipefail -c "$RUN")

if [ "$(id -u)" = 0 ]; then
    exec "$SLASHTRACE" "${flags[@]}" -- "${command[@]}"
fi
# sudo has a PATH of its own.
exec sudo -E env "PATH=$PATH" "$SLASHTRACE" "${flags[@]}" -- \
    sudo -E -u "$(id -un)" env "PATH=$PATH" "${command[@]}"
