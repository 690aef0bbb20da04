#!/bin/sh
# pe-corpus.sh [PACKAGE...]
#
# Reads every PE image of Debian packages: those of Wine and of MinGW and a few others,
# or those named. None may be a trustlet, and all must be read without error. Packages are downloaded
# with apt-get into a temporary directory and unpacked there; nothing is installed.
# The status is 0 if that is so, else 1.
set -u
cd "$(dirname "$0")/.."
vtx=$PWD/.build/vtx
tmp=$(mktemp -d) || exit
trap 'rm -rf "$tmp"' EXIT
go build -o "$vtx" ./cmd/vtx || exit

[ $# -gt 0 ] || set -- libwine wine64 libz-mingw-w64 libassuan-mingw-w64-dev \
	libgcrypt-mingw-w64-dev libgpg-error-mingw-w64-dev libksba-mingw-w64-dev \
	libnpth-mingw-w64-dev gcc-mingw-w64-x86-64-win32-runtime \
	gcc-mingw-w64-x86-64-posix-runtime gcc-mingw-w64-i686-win32-runtime \
	gcc-mingw-w64-i686-posix-runtime gnat-mingw-w64-x86-64-win32 \
	gfortran-mingw-w64-x86-64-win32 gdb-mingw-w64-target \
	nsis-common grub-efi-amd64-bin systemd-boot-efi python3-setuptools

mkdir "$tmp/debs" "$tmp/files"
for package; do
	# One that this release of Debian has not is no mistake.
	if (cd "$tmp/debs" && apt-get download "$package") >"$tmp/log" 2>&1; then
		dpkg-deb -x "$tmp"/debs/*.deb "$tmp/files/$package" || exit
		rm -f "$tmp"/debs/*.deb
		echo "$package"
	else
		echo "$package: not there"
	fi
done

failed=0
"$vtx" trustlet -json "$tmp/files" >"$tmp/reports" || failed=1
if grep -m 5 -v -F '"trustlet":false' "$tmp/reports"; then
	echo 'FAIL  these are not trustlets, and are said to be, or could not be read'
	failed=1
fi
if grep -m 5 -F '"grade":' "$tmp/reports" | grep -v -F '"grade":"absent"'; then
	echo 'FAIL  these have no policy, and are said to have'
	failed=1
fi
if [ "$(wc -l <"$tmp/reports")" -lt 100 ]; then
	echo 'FAIL  there are fewer than 100 images: the packages could not be downloaded'
	failed=1
fi
exit "$failed"
