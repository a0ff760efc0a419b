#!/bin/bash
# What a machine with a GPU is asked, in one go of 12 minutes; everything goes to one folder.
#
#   bash tools/gpu_session.sh OUT [--dry-run] [--minutes 12] [--store STORE]
#
# Installs, runs the CUDA tests, the latency tables, a training benchmark, and trains the PlayTable
# policy that sees pictures for the time that is left. A part that fails is noted and the next one
# runs. --dry-run: the same parts at their smallest on a CPU, to see that each of them starts.
set -u
cd "$(dirname "$0")/.." || exit 1
out= dry=0 minutes=12 store=
while [ $# -gt 0 ]; do
  case $1 in
    --dry-run) dry=1 ;;
    --minutes) minutes=$2; shift ;;
    --store) store=$2; shift ;;
    -*) echo "gpu_session: $1 is not an option" >&2; exit 2 ;;
    *) out=$1 ;;
  esac
  shift
done
if [ -z "$out" ]; then
  echo "gpu_session: name a folder: bash tools/gpu_session.sh OUT" >&2
  exit 2
fi
mkdir -p "$out" || exit 2
out=$(cd "$out" && pwd)
python=${PYTHON:-.venv/bin/python}
began=$(date +%s)

left() { echo $((minutes * 60 - ($(date +%s) - began))); }

# part NAME SECONDS COMMAND...: its output to NAME.log, its status and time to parts.tsv
part() {
  local name=$1 most=$2 start status
  shift 2
  [ "$most" -le "$(left)" ] || most=$(left)
  if [ "$most" -le 5 ]; then
    printf '%s\tskipped\t0\n' "$name" >> "$out/parts.tsv"
    return
  fi
  start=$(date +%s)
  echo "$name: at most $most s"
  timeout -k 10 "$most" "$@" > "$out/$name.log" 2>&1
  status=$?
  printf '%s\t%s\t%s\n' "$name" "$status" $(($(date +%s) - start)) >> "$out/parts.tsv"
}

: > "$out/parts.tsv"
if [ $dry -eq 0 ]; then
  part machine 20 nvidia-smi
  part install 240 make install
  part cuda_tests 150 "$python" -m pytest -q -m "not slow" -k "cuda or graph or device" \
    tests/policy
  part latency 120 "$python" benchmarks/latency.py --sizes small mode mdtv rdt rdt_1b \
    --steps 1 2 5 10 --precision bf16 w8a8
  part runtimes 60 "$python" benchmarks/runtimes.py --sizes small mode --steps 2
else
  part machine 20 "$python" -c "import torch; print(torch.__version__, torch.cuda.is_available())"
  part cuda_tests 120 "$python" -m pytest -q tests/policy/inference/test_device_alone.py
  part latency 60 "$python" benchmarks/latency.py --sizes small --steps 1 --precision
  part runtimes 120 "$python" benchmarks/runtimes.py --sizes small --steps 1
fi

bin=$(dirname "$python")
if [ -z "$store" ]; then
  store=$out/demos.zarr
  which=("env=playtable" "scenes=[D]" episodes_per_task=10)
  [ $dry -eq 0 ] || which=("tasks=[playtable/open_drawer]" episodes_per_task=1)
  part collect 180 "$bin/collect-demos" "${which[@]}" state=robot out="$store" \
    "cameras=[static,gripper]" "image_size=[64,64]"
fi
recipe=(experiment=playtable_image policy=mdt "data.stores=[$store]" data.held_out=0)
steps=$([ $dry -eq 1 ] && echo 2 || echo 200)
part throughput 60 "$bin/train-policy" "${recipe[@]}" out="$out/throughput" steps="$steps"
[ $dry -eq 0 ] && steps=20000
part train "$(left)" "$bin/train-policy" "${recipe[@]}" out="$out/playtable_image" \
  checkpoint_every=200 steps="$steps"
cat "$out/parts.tsv"
