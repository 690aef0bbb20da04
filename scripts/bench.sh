#!/bin/sh
# bench.sh
#
# Counts instructions in ring 0 on Bochs, times boots, and times what is also used
# outside of ring 0 as a process. With UPDATE=1 the table goes into
# docs/performance.md.
set -eu
cd "$(dirname "$0")/.."
scripts/setup.sh 'to boot programs' bochs bochsbios vgabios
mkdir -p .build
go build -o .build/vtx ./cmd/vtx
go build -C tools -o ../.build/bench ./bench
update=
[ "${UPDATE:-0}" = 0 ] || update=docs/performance.md
exec .build/bench -vtx .build/vtx -update "$update" -host "./vmcs ./vmexit/... ./ept/... ./hypercall ./vtl ./ium" ./asm ./ring0 ./vmcs ./vmexit/... ./ept/... ./hypercall ./vtl ./examples/minihv
