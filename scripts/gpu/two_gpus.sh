#!/usr/bin/env bash
# Two GPUs, two minutes: the default run in one process, in two, and in shares, whose losses must agree; then iterations of
# PixArt-XL 512 with random weights, 8 samples a GPU, on one GPU and on two, whole and in shares.
#   bash scripts/gpu/two_gpus.sh
# SMALL=1 rehearses it on a CPU: SMALL=1 bash scripts/gpu/two_gpus.sh
. scripts/gpu/common.sh
export OMP_NUM_THREADS=4
deadline=${deadline:-150} place="training.device=cuda" small="" most=${most:-70}
if [ -n "${SMALL:-}" ]; then
  export OMP_NUM_THREADS=1; place="training.device=cpu training.precision=fp32" small=--reduced deadline=${deadline_small:-400} most=180
else
  nvidia-smi --query-gpu=name,memory.total --format=csv,noheader
fi
few="training.iterations=${ITERATIONS:-40} training.log_every=10 checkpoints.every=${ITERATIONS:-40} evaluation.samples=32 evaluation.running=0"
few="$few evaluation.teacher_steps=8 evaluation.judge=none"
ranks="torchrun --standalone --nproc_per_node=2"
timed_iterations() { # name launcher…
  local name=$1 left=$((deadline - (SECONDS - begun))); shift
  if [ "$left" -lt 10 ]; then say "no time left for ranks-$name"; return; fi
  timeout -k 5 $((most < left ? most : left)) "$@" --config pixart_512 $small --iterations ${BENCH_ITERATIONS:-5} \
    --out runs/ranks-$name.json $place training.batch=${BATCH:-16} 2>runs/ranks-$name.log || tail -n 4 runs/ranks-$name.log | cut -c1-300
  say "ranks-$name"
}
# the three runs share the GPUs: their losses are compared, not their times
CUDA_VISIBLE_DEVICES=${ONE:-0} timeout $most python3 -m scorefield run text_to_image $few $place --out runs/one >runs/one.log 2>&1 &
for kind in none fsdp2; do
  timeout $most $ranks -m scorefield run text_to_image $few $place training.sharding=$kind --out runs/two-$kind >runs/two-$kind.log 2>&1 &
done
wait
say "three runs"
python3 - <<'P'
import json, pathlib
def lines(name):
    file = pathlib.Path("runs", name, "metrics.jsonl")
    found = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [line for line in found if "loss/generator" in line]
names = ("loss/generator", "loss/online", "x0_gap/rms", "grad_norm/generator", "grad_norm/online")
one = lines("one")
for run in ("two-none", "two-fsdp2"):
    two = lines(run)
    if not one or not two:
        print(run, "or the run of one process left no figures")
        continue
    for place, most in ((0, 1e-3), (-1, 1e-2)):
        a, b = one[place], two[place]
        apart = {k: abs(a[k] - b[k]) / max(abs(a[k]), 1e-6) for k in names if k in a and k in b}
        verdict = "equal" if a["iteration"] == b["iteration"] and max(apart.values()) < most else "DIFFERENT"
        print(f"{run} iteration {b['iteration']}: {verdict}", *(f"{k} {a[k]:.6g} {b[k]:.6g} ({v:.1e})" for k, v in apart.items()))
P
for name in one two-none two-fsdp2; do [ -d runs/$name ] || { echo "$name:"; tail -n 4 runs/$name.log | cut -c1-300; }; done
timed_iterations two $ranks scripts/ranks_speed.py training.accumulation=1 --sharding none fsdp2
CUDA_VISIBLE_DEVICES=${ONE:-0} timed_iterations one python3 scripts/ranks_speed.py training.accumulation=2
cp runs/ranks-*.json "$OUT"/ 2>/dev/null
collect two-gpus runs/one runs/two-* runs/*.log
ls -la "$OUT"
