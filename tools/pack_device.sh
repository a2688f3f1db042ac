#!/usr/bin/env bash
# Packs the programs that need a GPU, with the shared libraries of ours that they need, into build/device/: that folder
# runs on a machine that has a driver and a C library at least as new as this one's, and none of our packages.
#
#   tools/pack_device.sh [BUILD]     BUILD is a configured and built folder, build/release by default
#
# build/device/run PROGRAM ARGUMENTS... starts one of them; build/device/problems holds what `fathom bench` times. The C
# library itself and what belongs to it come from the other machine, as do the driver, NVRTC, cuBLASLt and CUPTI.
set -euo pipefail
cd "$(dirname "$0")/.."
build=${1:-build/release}
out=build/device
programs=("$build/tests/device_test" "$build/apps/cli/fathom" "$build/tests/ops_test")

rm -rf "$out"
mkdir -p "$out/lib" "$out/runtime"
for program in "${programs[@]}"; do
  [ -x "$program" ] || { echo "$program is missing: cmake --build $build" >&2; exit 1; }
  cp "$program" "$out/"
  # Not carried: the loader and the C library, which only work as one set with the machine's own.
  while read -r name _ path _; do
    case $name in
      linux-vdso* | /*ld-linux* | libc.so* | libm.so* | libdl.so* | libpthread.so* | librt.so*) continue ;;
    esac
    [ -f "$path" ] || { echo "$program needs $name, which this machine lacks" >&2; exit 1; }
    case $name in
      libstdc++* | libgcc_s*) cp -L "$path" "$out/runtime/$name" ;;
      *) cp -L "$path" "$out/lib/$name" ;;
    esac
  done < <(ldd "$program")
done
strip "$out"/lib/*.so* "$out"/runtime/*.so* "$out/device_test" "$out/fathom" "$out/ops_test"

mkdir "$out/problems"
cp bench/problems/*.txt "$out/problems/"

cat >"$out/run" <<'RUN'
#!/bin/sh
# run PROGRAM ARGUMENTS...: with the libraries beside it; the compiler's own only where the machine has none.
here=$(cd "$(dirname "$0")" && pwd)
program=$1
shift
libraries=$here/lib
/sbin/ldconfig -p 2>/dev/null | grep -q 'libstdc++\.so\.6' || libraries=$libraries:$here/runtime
LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$libraries" exec "$here/$program" "$@"
RUN
chmod +x "$out/run"
du -sh "$out"
