#!/usr/bin/env bash
# Code in documents is cut from compiled files. A document says
#   <!-- cut: src/ops/scale/scale.cpp validate -->
# before a code block; the block holds what the file has between "// [doc:begin validate]" and "// [doc:end validate]".
#
#   tools/doc_regions.sh check     fails if a block differs from its file
#   tools/doc_regions.sh write     cuts every block anew
set -euo pipefail
cd "$(dirname "$0")/.."
mode=${1:-check}
case "$mode" in check | write) ;; *) echo "usage: tools/doc_regions.sh check|write" >&2; exit 2 ;; esac

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
blocks=0
stale=0
while IFS= read -r document; do
  awk '
    function cut(file, region,    line, inside, lines) {
      while ((getline line < file) > 0) {
        if (index(line, "// [doc:end " region "]")) inside = 0
        if (inside) { print line; ++lines }
        if (index(line, "// [doc:begin " region "]")) inside = 1
      }
      close(file)
      if (!lines) { print FILENAME ": " file " has no region " region > "/dev/stderr"; exit 1 }
    }
    skipping && /^```$/ { skipping = 0 }
    !skipping { print }
    pending && /^```/ { cut(file, region); skipping = 1; pending = 0 }
    /^<!-- cut: / { file = $3; region = $4; pending = 1 }
  ' "$document" >"$scratch/new"
  blocks=$((blocks + $(grep -c '^<!-- cut: ' "$document" || true)))
  if ! cmp -s "$document" "$scratch/new"; then
    if [ "$mode" = write ]; then
      cp "$scratch/new" "$document"
    else
      diff -u "$document" "$scratch/new" >&2 || true
      echo "$document differs from the code it shows; tools/doc_regions.sh write cuts it anew" >&2
      stale=1
    fi
  fi
done < <(find README.md docs -name '*.md')
[ "$blocks" -gt 0 ] || { echo "found no block to check" >&2; exit 1; }
echo "$blocks code blocks agree with the files they come from"
exit "$stale"
