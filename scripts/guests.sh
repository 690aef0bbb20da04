#!/bin/sh
# guests.sh
#
# Fetches guests that nobody here wrote, for the tests of the minimal hypervisor, from
# Debian's packages: iPXE and memtest86+ into .build/guests. Nothing is installed.
set -eu
cd "$(dirname "$0")/.."
mkdir -p .build
exec scripts/debs.sh .build/guests ipxe memtest86+
