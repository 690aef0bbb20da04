#!/bin/sh
# bench-kvm.sh [FLAGS]
#
# Counts the instructions of VM exits under KVM and under this library, with the same
# guest on the same Bochs. It fetches Debian's kernel for that. With UPDATE=1 the table
# goes into docs/performance.md. FLAGS are those of "kvmbench compare", such as -v, which
# shows the kernel's console.
set -eu
cd "$(dirname "$0")/.."
scripts/setup.sh 'to boot programs' bochs bochsbios vgabios
scripts/setup.sh 'to boot a kernel' grub-common grub-pc-bin xorriso mtools
mkdir -p .build
scripts/debs.sh .build/kvmbench-root linux-image-cloud-amd64
go build -o .build/vtx ./cmd/vtx
go build -o .build/kvmbench ./examples/kvmbench
CGO_ENABLED=0 GOOS=linux GOARCH=amd64 GOAMD64=v1 go build -ldflags='-s -w' -o .build/kvmbench-init ./examples/kvmbench
update=
[ "${UPDATE:-0}" = 0 ] || update=docs/performance.md
exec .build/kvmbench compare -root .build/kvmbench-root -program .build/kvmbench-init -vtx .build/vtx -update "$update" "$@"
