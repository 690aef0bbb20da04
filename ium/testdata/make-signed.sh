#!/bin/sh
# make-signed.sh TRUSTLET
#
# Makes, in the current directory, from TRUSTLET, an image with a policy and without a
# signature:
#
#   signed-rsa.exe        signed with RSA and SHA-256, EKUs of a trustlet
#   signed-ecdsa.exe      the same with ECDSA on P-256
#   signed-sha1.exe       with SHA-1
#   signed-nested.exe     with SHA-1, and in that a signature with SHA-256
#   signed-timestamp.exe  with a timestamp of RFC 3161
#   signed-tampered.exe   with SHA-256, and changed afterwards
#
# and from vbs.S, which is beside this script:
#
#   vbs64.dll, vbs32.dll  enclaves
#   signed-vbs64.dll      signed with ECDSA and SHA-256, EKUs of an enclave, page hashes
#
# It needs openssl, osslsigncode and MinGW's compilers. Names, serial numbers and times
# are fixed. The keys are new each time and are thrown away, so that the certificates
# and signatures differ from those made before, though nothing in them that tests read.
set -eu
trustlet=$(realpath "$1")
out=$(pwd)
source=$(cd "$(dirname "$0")" && pwd)/vbs.S
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"

time=1767225600 # 2026-01-01
start=20250101000000Z
end=20450101000000Z

cat >ca.conf <<'END'
[ca]
default_ca = own
[own]
database = index.txt
serial = serial.txt
new_certs_dir = .
default_md = sha256
policy = any
unique_subject = no
[any]
commonName = supplied
[req]
distinguished_name = name
prompt = no
[name]
CN = placeholder
[trustlet]
keyUsage = critical, digitalSignature
extendedKeyUsage = codeSigning, 1.3.6.1.4.1.311.10.3.6, 1.3.6.1.4.1.311.10.3.37
[enclave]
keyUsage = critical, digitalSignature
extendedKeyUsage = codeSigning, 1.3.6.1.4.1.311.76.57.1.15, 1.3.6.1.4.1.311.10.3.42, 1.3.6.1.4.1.311.97.4294967296.2.3
[tsa]
keyUsage = critical, digitalSignature
extendedKeyUsage = critical, timeStamping
END

# certificate NAME SERIAL EXTENSIONS KEY...: NAME.key and NAME.pem
certificate() {
	name=$1 serial=$2 extensions=$3
	shift 3
	openssl genpkey "$@" -out "$name.key" 2>log || { cat log; return 1; }
	openssl req -new -config ca.conf -key "$name.key" -subj "/CN=vtx test $name" -out "$name.csr"
	: >index.txt
	echo "$serial" >serial.txt
	openssl ca -batch -config ca.conf -selfsign -keyfile "$name.key" -in "$name.csr" -out "$name.pem" \
		-extensions "$extensions" -startdate $start -enddate $end -notext 2>log || { cat log; return 1; }
}

certificate rsa 1001 trustlet -algorithm RSA -pkeyopt rsa_keygen_bits:2048
certificate ecdsa 1002 trustlet -algorithm EC -pkeyopt ec_paramgen_curve:P-256
certificate enclave 1003 enclave -algorithm EC -pkeyopt ec_paramgen_curve:P-256
certificate tsa 1004 tsa -algorithm RSA -pkeyopt rsa_keygen_bits:2048

# sign KEY HASH IN OUT FLAGS...
sign() {
	key=$1 hash=$2 in=$3 to=$4
	shift 4
	rm -f "$to"
	osslsigncode sign -certs "$key.pem" -key "$key.key" -h "$hash" -time $time "$@" -in "$in" -out "$to" >log || { cat log; return 1; }
}

sign rsa sha256 "$trustlet" "$out/signed-rsa.exe"
sign ecdsa sha256 "$trustlet" "$out/signed-ecdsa.exe"
sign rsa sha1 "$trustlet" "$out/signed-sha1.exe"
sign rsa sha256 "$out/signed-sha1.exe" "$out/signed-nested.exe" -nest
sign ecdsa sha256 "$trustlet" "$out/signed-timestamp.exe" -TSA-certs tsa.pem -TSA-key tsa.key -TSA-time $time

# The checksum of the DOS header does not matter to anything but the digest.
cp "$out/signed-rsa.exe" "$out/signed-tampered.exe"
printf '\125' | dd of="$out/signed-tampered.exe" bs=1 seek=18 conv=notrunc status=none

# bytes NUMBER: its 4 bytes from the lowest on, as printf writes them
bytes() {
	printf '\\%03o' $(($1 & 255)) $(($1 >> 8 & 255)) $(($1 >> 16 & 255)) $(($1 >> 24 & 255))
}

# enclave PREFIX BASE DIRECTORY SIZE SYMBOLS OUT: GNU ld 2.40 does not enter the load
# configuration of SIZE bytes into the data directory, DIRECTORY bytes behind the PE
# signature. SYMBOLS is what names of C begin with.
enclave() {
	"$1-gcc" -nostdlib -shared -Wl,--no-insert-timestamp,--image-base,"$2",-e,"$5entry" -o vbs.dll "$source"
	address=$("$1-nm" vbs.dll | sed -n "s/ [Rr] $5load_config\$//p")
	"$1-strip" -o stripped vbs.dll
	pe=$(od -An -tu4 -j60 -N4 stripped)
	# shellcheck disable=SC2059 # the format holds the bytes
	printf "$(bytes $((0x$address - $2)))$(bytes "$4")" |
		dd of=stripped bs=1 seek=$((pe + $3)) conv=notrunc status=none
	cp stripped "$6"
}
enclave x86_64-w64-mingw32 0x180000000 216 256 '' "$out/vbs64.dll"
enclave i686-w64-mingw32 0x10000000 200 160 _ "$out/vbs32.dll"
sign enclave sha256 "$out/vbs64.dll" "$out/signed-vbs64.dll" -ph
chmod 644 "$out"/signed-* "$out"/vbs*.dll
