#!/bin/sh
# linux-plain.sh [PARAMETER...]
#
# Boots the Linux guest of make linux by GRUB, on the same Bochs and without the
# hypervisor, with more parameters on the kernel's command line if any are given. The
# serial console is shown, and at the end how many instructions it took from
# power-on to the kernel and to the first process. A second has as many instructions
# as there, and the memory is that of the guest.
# VTXBOOTFLAGS holds flags for vtx boot.
set -eu
cd "$(dirname "$0")/.."
scripts/setup.sh 'to boot Linux' bochs bochsbios vgabios grub-common grub-pc-bin xorriso mtools
scripts/linux-image.sh

build=$PWD/.build/linux
# Linux 6.1 is not to use FSRM: its memmove goes wrong with it where IA32_MISC_ENABLE says
# that strings are not fast.
disk=$build/disk
rm -rf "$disk"
mkdir -p "$disk/boot/grub"
cp "$build/vmlinuz" "$build/initrd" "$disk/boot"
cat >"$disk/boot/grub/grub.cfg" <<END
serial --unit=0 --speed=115200
terminal_output serial
linux /boot/vmlinuz $(cat examples/linux/cmdline) clearcpuid=fsrm $*
initrd /boot/initrd
boot
END
log=$build/grub.log
grub-mkrescue -d /usr/lib/grub/i386-pc -o "$build/plain.img" "$disk" >"$log" 2>&1 || {
	cat "$log" >&2
	echo "linux: GRUB's image cannot be made (the end of $log is above)" >&2
	exit 1
}

# A kernel reads IA32_MISC_ENABLE before it can take an exception, and this Bochs does
# not have it. For programs of ring 0 vtx boot says that such MSRs are to fault, as a
# hypervisor has to know; here they read as 0. Where GRUB puts the kernel, Bochs'
# debugger stops once and says how many instructions there were.
bochs=$build/bochs
times=$build/plain.times
cat >"$bochs" <<END
#!/bin/sh
sed -i s/ignore_bad_msrs=0/ignore_bad_msrs=1/ bochsrc
printf '%s\\n' 'pb 0x1000000' c ptime 'delete 1' c >debugger
bochs "\$@" | tee "$times"
END
chmod +x "$bochs"
go build -o .build/vtx ./cmd/vtx
serial=$build/plain.log
start=$(date +%s)
VTXBOOTFLAGS="-ips $(cat examples/linux/ips) ${VTXBOOTFLAGS-}" .build/vtx boot -emulator "$bochs" -memory 256M -raw -serial -serial-file "$serial" "$build/plain.img"
kernel=$(sed -n 's/.*ptime: \([0-9]*\).*/\1/p' "$times" | head -n 1)
tsc=$(sed -n 's/.*vtx-init-tsc \([0-9]*\).*/\1/p' "$serial" | head -n 1)
echo "linux: ${kernel:-?} instructions from power-on to the kernel, ${tsc:-?} to init; $(($(date +%s) - start)) s"
[ -n "$kernel" ] && [ -n "$tsc" ]
