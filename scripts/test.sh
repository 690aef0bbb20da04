#!/bin/sh
# test.sh
#
# Runs the tests as ordinary processes, then in ring 0 on Bochs, and ends with a
# line of how many passed, failed and were skipped. All runs take place even if
# one fails. The variable MODELS holds the CPU models to run on: the last of them
# has all tests with all draws.
# shellcheck disable=SC2086 # $race, $cgo, $vtx and the like are words, or nothing
set -u
cd "$(dirname "$0")/.."
models=${MODELS:-corei7_skylake_x corei7_icelake_u tigerlake}
failed=0
notes=

bochs=yes
scripts/setup.sh 'to boot programs' bochs bochsbios vgabios || bochs=
scripts/setup.sh 'for the rest of the tests' binutils gcc libc6-dev qemu-system-x86 seabios \
	grub-common grub-pc-bin xorriso mtools || echo 'the tests that need those are skipped'
[ -z "$bochs" ] || scripts/guests.sh || echo 'SKIP  memtest86+ and iPXE cannot be had: the test that boots them is skipped'

build=$PWD/.build
mkdir -p "$build"
totals=$build/totals
rm -f "$totals"

# Testsum is also the probe for the race detector, which needs cgo and a C
# compiler, and is not there for every system. A program with it sleeps for a
# second before it ends, and the tests of vtx run hundreds of such programs.
race=-race cgo='CGO_ENABLED=1 GORACE=atexit_sleep_ms=0' host='host, -race'
if ! env $cgo go build -C tools -race -o "$build/testsum" ./testsum 2>"$build/race.log"; then
	race= cgo= host='host, no -race'
	echo 'the race detector does not work here (the reason is in .build/race.log): testing without it'
	go build -C tools -o "$build/testsum" ./testsum || exit
fi
go build -o "$build/vtx" ./cmd/vtx || exit

# run LABEL TESTSUM-FLAGS COMMAND...: a run with a line of its own in the totals
run() {
	label=$1 flags=$2
	shift 2
	printf '\n== %s\n' "$label"
	"$build/testsum" -label "$label" -totals "$totals" $flags -- "$@" || failed=1
}

# boot LABEL GO-TEST-ARGS...: a run in ring 0, on the CPU model $model and with the
# Go release $toolchain. A package takes seconds; one that hangs shall not take
# the time of all others.
boot() {
	label=$1
	shift
	run "$label" -ring0 env CGO_ENABLED=0 GOOS=linux GOARCH=amd64 GOAMD64=v1 \
		GOTOOLCHAIN="$toolchain" VTXBOOTFLAGS="-cpu=$model -timeout=5m ${VTXBOOTFLAGS-}" \
		go test -json -count=1 -exec "'$build/vtx' boot" "$@"
}

# As many packages run at once as there are processors. Those that take longest go
# first, so that none is left alone at the end: go test keeps the order, and takes each
# package once.
run "$host" '' env $cgo go test -json -count=1 $race ./examples/minihv ./ring0 ./cmd/vtx ./internal/bootimage ./...
run "tools, $host" '' env $cgo go test -C tools -json -count=1 $race ./...

if [ -n "$bochs" ]; then
	# What is worth a boot: the packages whose tests have ring0 in them, the longest
	# first. Some of them use no VT-x: they are the same on all models, and however
	# they are built.
	module=$(go list -m)
	list=$(CGO_ENABLED=0 GOOS=linux GOARCH=amd64 go list -test -f '{{.ImportPath}} {{join .Deps " "}}' ./... |
		awk -v ring0="$module/ring0" '$1 ~ /\.test$/ { for (i = 2; i <= NF; i++) if ($i == ring0) { sub(/\.test$/, "", $1); print $1; break } }')
	plain=$(echo "$list" | grep -x -e "$module/hypercall" -e "$module/vtl")
	vtx="./vmexit ./vmcs ./ept ./examples/minihv ./ring0 ./vmexit/emulate $(echo "$list" | grep -vxF "$plain")"
	all="./vmexit ./vmcs ./vtl ./ept ./examples/minihv ./hypercall $vtx"
	# One run compares all that is drawn with the processor. The others, whose draws
	# are the same but for what a model lacks, take one in three.
	third='-args -ring0.share=3'
	toolchain=$(go env GOTOOLCHAIN)
	for model in $models; do
		case $model in
		"${models##* }") boot "ring 0, $model" $all ;;
		*) boot "ring 0, $model, a third of the draws" $vtx $third ;;
		esac
	done
	# The last model goes on with what depends on the build, not on the model.
	boot 'ring 0, not optimized' -gcflags='all=-N -l' $vtx
	profile=$build/cover.out
	rm -f "$profile"
	boot 'ring 0, -cover' -coverprofile="$profile" ./ring0
	if ! grep -q ' [1-9][0-9]*$' "$profile"; then
		echo "FAIL  the coverage profile $profile did not come back, or says that no statement ran"
		echo '0 1 0 0 ring 0, the coverage profile' >>"$totals"
	fi
	case $(go env GOVERSION) in
	go1.26*) toolchain=go1.27.4 ;;
	*) toolchain=go1.26.8 ;;
	esac
	if GOTOOLCHAIN=$toolchain go version >"$build/toolchain.log" 2>&1; then
		boot "ring 0, $toolchain, a third of the draws" $all $third
	else
		notes="not tested with $toolchain, which cannot be had here: $(tail -n 1 "$build/toolchain.log")"
	fi
fi

printf '\n== all\n'
[ -n "$bochs" ] || echo 'nothing was tested in ring 0, for Bochs is missing: the tests that need VT-x were skipped'
[ -z "$notes" ] || echo "$notes"
"$build/testsum" -sum "$totals" || failed=1
exit "$failed"
