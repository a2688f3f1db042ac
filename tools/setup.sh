#!/usr/bin/env bash
# Makes sure that the system packages Fathom needs are there, and installs what is missing where it can.
#
#   tools/setup.sh build     what ./run needs
#   tools/setup.sh test      the same and NVRTC, which the tests compile every kernel with: no GPU, no toolkit
#   tools/setup.sh ci        the same and what only .ci/run needs
#
# NVRTC 13 is taken from this system; where it has none, a Python wheel goes into build/nvrtc.
# Exits 0 when everything is there. Otherwise prints the exact list of what is missing and exits 1.
set -euo pipefail

build_packages=(g++ cmake ninja-build pkg-config libtbb-dev libfmt-dev libspdlog-dev libhwy-dev libcli11-dev
                libpcre2-dev nlohmann-json3-dev libbenchmark-dev libgtest-dev libgmock-dev)
# The formatter's version is named because every version formats a little differently; both systems have 14.
ci_packages=(git clang-format-14 clang)

say() { printf 'setup: %s\n' "$*" >&2; }

# The sanitizer and fuzzer run time of the clang that the distribution calls clang.
clang_runtime() {
  local id="" version=""
  if [ -r /etc/os-release ]; then
    id=$(. /etc/os-release && echo "${ID:-}")
    version=$(. /etc/os-release && echo "${VERSION_ID:-}")
  fi
  case "$id $version" in
    "ubuntu 24.04") echo libclang-rt-18-dev ;;
    *) echo libclang-rt-14-dev ;;  # Debian 12
  esac
}

have_nvrtc() {
  compgen -G 'build/nvrtc/nvidia/*/lib/libnvrtc.so.13' >/dev/null || [ -e /usr/local/cuda/lib64/libnvrtc.so.13 ] ||
    { command -v ldconfig >/dev/null && ldconfig -p | grep -q 'libnvrtc\.so\.13 '; }
}

have_pip() { python3 -m pip --version >/dev/null 2>&1; }

mode=${1:-}
case "$mode" in
  build) wanted=("${build_packages[@]}") ;;
  test) wanted=("${build_packages[@]}") ;;
  ci) wanted=("${build_packages[@]}" "${ci_packages[@]}" "$(clang_runtime)") ;;
  *)
    say "usage: tools/setup.sh build|test|ci"
    exit 2
    ;;
esac
cd "$(dirname "$0")/.."
get_nvrtc=false
[ "$mode" = build ] || have_nvrtc || get_nvrtc=true
! $get_nvrtc || have_pip || wanted+=(python3-pip)

# To a folder beside its place first: a download that stops half-way leaves nothing that looks whole.
finish() {
  $get_nvrtc || exit 0
  say "getting NVRTC into build/nvrtc (90 MB, once)"
  rm -rf build/nvrtc.new
  mkdir -p build
  python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps \
    --only-binary :all: --require-hashes --target build/nvrtc.new -r tools/nvrtc.txt >&2 || {
    say "NVRTC could not be had; the tests that compile kernels will fail."
    [ "$mode" = test ] && exit 0 || exit 1
  }
  rm -rf build/nvrtc
  mv build/nvrtc.new build/nvrtc
  exit 0
}

give_up() {
  say "$1"
  say "Fathom needs these packages of Debian 12 or Ubuntu 24.04 (elsewhere: what they are called there):"
  printf '  %s\n' "${missing[@]}" >&2
  say "as root: apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
  exit 1
}

missing=("${wanted[@]}")
command -v dpkg-query >/dev/null && command -v apt-get >/dev/null ||
  give_up "this system does not use Debian packages, so nothing was installed."

missing=()
for package in "${wanted[@]}"; do
  dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || finish

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  # Without a terminal nobody can type a password.
  command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; } ||
    give_up "packages are missing, and this user is neither root nor may use sudo."
  as_root=(sudo)
fi
say "installing ${#missing[@]} packages with ${as_root[*]:+sudo }apt-get: ${missing[*]}"
"${as_root[@]}" apt-get update -qq >&2 || say "apt-get update failed; trying with the lists that are there"
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2 || give_up "apt-get install failed."
finish
