#!/bin/sh
# Prints the Python to use: the first with pip that is 3.11 or newer. The system's own comes first: distributions build
# theirs with profile-guided optimisation, and a plain build of CPython runs the gateway at about two thirds of the speed.
for name in /usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11; do
    path=$(command -v "$name") || continue
    "$path" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
    "$path" -m pip --version >/dev/null 2>&1 || continue
    echo "$path"
    exit 0
done
