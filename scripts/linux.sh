#!/bin/sh
# linux.sh [FLAG...] [PARAMETER=VALUE...]
#
# Boots Debian's Linux on the minimal hypervisor, with vault in VTL1, and has root in
# Linux attack both. Lines of VTL1 and of the serial console are shown as they come.
# The status is 0 if every step went as it should, the attacks were refused, and VTL1
# has proved at the end that its key is whole.
#
# Parameters go on the kernel's command line: soak=N makes N VTL calls in a row rather
# than 100,000; samples=N attacks N pages of each range of addresses rather than 16.
# Flags are vault's: with -unprotected it hides nothing, which must end badly.
# VTXBOOTFLAGS holds flags for vtx boot. With VTX_OFFLINE=1 it is no failure that
# Debian's packages cannot be fetched: nothing is run then, and the last line says so.
set -eu
cd "$(dirname "$0")/.."
start=$(date +%s)
scripts/setup.sh 'to boot programs' bochs bochsbios vgabios
scripts/linux-image.sh || {
	status=$?
	[ "$status" = 3 ] && [ "${VTX_OFFLINE:-0}" = 1 ] || exit 1
	echo "linux: SKIPPED: VTX_OFFLINE is 1, and Debian's packages cannot be fetched"
	exit 0
}

build=.build/linux
flags=
while [ $# -gt 0 ]; do
	case $1 in
	-*) flags="$flags $1" ;;
	*) break ;;
	esac
	shift
done

go build -o .build/vtx ./cmd/vtx
for program in minihv vault; do
	CGO_ENABLED=0 GOOS=linux GOARCH=amd64 GOAMD64=v1 go build -o ".build/$program" "./examples/$program"
done
serial=$build/serial.log
rm -f "$serial"
# How many instructions make a second of the devices' time: with fewer of them more go
# into interrupts of the timer, 250 a second, with more into waiting for the serial
# port, 87 microseconds a byte, and for all else that takes its time. To the first
# process there were 1.67 G with 1 M, 1.63 G with 2 M, 1.71 G with 4 M, 1.83 G with
# 8 M and 2.08 G with 16 M, and the time of the whole run went with them.
status=0
VTXBOOTFLAGS="-ips $(cat examples/linux/ips) ${VTXBOOTFLAGS-}" .build/vtx boot -serial -serial-file "$serial" \
	-module "$build/vmlinuz" -module "$build/initrd" -module .build/vault \
	.build/minihv -kernel vmlinuz -initrd initrd -vtl1 "vault$flags" -append "$(cat examples/linux/cmdline) $*" || status=$?

# VTL1's word is not enough: all steps must have been made.
made=$(sed -n 's/.*vtx: \([0-9]* steps, [0-9]* failed\).*/\1/p' "$serial" 2>/dev/null || :)
tsc=$(sed -n 's/.*vtx-init-tsc \([0-9]*\).*/\1/p' "$serial" 2>/dev/null | head -n 1 || :)
echo "linux: ${made:-the steps were not all made}; ${tsc:-?} instructions from power-on to init; status $status; $(($(date +%s) - start)) s"
case $made in
*' 0 failed') exit "$status" ;;
esac
[ "$status" != 0 ] || status=1
exit "$status"
