#!/bin/sh
# linux.sh [PARAMETER...]
#
# Boots Debian's Linux on the minimal hypervisor, with vault in VTL1, and has root in
# Linux attack both. Lines of the serial console are shown as they come. The status is
# 0 if every attack was refused and VTL1 has proved at the end that its key is whole.
# Parameters go on the kernel's command line: soak=N makes N VTL calls in a row
# rather than 100,000. VTXBOOTFLAGS holds flags for vtx boot.
set -eu
cd "$(dirname "$0")/.."
start=$(date +%s)
scripts/setup.sh 'to boot programs' bochs bochsbios vgabios
scripts/linux-image.sh

build=.build/linux
go build -o .build/vtx ./cmd/vtx
for program in minihv vault; do
	CGO_ENABLED=0 GOOS=linux GOARCH=amd64 GOAMD64=v1 go build -o ".build/$program" "./examples/$program"
done
serial=$build/serial.log
rm -f "$serial"
status=0
.build/vtx boot -serial -serial-file "$serial" \
	-module "$build/vmlinuz" -module "$build/initrd" -module .build/vault \
	.build/minihv -kernel vmlinuz -initrd initrd -vtl1 vault -append "$(cat examples/linux/cmdline) $*" || status=$?

# That the machine was switched off is not enough: all steps must have been made.
made=$(sed -n 's/.*vtx: \([0-9]* steps, [0-9]* failed\).*/\1/p' "$serial" 2>/dev/null || :)
tsc=$(sed -n 's/.*vtx-init-tsc \([0-9]*\).*/\1/p' "$serial" 2>/dev/null | head -n 1 || :)
echo "linux: ${made:-the steps were not all made}; ${tsc:-?} instructions from power-on to init; $(($(date +%s) - start)) s"
case $made in
*' 0 failed') exit "$status" ;;
esac
[ "$status" != 0 ] || status=1
exit "$status"
