#!/bin/sh
# Makes FOLDER/libcuda.so and libcuda.so.1 as links to the built stand-in, for LD_LIBRARY_PATH.
# usage: link.sh LIBRARY FOLDER      e.g. link.sh target/release/libptxsim_driver.so target/fake-cuda
set -e
[ -f "$1" ] && [ -n "$2" ] || { echo "usage: $0 LIBRARY FOLDER" >&2; exit 1; }
lib=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
mkdir -p "$2"
ln -sf "$lib" "$2/libcuda.so"
ln -sf "$lib" "$2/libcuda.so.1"
