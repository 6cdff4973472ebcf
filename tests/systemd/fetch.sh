#!/usr/bin/env bash
# Makes the machine that tests/systemd boots: Debian 12 with systemd and Python, and the wheels that an installation takes.
#
# Beside what tests/peers/fetch.sh keeps (`GATEWAY_TEST_PEERS`, by default in /var/cache), in a directory whose name ends with
# `-machine`: `root`, never written to again, and `wheels`, since the machine has no network. Needs root and debootstrap.
# Does nothing if that was done before, unless this script or the locked versions have changed since.
set -euo pipefail
cd "$(dirname "$0")/../.."
script=tests/systemd/fetch.sh
lock=requirements-daemon.txt

machine="${GATEWAY_TEST_PEERS:-/var/cache/notification-gateway-peers}-machine"
mkdir -p "$machine"
work="$(mktemp -d -p "$machine")"
trap 'rm -rf "$work"' EXIT

if ! cmp -s "$script" "$machine/fetch.sh"; then
  mirror="$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | head -n 1)"
  debootstrap --variant=minbase --include=systemd,systemd-sysv,python3,python3-venv,make bookworm "$work/root" "$mirror" >/dev/null
  chmod 755 "$work/root"
  rm -rf "$machine/root" "$machine/requirements.txt"
  mv "$work/root" "$machine/root"
fi

if ! cmp -s "$lock" "$machine/requirements.txt"; then
  platforms=()
  for minor in {17..36}; do platforms+=(--platform "manylinux_2_${minor}_$(uname -m)"); done
  "${PYTHON:-python3}" -m venv "$work/venv"
  "$work/venv/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --requirement "$lock" \
    --python-version 3.11 --implementation cp --abi cp311 --abi abi3 --abi none "${platforms[@]}" --dest "$work/wheels"
  rm -rf "$machine/wheels"
  mv "$work/wheels" "$machine/wheels"
  cp "$lock" "$machine/requirements.txt"
fi

cp "$script" "$machine/fetch.sh"
