#!/bin/sh
# Installs what tests and benchmarks need beside Python, where that is missing and may be done.
set -eu
packages=
for name in "$@"; do
    command -v "$name" >/dev/null && continue
    case $name in nginx) packages="$packages nginx-light" ;; *) packages="$packages $name" ;; esac
done
[ -z "$packages" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing$packages"
    apt-get update -qq || true
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages \
        >/dev/null 2>&1 && exit 0
fi
echo "missing:$packages (apt install$packages); what needs them will say so"
