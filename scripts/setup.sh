#!/bin/sh
# setup.sh PURPOSE PACKAGE...
#
# Installs those Debian packages that are missing, as root or through sudo. Where
# that cannot be done it says what to install; PURPOSE says what for. The exit
# status is 0 if everything is there at the end, else 1.
#
# What counts is whether the programs and files are there, not the packages: a
# Bochs built from source, or another system's, is as good as Debian's.
set -u
cd "$(dirname "$0")/.."

purpose=$1
shift

on_path() { # PROGRAM...: whether all of them are
	for program; do
		command -v "$program" >/dev/null || return 1
	done
}

rom() { # FILE...: whether one of them is where Bochs looks for ROM images
	bochs=$(command -v bochs) || bochs=/usr/bin/bochs
	for dir in "${BXSHARE:-/usr/share/bochs}" "${bochs%/*}/../share/bochs" \
		/usr/share/bochs /usr/local/share/bochs /usr/share/vgabios; do
		for file; do
			[ -f "$dir/$file" ] && return
		done
	done
	return 1
}

have() { # PACKAGE: whether what it is for is there
	case $1 in
	bochs) on_path bochs ;;
	bochsbios) rom BIOS-bochs-latest ;;
	vgabios) rom VGABIOS-lgpl-latest VGABIOS-lgpl-latest.bin vgabios.bin ;;
	binutils) on_path as ld objdump ;;
	qemu-system-x86) on_path qemu-system-x86_64 ;;
	seabios) [ -d /usr/share/seabios ] || [ "$(uname)" != Linux ] ;;
	grub-common) on_path grub-mkrescue ;;
	grub-pc-bin) [ -d /usr/lib/grub/i386-pc ] ;;
	mtools) on_path mformat ;;
	libc6-dev) [ -f /usr/include/stdlib.h ] || [ "$(uname)" != Linux ] ;;
	*) on_path "$1" ;; # the program has the package's name
	esac
}

lacking() { # PACKAGE...: print those that are not there
	for package; do
		have "$package" || printf '%s ' "$package"
	done
}

missing=$(lacking "$@")
[ -n "$missing" ] || exit 0

how="apt-get install --no-install-recommends $missing"
as_root=
if ! on_path apt-get; then
	why='this system has no apt-get'
	how="the programs that Debian has in the packages $missing"
elif [ "$(id -u)" != 0 ] && ! { on_path sudo && sudo -n true 2>/dev/null; }; then
	why='you are not root, and sudo is missing or wants a password'
else
	why=
	[ "$(id -u)" = 0 ] || as_root='sudo -n'
fi
if [ -n "$why" ]; then
	echo "setup: missing $purpose: $missing" >&2
	echo "setup: not installed, for $why; install: $how" >&2
	exit 1
fi

mkdir -p .build
log=.build/setup.log
apt() {
	$as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 \
		-o Acquire::Retries=3 -o Acquire::http::Timeout=60 "$@" >>"$log" 2>&1 </dev/null
}
echo "setup: installing Debian packages $purpose: $missing"
: >"$log"
apt update || echo "setup: apt-get update failed; trying with the package lists as they are"
# All at once is quickest. One by one, what can be had is installed at least.
# shellcheck disable=SC2086 # the list is to be split
if ! apt install --no-install-recommends $missing; then
	for package in $missing; do
		apt install --no-install-recommends "$package"
	done
fi
missing=$(lacking "$@")
[ -n "$missing" ] || exit 0
tail -n 20 "$log" >&2
echo "setup: still missing $purpose: $missing (the end of $log is above)" >&2
exit 1
