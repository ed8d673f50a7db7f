#!/bin/sh
# Puts the third-party headers into DIR/include and their licences into DIR/licenses, through apt, without root.
#
#   third_party.sh DIR
#
# The packages are header-only or used for their headers alone, so one suite serves every machine that has apt and a
# Debian mirror configured, whatever its own release. Each package is pinned by version and SHA-256: a changed byte is an error.
set -eu

dir=${1:?usage: third_party.sh DIR}
suite=trixie
# package version sha256
packages='
libonnxruntime-dev 1.21.0+dfsg-1 *
nlohmann-json3-dev 3.11.3-2.1 741a6a32f61a14eaf9560ba1814b27da8e78fa3b9bed9e8867ab46316ddf3793
libcli11-dev 2.4.1+ds-2 3b44d5a1edc75b413b2dddfa81bcf7dac05dae8dae502e7d818d9c2b03392023
doctest-dev 2.4.11-1 a41b0d152b707310f40c60658d44f1baf51451f094c3b3e6aaa7e077b3ee005e
libstb-dev 0.0~git20241109.5c20573+ds-1 36fbe0c268c76daa655180ea3c9933afc41c6449ec5e53ef3d4907b516147650
'
# libonnxruntime-dev is built per architecture, so its package hash differs; its header is pinned instead.
onnxruntime_header_sha256=7783e9664bdb0b1b36145b5c8587dd1bc9a399aa000edf2e3dd03003cafc6882

fail() {
  echo "third_party.sh: $1" >&2
  exit 10
}

command -v apt-get >/dev/null 2>&1 || fail "apt-get is not here"
command -v dpkg >/dev/null 2>&1 || fail "dpkg is not here"

# The machine's own Debian mirror: by the label of its release file, else (no lists yet) by the end of its address.
mirror=$(apt-get indextargets --format '$(LABEL)|$(REPO_URI)' 'Created-By: Packages' 2>/dev/null | sed -n 's/^Debian|//p' | head -n 1)
[ -n "$mirror" ] || mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null | grep '/debian/*$' | head -n 1)
[ -n "$mirror" ] || fail "apt has no Debian mirror configured"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -r "$keyring" ] || fail "$keyring is missing (package debian-archive-keyring)"

mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
work=$(mktemp -d "$dir/.fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/debs" "$work/root"
echo "deb [signed-by=$keyring] $mirror $suite main" >"$work/sources.list"
apt() {
  apt-get -qq -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=/dev/null \
    -o Dir::State::Lists="$work/lists" -o Dir::Cache="$work/cache" -o APT::Sandbox::User="$(id -un)" "$@"
}
apt update || fail "could not read $suite from the configured mirror"

cd "$work/debs"
echo "$packages" | while read -r package version sha256; do
  [ -n "$package" ] || continue
  rm -f "${package}"_*.deb
  apt download "$package=$version" || fail "could not download $package $version"
  if [ "$sha256" != '*' ]; then
    echo "$sha256  $(echo "${package}"_*.deb)" | sha256sum --check --quiet - >&2 || fail "$package $version has another SHA-256 than the pinned one"
  fi
  dpkg -x "${package}"_*.deb "$work/root"
done
echo "$onnxruntime_header_sha256  $work/root/usr/include/onnxruntime/onnxruntime_c_api.h" |
  sha256sum --check --quiet - >&2 || fail "onnxruntime_c_api.h has another SHA-256 than the pinned one"

mkdir -p "$work/out/include" "$work/out/licenses"
cp -R "$work/root/usr/include/nlohmann" "$work/root/usr/include/CLI" "$work/root/usr/include/doctest" "$work/out/include/"
mkdir -p "$work/out/include/onnxruntime" "$work/out/include/stb"
cp "$work/root/usr/include/onnxruntime/onnxruntime_c_api.h" "$work/out/include/onnxruntime/"
cp "$work/root/usr/include/stb/stb_image.h" "$work/out/include/stb/"
for doc in "$work"/root/usr/share/doc/*; do
  [ ! -f "$doc/copyright" ] || cp "$doc/copyright" "$work/out/licenses/$(basename "$doc").txt"
done
rm -rf "$dir/include" "$dir/licenses"
mv "$work/out/licenses" "$dir/licenses"
mv "$work/out/include" "$dir/include"
