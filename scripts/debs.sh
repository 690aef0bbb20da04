#!/bin/sh
# debs.sh DIR PACKAGE...
#
# Unpacks the newest version that Debian 12 (bookworm, amd64) has of each package
# into DIR, as if it were the root of a file system. Nothing is installed, and no
# root is needed. Packages named linux-... bring along those of their dependencies
# that are named so too: linux-image-amd64 the kernel that is the newest now,
# linux-headers-amd64 all that a module is built with.
#
# What was fetched stays in ${XDG_CACHE_HOME:-~/.cache}/vtx/linux. Debian is asked
# what is new at most once a day, and without a network what is there will do. DIR
# is left alone if it holds the same packages already; if it holds others that came
# from here, it is made anew.
set -eu

[ $# -ge 2 ] || {
	echo 'usage: debs.sh DIR PACKAGE...' >&2
	exit 2
}
dir=$1
shift

keyring=/usr/share/keyrings/debian-archive-keyring.gpg
for need in apt-get:apt dpkg-deb:dpkg flock:util-linux; do
	command -v "${need%:*}" >/dev/null || {
		echo "debs.sh: missing to fetch Debian packages: ${need%:*}; install: ${need#*:}" >&2
		exit 1
	}
done
[ -f "$keyring" ] || {
	echo "debs.sh: missing to check Debian packages: $keyring; install: debian-archive-keyring" >&2
	exit 1
}

cache=${XDG_CACHE_HOME:-$HOME/.cache}/vtx/linux
mkdir -p "$cache/apt/lists/partial" "$cache/apt/archives/partial" "$cache/apt/none"
exec 9>"$cache/lock"
flock 9

# An apt of its own: the machine's lists may be of another release, older, or not
# there. Its proxy settings are kept; its pins and hooks are not.
cat >"$cache/apt/sources" <<END
deb [arch=amd64 target=Packages signed-by=$keyring] http://deb.debian.org/debian bookworm main
deb [arch=amd64 target=Packages signed-by=$keyring] http://deb.debian.org/debian bookworm-updates main
deb [arch=amd64 target=Packages signed-by=$keyring] http://deb.debian.org/debian-security bookworm-security main
END
: >"$cache/apt/status"
: >"$cache/apt/preferences"
cat >"$cache/apt/conf" <<END
#clear APT::Architectures;
#clear APT::Default-Release;
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear Acquire::Languages;
APT::Architecture "amd64";
APT::Architectures { "amd64"; };
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::GzipIndexes "false";
Dir::State "$cache/apt";
Dir::State::lists "$cache/apt/lists";
Dir::State::status "$cache/apt/status";
Dir::Cache "$cache/apt";
Dir::Cache::pkgcache "pkgcache.bin";
Dir::Cache::srcpkgcache "srcpkgcache.bin";
Dir::Cache::archives "$cache/apt/archives";
Dir::Etc::SourceList "$cache/apt/sources";
Dir::Etc::SourceParts "$cache/apt/none";
Dir::Etc::Preferences "$cache/apt/preferences";
Dir::Etc::PreferencesParts "$cache/apt/none";
END

# updated_today: whether Debian was asked less than a day ago
updated_today() {
	[ -n "$(find "$cache/apt/updated" -mtime -1 2>/dev/null)" ]
}

updated_today || {
	if apt-get -c "$cache/apt/conf" -qq --error-on=any update >"$cache/apt/log" 2>&1; then
		: >"$cache/apt/updated"
	elif [ -f "$cache/apt/updated" ]; then
		echo 'debs.sh: Debian cannot be asked what is new; what was known before is used' >&2
	else
		cat "$cache/apt/log" >&2
		echo 'debs.sh: the lists of Debian 12 cannot be fetched: is http://deb.debian.org within reach?' >&2
		exit 1
	fi
}

# dependencies PACKAGE: the packages named linux-... that it depends on, and those
# that they do
dependencies() {
	case $1 in
	linux-*)
		apt-cache -c "$cache/apt/conf" depends --recurse --important --no-pre-depends "$1" |
			sed -n 's/^\(linux-[a-z0-9.+-]*\)$/\1/p'
		;;
	esac
}

files=
for package in $(for p; do echo "$p"; dependencies "$p"; done | sort -u); do
	# The address is the one of the newest version.
	line=$(apt-get -c "$cache/apt/conf" -qq --print-uris download "$package") || {
		echo "debs.sh: Debian 12 has no package $package" >&2
		exit 1
	}
	# 'ADDRESS' FILE SIZE HASH
	file=$(echo "$line" | awk '{ print $2 }')
	files="$files $file"
	[ ! -f "$cache/$file" ] || continue
	echo "fetching $package" >&2
	rm -rf "$cache/partial"
	mkdir "$cache/partial"
	# Apt checks what it gets against the signed lists.
	(cd "$cache/partial" && apt-get -c "$cache/apt/conf" -qq download "$package") || {
		echo "debs.sh: $package cannot be fetched" >&2
		exit 1
	}
	mv "$cache/partial/$file" "$cache/$file"
done

[ ! -f "$dir/.debs" ] || [ "$(cat "$dir/.debs")" != "$files" ] || exit 0
if [ -f "$dir/.debs" ] || [ -f "$dir/.debs.partial" ]; then
	rm -rf "$dir"
elif [ -n "$(ls -A "$dir" 2>/dev/null)" ]; then
	echo "debs.sh: $dir holds other files; name a directory that is empty or not there" >&2
	exit 1
fi
mkdir -p "$dir"
: >"$dir/.debs.partial"
for file in $files; do
	dpkg-deb -x "$cache/$file" "$dir"
done
echo "$files" >"$dir/.debs.partial"
mv "$dir/.debs.partial" "$dir/.debs"
