#!/usr/bin/env bash
# `predict --onnx` in a fresh environment without PyTorch: benchmarks/without_torch.sh EXPORTED_DIR IMAGE...
set -euo pipefail
exported="$1"; shift
project="$(cd "$(dirname "$0")/.." && pwd)"
work="$(mktemp -d)"; trap 'rm -rf "$work"' EXIT
git -C "$project" archive HEAD | tar -x -C "$work" --one-top-level=source
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$work/source[predict]"
"$work/venv/bin/python" -m pip list --disable-pip-version-check | tee "$work/packages"
if grep -qiE '^(torch|lightning|timm|monai|seaborn) ' "$work/packages"; then echo "PyTorch is among them"; exit 1; fi
du -sm "$work/venv" | cut -f1 | sed 's/$/ MB/'
"$work/venv/bin/thyroid-workbook" predict "$@" --onnx "$exported" --out "$work/out"
cat "$work/out/findings.csv"
