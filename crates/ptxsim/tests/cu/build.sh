#!/bin/sh
# Compiles the sources of the committed PTX. Needs nvcc 13 (see the README); run in this folder.
set -e
out=${1:-../ptx}
mkdir -p "$out"
one() { nvcc -w -std=c++17 -ptx -O3 -gencode=arch=compute_$1,code=compute_$1 -o "$out/$3.ptx" $4 "$2.cu"; }
for f in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17; do one 80 faults faults$f -DFAULT=$f; done
for f in 0 1 2 3 4 5 6 7 8 9 10; do one 90a hopper_faults hopper_faults$f -DFAULT=$f; done
for k in simt warp atomics samples foreign; do one 80 $k $k.compute_80; one 90a $k $k.compute_90a; done
one 80 gemm gemm.compute_80
one 80 pairs pairs
one 90a hopper hopper.compute_90a
one 90a hopper_pairs hopper_pairs
