#!/bin/sh
# make.sh
#
# Makes the images in this directory. It needs MinGW's compilers, openssl and
# osslsigncode; on Debian: gcc-mingw-w64-x86-64 gcc-mingw-w64-i686 osslsigncode. What it
# makes here is the same each time, but for the signed images: see make-signed.sh.
set -eu
cd "$(dirname "$0")"
export SOURCE_DATE_EPOCH=1767225600 # 2026-01-01: what strip enters as the time

# image NAME FLAGS...: NAME of policy.c, for the processor that its name ends in
image() {
	name=$1
	shift
	case $name in
	*64*) cc=x86_64-w64-mingw32-gcc entry=entry ;;
	*) cc=i686-w64-mingw32-gcc entry=_entry@12 ;;
	esac
	"$cc" -Os -fno-asynchronous-unwind-tables -nostdlib -s -Wl,--no-insert-timestamp,-e,$entry "$@" -o "$name" policy.c
	chmod 644 "$name"
}

image policy64.exe
image policy32.exe
image policy64-old.exe -DEXPORT=s_IumPolicyMetadata
image policy32-old.exe -DEXPORT=s_IumPolicyMetadata
image policy64-both.exe -DBOTH
image policy64-two.exe -DTWO
image policy64-rdata.exe '-DSECTION=".rdata"'
image policy64-noexport.exe -DNO_EXPORT
image policy64.dll -shared
image policy64.sys -Wl,--subsystem,native,--wdmdriver

./make-signed.sh policy64.exe
