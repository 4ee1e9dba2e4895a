#!/bin/bash
# The lines of the table of speeds that need a GPU, in less than 8 minutes: bash benchmarks/bench_gpu.sh [PYTHON]
# Rows: a step (fixed batch, pipeline) as it is, recorded as a CUDA graph, and by deterministic algorithms; the same work by smp with
# albumentations and by MONAI; several runs on one card beside one after the other; five folds' worth of runs as notebook 04 trains
# them on DDTI, which has three times as many. TRY=1 runs every line with tiny sizes on a CPU, where the numbers mean nothing.
cd "$(dirname "$0")/.." || exit 1
python=${1:-.venv/bin/python}
export TQDM_DISABLE=1 PYTHONPATH=$PWD:$PYTHONPATH THYROID_WORKBOOK_CACHE=${THYROID_WORKBOOK_CACHE:-$(mktemp -d)}
failed=0
row() { timeout "$1" "$python" "${@:2}" 2>&1 | tr '\r' '\n' | grep -E '^\||images/s: |Error' || { echo "| failed or cut off after $1 s: ${*:2} |"; failed=1; }; }
if [ "$TRY" ]; then
    small="--device cpu --size 32 --batch 2"  # of an option given twice, the last counts
    steps="$small --batches 2 --rounds 1" runs="$small --patients 20 --epochs 1 --runs 2"
else
    nvidia-smi --query-gpu=name,utilization.gpu,memory.used --format=csv,noheader
fi
git describe --always --dirty 2>/dev/null; nproc
ways="--ways plain cuda_graph deterministic"
unet="--device cuda --size 160 --batch 8"
row 80 benchmarks/bench_training.py --device cuda --model resnet18 --size 224 --batch 16 --batches 20 --rounds 8 $ways $steps
row 80 benchmarks/bench_training.py $unet --model unet_resnet18 --batches 40 --rounds 8 --augmentation strong $ways $steps
row 70 benchmarks/bench_libraries.py $unet --batches 20 --rounds 3 $steps
row 130 benchmarks/bench_engine.py $unet --model unet_resnet18 --patients 330 --epochs 8 --runs 4 $runs
row 110 benchmarks/bench_engine.py $unet --model unet_resnet18 --patients 330 --epochs 40 --runs 5 --only-dask $runs
exit $failed
