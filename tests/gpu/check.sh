#!/usr/bin/env bash
# What only a GPU can show, in under eight minutes: prints a table for docs/benchmarks.md; exit code 1 where a check failed.
# Without a GPU everything runs at tiny size, and the lines that need one say "not run".
#   bash tests/gpu/check.sh [--minutes 8] [--only draws,bf16]      PYTHON=... names another interpreter
set -euo pipefail
cd "$(dirname "$0")/../.."
PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 exec "${PYTHON:-python3}" tests/gpu/checks.py "$@"
