#!/usr/bin/env bash
# Tests of pages use Debian's Chromium: install it where it is missing.
set -euo pipefail
[ -x /usr/bin/chromium ] && exit 0
command -v apt-get > /dev/null || { echo "Tests of pages need Chromium as /usr/bin/chromium: install it." >&2; exit 1; }
as_root=()
if [ "$(id -u)" -ne 0 ]; then
	command -v sudo > /dev/null || { echo "Tests of pages need Chromium: as root, run apt-get install chromium" >&2; exit 1; }
	as_root=(sudo)
fi
echo "Installing Chromium, for tests of pages …"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
{ "${as_root[@]}" apt-get update && "${as_root[@]}" apt-get install --yes --no-install-recommends chromium; } > "$log" 2>&1 ||
	{ tail -n 20 "$log" >&2; exit 1; }
