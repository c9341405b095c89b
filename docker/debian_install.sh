#!/bin/sh
# Installs Debian packages without what they only recommend, and leaves no package lists.
# usage: debian_install.sh PACKAGE=VERSION...
set -eu
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log
