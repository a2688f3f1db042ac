#!/usr/bin/env bash
# Installs a build into a fresh folder and builds a consumer against it; then a consumer of the source tree.
#
#   tests/package/run.sh BUILD_DIR
set -euo pipefail
source=$(cd "$(dirname "$0")/../.." && pwd)
build=$(cd "$1" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

echo "find_package consumer"
cmake --install "$build" --prefix "$scratch/prefix" >/dev/null
cmake -S "$source/tests/package" -B "$scratch/installed" -G Ninja -DCMAKE_PREFIX_PATH="$scratch/prefix" >/dev/null
cmake --build "$scratch/installed"
"$scratch/installed/consumer"
"$scratch/prefix/bin/fathom" --version

# Without optimisation: this asks whether the tree builds inside of another project, not how fast it is.
echo "add_subdirectory consumer"
launcher=()
command -v ccache >/dev/null && launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
cmake -S "$source/tests/package" -B "$scratch/subdirectory" -G Ninja -DFATHOM_SOURCE="$source" \
  -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG=-O0 "${launcher[@]}" >/dev/null
cmake --build "$scratch/subdirectory" --target consumer
"$scratch/subdirectory/consumer"
