#!/bin/sh
# Compiles cu/*.cu to ptx/*.ptx and writes the hash of each source beside it. Needs nvcc 13 on PATH:
#   pip install --no-deps nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 \
#     nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85
#   export CUDA_HOME=<site-packages>/nvidia/cu13 PATH=<site-packages>/nvidia/cu13/bin:$PATH
# usage: build.sh [--out FOLDER] [NAME…]      all files, or those named (gemm, or gemm.sm90a)
set -eu
cd "$(dirname "$0")"
out=ptx
if [ "${1:-}" = --out ]; then out=$2; shift 2; fi
mkdir -p "$out"
[ $# -gt 0 ] || set -- $(cd cu && ls ./*.cu | sed 's|^\./||; s|\.cu$||')
for name; do
  # NAME.sm90a.cu is for Hopper alone; everything else runs from Ampere on. nvcc stamps its own version into the PTX,
  # which would shut out every older driver: lowered to what the code needs; ptxas says so if it needs more.
  case $name in
    *.sm90a) arch=90a version=8.0 ;;
    *) arch=80 version=7.0 ;;
  esac
  nvcc -std=c++17 -O3 -ptx -Werror all-warnings -gencode=arch=compute_$arch,code=compute_$arch -o "$out/$name.ptx" "cu/$name.cu"
  # `used_bytes_mask` only helps the optimiser, and needs 8.3.
  sed -i -e "s/^\.version .*/.version $version/" -e "/pragma \"used_bytes_mask/d" "$out/$name.ptx"
  # What the PTX was made of: the headers it includes, in their order, then the file.
  (cd cu && sed -n 's/^#include "\(.*\)"$/\1/p' "$name.cu" | xargs -r cat && cat "$name.cu") >"$out/$name.tmp"
  sha256sum <"$out/$name.tmp" | cut -d' ' -f1 >"$out/$name.sha256"
  rm "$out/$name.tmp"
done
