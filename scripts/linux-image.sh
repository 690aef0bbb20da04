#!/bin/sh
# linux-image.sh
#
# Makes the Linux guest in .build/linux, from Debian's packages: vmlinuz, the kernel
# as it is; and initrd, a ramdisk of busybox, examples/linux/init, the program and
# the kernel module that attack. Nothing is installed but what compiles it, if that
# is missing. The same packages, sources and Go release make the same files. The status is
# 3 if the packages cannot be fetched.
set -eu
cd "$(dirname "$0")/.."
# The module needs no C library, but with a compiler and without it go build fails.
scripts/setup.sh 'to build a kernel module' gcc libc6-dev make binutils

build=$PWD/.build/linux
debs=$build/debs
mkdir -p "$build"
echo "linux: Debian's packages" >&2
# libelf1 is what a program in the headers' packages, objtool, is linked with.
scripts/debs.sh "$debs" linux-image-cloud-amd64 linux-headers-cloud-amd64 busybox-static libelf1 || exit 3

# debs.sh has left one kernel there, the newest.
kernel=$(echo "$debs"/boot/vmlinuz-*)
release=${kernel##*/vmlinuz-}
[ -f "$kernel" ] || {
	echo "linux: $debs/boot has not one kernel but: $kernel" >&2
	exit 1
}
cp "$kernel" "$build/vmlinuz"

echo "linux: the module that attacks, for $release" >&2
headers=$debs/usr/src/linux-headers
module=$build/module
rm -rf "$module"
mkdir -p "$module"
cp examples/linux/module/* "$module"
# The kernel's own compiler is gcc-12; a newer one builds modules for it as well.
cc=$(command -v gcc-12 || command -v gcc)
# Where the packages are not installed, their makefile does not find its other
# half: it is named here. Paths do not get into the module.
log=$build/module.log
LD_LIBRARY_PATH=$debs/usr/lib/x86_64-linux-gnu make -C "$headers-$release" -f "$headers-${release%%-cloud*}-common/Makefile" M="$module" \
	CC="$cc" KCFLAGS="-ffile-prefix-map=$module=. -ffile-prefix-map=$headers=linux" \
	modules >"$log" 2>&1 || {
	cat "$log" >&2
	echo "linux: the module cannot be built (the end of $log is above)" >&2
	exit 1
}

echo 'linux: the ramdisk' >&2
root=$build/root
rm -rf "$root"
mkdir -p "$root/bin" "$root/dev" "$root/proc" "$root/sys"
cp examples/linux/init "$root/init"
cp "$debs/bin/busybox" "$root/bin/busybox"
objcopy --strip-debug --remove-section=.comment "$module/vtxattack.ko" "$root/vtxattack.ko"
CGO_ENABLED=0 GOOS=linux GOARCH=amd64 GOAMD64=v1 go build -trimpath -buildvcs=false -ldflags='-s -w -buildid=' \
	-o "$root/bin/attack" ./examples/linux/attack
go run ./examples/linux/ramdisk "$root" >"$build/initrd.new"
mv "$build/initrd.new" "$build/initrd"
echo "linux: kernel $release of $(wc -c <"$build/vmlinuz") bytes, ramdisk of $(wc -c <"$build/initrd") bytes" >&2
