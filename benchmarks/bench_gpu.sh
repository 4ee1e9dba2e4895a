#!/bin/bash
# The lines of the table of speeds that need a GPU, in less than 8 minutes: bash benchmarks/bench_gpu.sh [PYTHON]
# Rows: a step (fixed batch, pipeline) as it is, recorded as a CUDA graph, and by deterministic algorithms; several runs on one
# card beside one after the other; five folds' worth of runs as notebook 04 trains them on DDTI, which has three times as many.
cd "$(dirname "$0")/.." || exit 1
python=${1:-.venv/bin/python}
export TQDM_DISABLE=1 PYTHONPATH=$PWD THYROID_WORKBOOK_CACHE=${THYROID_WORKBOOK_CACHE:-$(mktemp -d)}
failed=0
row() { timeout "$1" "$python" "${@:2}" 2>&1 | grep -E '^\||images/s: |Error' || { echo "| failed or cut off after $1 s: ${*:2} |"; failed=1; }; }

nvidia-smi --query-gpu=name,utilization.gpu,memory.used --format=csv,noheader
git describe --always --dirty 2>/dev/null; nproc
ways="plain cuda_graph deterministic"
row 90 benchmarks/bench_training.py --device cuda --model resnet18 --size 224 --batch 16 --batches 20 --rounds 8 --ways $ways
row 90 benchmarks/bench_training.py --device cuda --model unet_resnet18 --size 160 --batch 8 --batches 40 --rounds 8 --augmentation strong --ways $ways
runs="--device cuda --model unet_resnet18 --size 160 --batch 8 --patients 330"
row 150 benchmarks/bench_engine.py $runs --epochs 8 --runs 4
row 120 benchmarks/bench_engine.py $runs --epochs 40 --runs 5 --only-dask
exit $failed
