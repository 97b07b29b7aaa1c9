#!/usr/bin/env bash
# Two GPUs, eight minutes: what learning rates, losses and warm-up a refinement of a StyleGAN2 needs, from three GANs.
#   GANS=FOLDER bash scripts/gpu/refine.sh        # FOLDER/plain-wide/G_ema.* and FOLDER/augment-fast/G_ema.*, of longer.sh
. scripts/gpu/common.sh
start_mps
GANS=$(realpath "${GANS:-runs/gans}")
P=$GANS/plain-wide/G_ema A=$GANS/augment-fast/G_ema
turn=0
common="training.device=cuda training.batch=128 training.iterations=1200 training.online_warmup=200 checkpoints.every=600 training.ema_half_life_images=10000 evaluation.samples=5000"
one() { # name gan-path|- generator-rate online-rate overrides…
  local name=$1 path=$2 g=$3 o=$4; shift 4; turn=$((1 - turn))
  local given=""; [ "$path" != - ] && given="generator.path=$path"
  CUDA_VISIBLE_DEVICES=$turn scorefield run gan_refine --config loss_alone --out runs/r-$name $given $common training.generator.learning_rate=$g \
    training.online.learning_rate=$o "$@" >runs/r-$name.log 2>&1 &
}
one p-slow $P 5e-4 5e-4
one p-mid $P 1e-3 5e-4
one p-base $P 1e-3 1e-3
one p-fast $P 2.5e-3 1e-3
one p-frozen $P 1e-3 1e-3 loss.jacobian=none
one p-frozen-fast $P 2.5e-3 1e-3 loss.jacobian=none
one p-di $P 1e-3 1e-3 loss.name=diff_instruct
one p-two $P 1e-3 1e-3 training.online_updates=2
one p-high $P 1e-3 1e-3 training.generator_noise.mean=0.5
one p-long-warm $P 1e-3 1e-3 training.online_warmup=500
one p-plain $P 1e-3 1e-3 loss.weighting=none
one a-base $A 1e-3 1e-3
one a-frozen $A 1e-3 1e-3 loss.jacobian=none
one e-base - 1e-3 1e-3
one e-frozen - 1e-3 1e-3 loss.jacobian=none
one e-fast - 2.5e-3 1e-3
wait_until 470
say "collecting"
for f in runs/r-*/summary.json; do python3 - "$f" <<'P'
import json, sys
s = json.load(open(sys.argv[1]))
print(sys.argv[1], s.get("wall_seconds"), *(f"{k}: " + " ".join(f"{m}={v:.3f}" for m, v in s[k].items() if isinstance(v, (int, float))) for k in ("before", "after") if k in s))
P
done
for f in runs/r-*.log; do echo "$f: $(tail -n 1 "$f" | cut -c1-160)"; done
collect results runs
ls -la "$OUT"
