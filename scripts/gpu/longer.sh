#!/usr/bin/env bash
# Two GPUs, ten minutes: StyleGAN2 for as many pictures as fit, the floor of the default run, and
# one-step students of the EDM teacher with more than a CPU's budget.
. scripts/gpu/common.sh
nvidia-smi --query-gpu=name --format=csv,noheader
start_mps
gan() { # name gpu overrides…
  local name=$1; CUDA_VISIBLE_DEVICES=$2; export CUDA_VISIBLE_DEVICES; shift 2
  scorefield train-gan --config configs/gan/toybox32.yaml --out runs/gan-$name images=60000 training.steps=1000000 training.minutes=7.9 \
    training.batch=256 training.learning_rate=0.0025 training.ema_half_life_images=30000 network.channel_base=2048 \
    network.discriminator_base=2048 network.channel_max=128 network.discriminator_max=128 training.r1_gamma=0.02 "$@" >runs/gan-$name.log 2>&1
}
wide="network.channel_max=256 network.discriminator_max=256"
gan augment 0 training.augment=diffaugment training.r1_gamma=0.05 &
gan augment-wide 1 training.augment=diffaugment training.r1_gamma=0.01 $wide &
gan plain-wide 0 training.r1_gamma=0.1 $wide &
gan augment-fast 1 training.augment=diffaugment training.r1_gamma=0.01 training.learning_rate=0.004 &
scorefield compare default_floor --jobs 6 --out runs/floor training.device=cuda >runs/floor.log 2>&1 &
turn=0
one() { # task name overrides…: on the GPUs in turn
  local task=$1 name=$2; shift 2; turn=$((1 - turn))
  CUDA_VISIBLE_DEVICES=$turn scorefield run $task --out runs/$task-$name training.device=cuda "$@" >runs/$task-$name.log 2>&1 &
}
rates() { echo training.generator.learning_rate=$1 training.online.learning_rate=$2; }
c2i="training.batch=128 training.iterations=1500 training.online_warmup=100 checkpoints.every=500 evaluation.samples=2000 evaluation.running=0 training.ema_half_life_images=5000 evaluation.teacher_steps=18"
one class_to_image slow $c2i $(rates 3e-5 1e-4)
one class_to_image fast $c2i $(rates 1e-4 3e-4)
one class_to_image frozen $c2i $(rates 3e-5 1e-4) loss.jacobian=none
wait_until 572
say "collecting"
cat runs/floor/*.md 2>/dev/null | head -20
for f in runs/gan-*/gan-figures.json; do echo "$f $(python3 -c 'import json,sys; s=json.load(open(sys.argv[1])); print(s["kimg"], s["figures"]["gan"])' "$f")"; done
for f in runs/*/summary.json; do python3 - "$f" <<'P'
import json, sys
s = json.load(open(sys.argv[1]))
print(sys.argv[1], s.get("wall_seconds"), *(f"{k}: " + " ".join(f"{m}={s[k][m]:.3f}" for m in ("frechet", "precision", "recall") if s[k].get(m) is not None) for k in ("teacher", "before", "after", "student") if k in s))
P
done
for f in runs/*.log; do echo "$f: $(tail -n 1 "$f" | cut -c1-160)"; done
collect results runs
tar czf - runs/gan-*/gan/G_ema.* | split -b 15000000 - "$OUT/gans.tgz."
ls -la "$OUT"
