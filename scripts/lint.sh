#!/bin/sh
# lint.sh
#
# Checks form and finds mistakes without running anything. All checks take place
# even if one fails; the status is then 1.
set -u
cd "$(dirname "$0")/.."
mkdir -p .build
failed=0

# check NAME COMMAND...: the command must succeed
check() {
	printf '%s\n' "$1"
	name=$1
	shift
	"$@" || {
		echo "FAIL  $name"
		failed=1
	}
}

formatted() {
	files=$(gofmt -l .) && [ -z "$files" ] || {
		echo "$files"
		echo 'not as gofmt writes it; run: gofmt -w .'
		return 1
	}
}

# Staticcheck does not read assembly. In ring0 nearly all callers are there, so
# that unused code (U1000) can be told in the other packages only.
static() (
	go build -C tools -o ../.build/staticcheck honnef.co/go/tools/cmd/staticcheck || exit
	others=$(go list ./... | grep -v '/ring0$')
	for goos in linux windows; do
		export GOOS=$goos GOARCH=amd64 CGO_ENABLED=0
		.build/staticcheck ./... || exit
		# shellcheck disable=SC2086 # the list is to be split
		.build/staticcheck -checks U1000 $others || exit
	done
)

# What go generate makes must be what is there. It runs in a copy.
generated() (
	tmp=$(mktemp -d) || exit
	trap 'rm -rf "$tmp"' EXIT
	cp -R ./* "$tmp" && (cd "$tmp" && go generate ./...) || exit
	for file in *; do
		diff -r "$file" "$tmp/$file" || {
			echo 'generated files differ; run: make generate'
			exit 1
		}
	done
)

check gofmt formatted
check 'go vet' go vet ./...
check 'go vet, tools' go vet -C tools ./...
check staticcheck static
check 'staticcheck, tools' sh -c 'cd tools && ../.build/staticcheck ./...'
check 'go mod tidy' go mod tidy -diff
check 'go mod tidy, tools' go mod tidy -C tools -diff
check 'go.mod says go 1.26' grep -qx 'go 1\.26' go.mod
if scripts/setup.sh 'to assemble boot code' binutils; then
	check 'go generate' generated
fi
exit "$failed"
