#!/usr/bin/env bash
# Makes a base image without a registry: Debian bookworm with its own Python 3.11, under the name of the image that it replaces.
# usage: base.sh NAME (as root; podman or docker)
set -euo pipefail
name=$1 engine=${ENGINE:-podman}

if ! command -v debootstrap >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends debootstrap >/dev/null
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
debootstrap --variant=minbase --include=python3,python3-venv,python3-pip,ca-certificates bookworm "$root" >"$work/log" \
    || { tail -20 "$work/log" >&2; exit 1; }
# Like the image that it replaces: a `python` command, a pip without restrictions, no package lists, no documentation.
ln -s python3 "$root/usr/bin/python"
rm -f "$root"/usr/lib/python3*/EXTERNALLY-MANAGED
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/* "$root"/usr/share/{doc,man,info,locale}/*
tar -C "$root" -c . | "$engine" import --change 'CMD ["python3"]' --change 'ENV LANG=C.UTF-8' - "$name" >/dev/null
