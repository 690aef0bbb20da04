#!/bin/sh
# cross.sh
#
# Vets every package and builds its tests for systems that are not this one. It
# ends with status 1 if any of that fails.
set -u
cd "$(dirname "$0")/.."

mkdir -p .build
log=.build/cross.log
failed=0
for target in linux/arm64 windows/amd64 darwin/arm64 plan9/amd64 js/wasm linux/386 linux/amd64/v3; do
	echo "$target"
	rm -f "$log"
	arch=${target#*/}
	export CGO_ENABLED=0 GOOS="${target%%/*}" GOARCH="${arch%/*}" GOAMD64=v1
	case $arch in */*) GOAMD64=${arch#*/} ;; esac
	# With "true" to run them, go test builds and links the tests and no more.
	go vet ./... && go build ./... && go test -vet=off -count=1 -exec true ./... >"$log" 2>&1 && continue
	[ ! -f "$log" ] || grep -v -e '^ok' -e 'no test files' "$log"
	echo "FAIL  $target"
	failed=1
done
exit "$failed"
