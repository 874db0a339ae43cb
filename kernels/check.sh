#!/bin/sh
# Assembles every committed PTX for every GPU it is for, without a warning, a spill or local memory, and compares what
# ptxas used with the record: resources.txt (registers and shared memory; both may only change on purpose), and, where
# nvdisasm is on PATH, sass.txt (tensor-core, asynchronous-copy and local-memory instructions). With nvcc on PATH,
# recompiles every source and compares bytes.
# usage: check.sh [--write]      needs ptxas 13; --write makes a new record
set -eu
cd "$(dirname "$0")"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

for ptx in ptx/*.ptx; do
  name=$(basename "$ptx" .ptx)
  case $name in
    *.sm90a) archs=90a ;;
    *) archs="80 86 89 90 100 120" ;;
  esac
  for arch in $archs; do
    ptxas -v -arch=sm_$arch -Werror --warn-on-spills --warn-on-local-memory-usage "$ptx" -o "$tmp/cubin" 2>"$tmp/log" ||
      { cat "$tmp/log" >&2; exit 1; }
    awk -v file="$name" -v arch="sm_$arch" '
      /Compiling entry function/ { split($0, q, "\047"); kernel = q[2] }
      /Used [0-9]+ registers/ {
        smem = 0
        for (i = 1; i <= NF; i++) if ($i == "smem," || $i == "smem") smem = $(i - 2)
        match($0, /Used [0-9]+/)
        print file, kernel, arch, substr($0, RSTART + 5, RLENGTH - 5), smem
      }' "$tmp/log" >>"$tmp/resources"
    if command -v nvdisasm >/dev/null; then
      nvdisasm "$tmp/cubin" | awk -v file="$name" -v arch="sm_$arch" '
        { while (match($0, /(HMMA|HGMMA|LDSM|LDGSTS|UTMALDG|LDL|STL)[.A-Z0-9_]*/)) {
            count[substr($0, RSTART, RLENGTH)]++; $0 = substr($0, RSTART + RLENGTH) } }
        END { for (op in count) print file, arch, op, count[op] }' >>"$tmp/sass"
    fi
  done
done
{ echo "file kernel arch registers shared"; LC_ALL=C sort "$tmp/resources"; } >"$tmp/resources.txt"
{ echo "file arch instruction count"; LC_ALL=C sort "$tmp/sass" 2>/dev/null || true; } >"$tmp/sass.txt"
if grep -E ' (LDL|STL)' "$tmp/sass.txt"; then echo "local memory is used" >&2; exit 1; fi

if [ "${1:-}" = --write ]; then
  cp "$tmp/resources.txt" resources.txt
  command -v nvdisasm >/dev/null && cp "$tmp/sass.txt" sass.txt
else
  diff resources.txt "$tmp/resources.txt" || { echo "resources.txt differs: if it should, kernels/check.sh --write" >&2; exit 1; }
  if command -v nvdisasm >/dev/null; then
    diff sass.txt "$tmp/sass.txt" || { echo "sass.txt differs: if it should, kernels/check.sh --write" >&2; exit 1; }
  else
    echo "no nvdisasm: instructions were not counted"
  fi
fi

if command -v nvcc >/dev/null; then
  ./build.sh --out "$tmp/ptx"
  diff -r ptx "$tmp/ptx" >/dev/null || { echo "recompiling gives other PTX: run kernels/build.sh" >&2; exit 1; }
  echo "recompiling gives the committed bytes"
else
  echo "no nvcc: nothing was recompiled"
fi
echo "$(ls ptx/*.ptx | wc -l) files assemble for every GPU without spills"
