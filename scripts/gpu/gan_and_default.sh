#!/usr/bin/env bash
# Two GPUs, ten minutes: candidates of the default run, widths of the embedded StyleGAN2, first refinements of each.
. scripts/gpu/common.sh
nvidia-smi --query-gpu=name,memory.total --format=csv
start_mps
jobs=20; [ "$mps" = 0 ] && jobs=12
scorefield compare default_candidates --jobs $jobs --out runs/candidates training.device=cuda >runs/candidates.log 2>&1 &

gan() { # name gpu overrides…: train, then refine with three settings
  local name=$1 gpu=$2; shift 2
  export CUDA_VISIBLE_DEVICES=$gpu
  scorefield train-gan --config configs/gan/toybox32.yaml --out runs/gan-$name training.steps=1000000 training.minutes=${minutes:-4.6} \
    training.batch=64 images=30000 training.r1_gamma=0.02 training.learning_rate=0.002 training.ema_half_life_images=10000 \
    network.channel_base=2048 network.discriminator_base=2048 network.channel_max=128 network.discriminator_max=128 "$@" >runs/gan-$name.log 2>&1 || return
  for setting in "a 1e-4 5e-4 exact" "b 3e-4 1e-3 exact" "c 1e-4 5e-4 none"; do
    set -- $setting
    scorefield run gan_refine --out runs/refine-$name-$1 --config loss_alone generator.path=$PWD/runs/gan-$name/gan/G_ema training.device=cuda \
      training.generator.learning_rate=$2 training.online.learning_rate=$3 loss.jacobian=$4 >runs/refine-$name-$1.log 2>&1 &
  done
  wait
}
gan base 0 &
gan r1 1 training.r1_gamma=0.1 training.learning_rate=0.0025 &
gan b128 0 training.batch=128 training.learning_rate=0.0025 &
gan narrow 1 network.channel_base=1024 network.discriminator_base=1024 training.r1_gamma=0.05 &
gan deep 0 network.channel_max=256 network.discriminator_max=256 &
gan augment 1 training.augment=diffaugment training.r1_gamma=0.01 &
wait_until ${deadline:-560}
say "collecting"
cat runs/candidates/*.md 2>/dev/null | head -40
for f in runs/gan-*/gan-figures.json; do echo "$f"; python3 -c 'import json,sys; print(json.load(open(sys.argv[1])))' "$f" | cut -c1-900; done
for f in runs/refine-*/summary.json; do python3 - "$f" <<'P'
import json, sys
s = json.load(open(sys.argv[1]))
print(sys.argv[1], *(f"{k}: " + " ".join(f"{m}={s[k].get(m)}" for m in ("frechet", "precision", "recall")) for k in ("teacher", "before", "after") if k in s))
P
done
tail -qn 1 runs/*.log
collect results runs
tar czf "$OUT/gans.tgz" runs/gan-*/gan/G_ema.* runs/gan-*/gan/D.* 2>/dev/null
ls -la "$OUT"; nvidia-smi --query-gpu=utilization.gpu,memory.used --format=csv
