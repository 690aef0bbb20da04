#!/bin/sh
# Assembles loader.bin, disk.bin and testdata/fake.bin with GNU binutils, into
# the directory named by the first argument, or else here, and lists in
# loader.rel where loader.bin holds addresses: 16 MiB further up, the highest byte
# of each is another.
set -e
cd "$(dirname "$0")"
out=${1:-.}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
assemble() { # source, as flag, emulation, address, result
	# shellcheck disable=SC2086 # the flags are words
	as $2 -o "$tmp/o" "$1"
	ld -m "$3" -Ttext="$4" --oformat binary -o "$5" "$tmp/o"
	chmod 644 "$5"
}
assemble loader.S --32 elf_i386 0x100000 "$out/loader.bin"
assemble loader.S '--32 --defsym LOADER_BASE=0x1100000' elf_i386 0x1100000 "$tmp/far"
cmp -l "$out/loader.bin" "$tmp/far" | awk '{ print $1 - 4 }' >"$out/loader.rel" # cmp counts from 1
chmod 644 "$out/loader.rel"
assemble disk.S --32 elf_i386 0x7c00 "$out/disk.bin"
mkdir -p "$out/testdata"
assemble testdata/fake.S --64 elf_x86_64 0x401000 "$out/testdata/fake.bin"
