#!/bin/sh
# run.sh [ARGS]
#
# Boots the minimal hypervisor on Bochs, and exits with its status. VTXBOOTFLAGS
# holds flags for vtx boot.
set -eu
cd "$(dirname "$0")/.."
scripts/setup.sh 'to boot programs' bochs bochsbios vgabios
mkdir -p .build
# Built, not "go run": that would turn every exit status but 0 into 1.
go build -o .build/vtx ./cmd/vtx
CGO_ENABLED=0 GOOS=linux GOARCH=amd64 GOAMD64=v1 go build -o .build/minihv ./examples/minihv
exec .build/vtx boot .build/minihv "$@"
