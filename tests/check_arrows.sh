#!/usr/bin/env bash
# Knowledge goes one way: core <- cuda <- jit <- ops <- engine <- apps, and in kernels/ layout <- ptx <- simt <-
# sm90. Every #include of every folder is checked against the list of what that folder may know. Prints each
# offence; exits 1 if there is one.
set -euo pipefail
cd "${1:-$(dirname "$0")/..}"
offences=0
checked=0

# may FOLDER REGEX: every #include "..." under FOLDER matches REGEX.
may() {
  [ -d "$1" ] || return 0
  local found
  while IFS= read -r found; do
    checked=$((checked + 1))
    local name=${found#*\"}
    name=${name%%\"*}
    if ! printf '%s\n' "$name" | grep -qE "^($2)"; then
      echo "${found%%:*}: $1 may not include \"$name\"" >&2
      offences=$((offences + 1))
    fi
  done < <(grep -rHE '^[[:space:]]*#[[:space:]]*include[[:space:]]*"' "$1" --include='*.[ch]pp' --include='*.cuh' --include='*.in' || true)
}

# never FOLDER REGEX WHY: no line under FOLDER matches.
never() {
  [ -d "$1" ] || return 0
  local found
  while IFS= read -r found; do
    echo "$found: $3" >&2
    offences=$((offences + 1))
  done < <(grep -rnHE "$2" "$1" --include='*.[ch]pp' --include='*.cuh' || true)
}

may include/fathom/core 'fathom/core/'
may include/fathom/cuda 'fathom/(core|cuda)/'
may include/fathom/ops 'fathom/(core|ops)/'
may include/fathom/engine 'fathom/(core|ops|engine)/'
may src/core 'core/|fathom/core/'
may src/cuda 'core/|cuda/|fathom/(core|cuda)/'
may src/jit 'core/|cuda/|jit/|fathom/(core|cuda)/'
may src/cpu 'core/|cpu/|fathom/(core|ops)/|ops/[a-z_]+\.hpp'
may src/ops 'core/|cpu/|cuda/|jit/|layout/|ops/|fathom/(core|cuda|ops)/|bench\.hpp'
may src/engine 'core/|engine/|fathom/(core|ops|engine)/'
may kernels/layout 'layout/'
may kernels/ptx 'layout/|ptx/'
may kernels/simt 'layout/|ptx/|simt/'
may kernels/sm90 'layout/|ptx/|simt/|sm90/'
may apps 'fathom/|core/(file|json)\.hpp|engine/loader/safetensors_writer\.hpp|[a-z_]+\.hpp'

never include '#[[:space:]]*include[[:space:]]*<(cuda|nvrtc|cublas|tbb|hwy|fmt|spdlog|nlohmann|pcre2|CLI|benchmark)' \
  "a public header needs no other project's headers"
never src '#[[:space:]]*include[[:space:]]*<(cuda|nvrtc|cublas)' "CUDA is declared by src/cuda, never included"
never src/engine '#[[:space:]]*include[[:space:]]*<(hwy|immintrin|tbb)' "the engine calls ops; it holds no kernel"
never src/engine '#[[:space:]]*if.*(CUDA|__AVX|__SSE)' "the engine is the same on every device"
never kernels/layout '__device__|__global__|__shared__' "the host compiles it too"
for folder in layout simt sm90; do
  never "kernels/$folder" '(^|[^[:alnum:]_])asm([^[:alnum:]_]|$)' "assembly has one home, kernels/ptx"
done
never apps '#[[:space:]]*include[[:space:]]*<(hwy|immintrin|tbb|cmath|numeric)' "an app parses arguments and does I/O"

if [ "$checked" -eq 0 ]; then
  echo "check_arrows: found no #include at all; is this the project's folder?" >&2
  exit 1
fi
echo "$checked includes checked, $offences against the arrows"
[ "$offences" -eq 0 ]
