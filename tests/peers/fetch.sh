#!/usr/bin/env bash
# Fetches Alertmanager, and the mail servers and proxies that the tests talk to and that cannot be installed beside Postfix.
#
# Downloads Debian's packages, with those of their dependencies that this machine lacks, and unpacks them into one
# directory, which tests/peers/fetched.py finds: nothing is installed, nothing is started, and root is not needed.
# Does nothing if that was done before, unless this script has changed since.
set -euo pipefail
script="$(realpath "$0")"

packages=(dovecot-core dovecot-imapd exim4-daemon-heavy libnss-wrapper microsocks prometheus prometheus-alertmanager squid)

if [ "$(id -u)" = 0 ]; then cache=/var/cache; else cache="${XDG_CACHE_HOME:-$HOME/.cache}"; fi
root="${GATEWAY_TEST_PEERS:-$cache/notification-gateway-peers}"
cmp -s "$script" "$root/fetch.sh" && exit 0
if [ -e "$root" ] && [ ! -e "$root/fetch.sh" ]; then
  echo "$root holds something else" >&2
  exit 1
fi

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{debs,opensmtpd,lists/partial,cache/archives/partial}
new="$work/new"

# download [OPTION…]: the packages named on standard input, into the present directory.
download() { xargs apt-get -qq -o APT::Sandbox::User=root -o Dir::Cache::archives="$work/cache/archives" "$@" download; }

# What lacks is said as `Inst NAME (VERSION`; `Inst NAME [VERSION` would only become newer. Each is asked for alone, since
# mail servers exclude each other.
cd "$work/debs"
for package in "${packages[@]}"; do
  echo "$package"
  apt-get -s --no-install-recommends install "$package" | awk '$1 == "Inst" && $3 ~ /^\(/ {print $2}'
done | sort -u | download

# OpenSMTPD of Debian 12 cannot do TLS (OpenSMTPD/OpenSMTPD#1171): Debian 13's, with everything below it.
cd "$work/opensmtpd"
mirror="$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | head -n 1)"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" >"$work/sources.list"
: >"$work/status"
other=(
  -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=/dev/null -o Dir::State::status="$work/status"
  -o Dir::State::Lists="$work/lists" -o Dir::Cache="$work/cache" -o APT::Sandbox::User=root
  -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false -o Acquire::Languages=none
)
apt-get "${other[@]}" -qq update
apt-get "${other[@]}" -s --no-install-recommends install opensmtpd | awk '$1 == "Inst" {print $2}' | download "${other[@]}"

for archive in "$work"/debs/*.deb; do dpkg-deb -x "$archive" "$new"; done
for archive in "$work"/opensmtpd/*.deb; do dpkg-deb -x "$archive" "$new/opensmtpd"; done
# Alertmanager has the path of its templates written into it: of the same length, but where it runs.
sed -i 's|/usr/share/prometheus/alertmanager|./////////////////////////////////|g' "$new/usr/bin/prometheus-alertmanager"
find "$new" -type f -perm /6000 -exec chmod a-s {} +  # the loader of a setuid program ignores LD_LIBRARY_PATH
chmod -R u+w,a+rX "$new"
cp "$script" "$new/fetch.sh"

rm -rf "$root"
mkdir -p "$(dirname "$root")"
mv "$new" "$root"
