# Shared by the GPU sessions beside this file: packages, several processes on one GPU, a deadline, and what comes back.
# Each script runs in the repository's root; $OUT is where results go, carried wheels in .whl* are installed if there.
set -u
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1
OUT=${OUT:-runs/gpu-results}; mkdir -p "$OUT" runs
wheels=$(ls .whl*/*.whl 2>/dev/null)
if [ -n "$wheels" ]; then
  site=$(mktemp -d)
  python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" $wheels || exit 1
  export PYTHONPATH=$site
fi
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
begun=$SECONDS
say() { echo "[$((SECONDS - begun)) s] $*"; }
scorefield() { python3 -m scorefield "$@"; }
# Many small processes share a GPU better through the multi-process service; without it they take turns.
start_mps() {
  [ -n "${CUDA_MPS_PIPE_DIRECTORY:-}" ] && { mps=shared; return; } # a caller's
  CUDA_MPS_PIPE_DIRECTORY=$(mktemp -d); CUDA_MPS_LOG_DIRECTORY=$(mktemp -d); export CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY
  if nvidia-cuda-mps-control -d 2>&1 && timeout 60 python3 -c 'import torch; torch.ones(2, device="cuda").sum().item()'; then
    say "multi-process service on"; mps=1
  else
    echo quit | nvidia-cuda-mps-control 2>/dev/null; unset CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY; mps=0
    say "no multi-process service: processes take turns"
  fi
}
stop_mps() { [ "${mps:-0}" = 1 ] && echo quit | nvidia-cuda-mps-control; }
# tree PID…: those processes and all that they started
tree() { local pid; for pid in "$@"; do echo "$pid"; tree $(pgrep -P "$pid"); done; }
# wait_until SECONDS: for the background jobs, at most until so many seconds after the start; then they get SIGTERM
wait_until() {
  while [ -n "$(jobs -rp)" ] && [ $((SECONDS - begun)) -lt "$1" ]; do sleep 1; done
  [ -n "$(jobs -rp)" ] || return 0
  local late; late=$(tree $(jobs -rp))
  say "deadline: stopping $(jobs -rp | wc -l) jobs"; kill $late 2>/dev/null; sleep 4; kill -9 $late 2>/dev/null
}
# summaries FILE…: seconds and figures before and after, of the summary.json that exist
summaries() {
  python3 - "$@" <<'P'
import json, os, sys
for path in filter(os.path.exists, sys.argv[1:]):
    s = json.load(open(path))
    told = ("frechet", "kid", "precision", "recall")
    print(path, s.get("wall_seconds"), *(f"{k}: " + " ".join(f"{m}={s[k][m]:.3f}" for m in told if s[k].get(m) is not None) for k in ("before", "after") if k in s))
P
}
# collect NAME FOLDER…: figures, settings, last pictures and logs of runs, without weights, as parts of at most 15 MB
collect() {
  local name=$1; shift
  { find "$@" \( -name summary.json -o -name config.yaml -o -name metrics.jsonl -o -name "*.csv" -o -name "*.md" -o -name "*.log" \
      -o -name comparison.json -o -name "*figures.json" -o -name training.json -o -name before.png -o -name after.png \) -size -3M
    for folder in $(find "$@" -type d -name samples); do ls -t "$folder"/*.png 2>/dev/null | head -n 2; done
  } | sort -u | tar -T - -czf - | split -b 15000000 - "$OUT/$name.tgz."
}
