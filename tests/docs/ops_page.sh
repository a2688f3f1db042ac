#!/usr/bin/env bash
# docs/ops.md is what `fathom ops --markdown` prints.   ops_page.sh FATHOM SOURCE_DIR
set -euo pipefail
"$1" ops --markdown | diff -u "$2/docs/ops.md" - || {
  echo "docs/ops.md is not up to date: build/release/apps/cli/fathom ops --markdown > docs/ops.md" >&2
  exit 1
}
