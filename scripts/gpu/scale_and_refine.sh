#!/usr/bin/env bash
# Two GPUs, eight and a half minutes: what an iteration of the presets costs, shards against copies, tests that need CUDA,
# and refinements at high noise, at the size of a GPU's run and of a CPU's.
#   GANS=FOLDER bash scripts/gpu/scale_and_refine.sh        # FOLDER as refine.sh takes it
. scripts/gpu/common.sh
GANS=$(realpath "${GANS:-runs/gans}")
P=$GANS/plain-wide/G_ema A=$GANS/augment-fast/G_ema
nvidia-smi --query-gpu=name,memory.total --format=csv,noheader
mkdir -p runs/bench
time_preset() { # gpu seconds preset overrides…
  local gpu=$1 most=$2 preset=$3; shift 3
  CUDA_VISIBLE_DEVICES=$gpu OMP_NUM_THREADS=8 timeout $most python3 -m scorefield bench --config $preset --json --rounds 3 training.device=cuda "$@" \
    >runs/bench/bench-$preset.json 2>runs/bench/bench-$preset.err || echo "bench $preset: $? $(tail -n 1 runs/bench/bench-$preset.err | cut -c1-300)"
}
four="training.batch=16 training.accumulation=4"
{ time_preset 0 60 pixart_512 $four; time_preset 0 60 sd15 $four; } &
{ time_preset 1 60 pixart_512_lora $four; time_preset 1 60 sdxl_lora training.batch=4 training.accumulation=4; } &
wait_until 125
say "benches: $(ls -s runs/bench/*.json | tr '\n' ' ')"
few="training.iterations=40 training.log_every=10 checkpoints.every=20 evaluation.samples=32 evaluation.running=0 evaluation.teacher_steps=8 training.device=cuda"
CUDA_VISIBLE_DEVICES=0 timeout 60 python3 -m scorefield run text_to_image $few --out runs/one >runs/one.log 2>&1 &
for kind in none fsdp2; do
  timeout 70 torchrun --standalone --nproc_per_node=2 -m scorefield run text_to_image $few training.sharding=$kind --out runs/two-$kind >runs/two-$kind.log 2>&1 || tail -n 5 runs/two-$kind.log
done
wait
for name in one two-none two-fsdp2; do echo "$name: $(tail -n 1 runs/$name/metrics.jsonl | cut -c1-420)"; done
say "processes done"
start_mps
CUDA_VISIBLE_DEVICES=0 timeout 120 python3 -m pytest -q -p no:cacheprovider -m gpu tests >runs/cuda-tests.log 2>&1 &
turn=0
common="training.device=cuda checkpoints.every=5000 evaluation.samples=5000"
one() { # name gan|- batch warm-up iterations overrides…
  local name=$1 path=$2 batch=$3 warm=$4 iterations=$5; shift 5; turn=$((1 - turn))
  local given=""; [ "$path" != - ] && given="generator.path=$path"
  CUDA_VISIBLE_DEVICES=$turn scorefield run gan_refine --config loss_alone --out runs/h-$name $given $common training.batch=$batch training.online_warmup=$warm \
    training.iterations=$iterations training.generator.learning_rate=1e-3 training.online.learning_rate=1e-3 \
    training.ema_half_life_images=$((batch * 80)) "$@" >runs/h-$name.log 2>&1 &
}
high="training.generator_noise.mean=0.5" higher="training.generator_noise.mean=1.0"
one higher-wide $P 128 200 1000 $higher training.online_noise.mean=0.5 training.online_noise.std=1.6
one higher $P 128 200 1000 $higher
one higher-plain $P 128 200 1000 $higher loss.weighting=none
one two $P 128 200 1000 $high training.online_updates=2
one karras $P 128 200 1000 "training.generator_noise={name: karras, u_min: 0.0, u_max: 0.8}"
one di $P 128 200 1000 $high loss.name=diff_instruct
one highest $P 128 200 1000 training.generator_noise.mean=1.5
one higher-a $A 128 200 1000 $higher
one e - 128 200 1000 $higher
one cpu-100 $P 32 100 320 $high
one cpu-300 $P 32 300 520 $high
one cpu-300-plain $P 32 300 520 $higher loss.weighting=none
one cpu-1000 $P 32 1000 1220 $high
one cpu-1000-higher $P 32 1000 1220 $higher
distil() { # name overrides…: the EDM teacher into one step, at the rates that longer.sh found to be the better ones
  local name=$1; shift; turn=$((1 - turn))
  CUDA_VISIBLE_DEVICES=$turn scorefield run class_to_image --out runs/c-$name training.device=cuda training.batch=128 training.iterations=1000 \
    training.online_warmup=100 checkpoints.every=500 evaluation.samples=2000 evaluation.running=0 training.ema_half_life_images=5000 \
    evaluation.teacher_steps=18 training.generator.learning_rate=1e-4 training.online.learning_rate=3e-4 "$@" >runs/c-$name.log 2>&1 &
}
distil high training.generator_noise.mean=0.5
distil karras "training.generator_noise={name: karras, u_min: 0.0, u_max: 0.8}"
wait_until 490
say "collecting"
for f in runs/[hc]-*/summary.json; do python3 - "$f" <<'P'
import json, sys
s = json.load(open(sys.argv[1]))
print(sys.argv[1], s.get("wall_seconds"), *(f"{k}: " + " ".join(f"{m}={v:.3f}" for m, v in s[k].items() if isinstance(v, (int, float))) for k in ("before", "after", "student") if k in s))
P
done
for f in runs/[hc]-*.log; do echo "$f: $(tail -n 1 "$f" | cut -c1-160)"; done
collect results runs
cp runs/bench/* "$OUT"/ 2>/dev/null; rm -f "$OUT"/*.err
ls -la "$OUT"
