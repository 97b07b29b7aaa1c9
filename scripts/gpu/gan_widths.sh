#!/usr/bin/env bash
# Two GPUs, nine minutes: StyleGAN2 of several widths trained on Toybox and each refined (GPU 0), beside the search of
# configs/compare/gan_descent.yaml on the embedded GAN (GPU 1).
. scripts/gpu/common.sh
start_mps
CUDA_VISIBLE_DEVICES=1 scorefield compare ${COMPARISON:-gan_descent} --jobs ${JOBS:-17} --out runs/search training.device=cuda ${SEARCH:-} >runs/search.log 2>&1 &
gan() { # name overrides…: train, then refine with three settings
  local name=$1; shift
  export CUDA_VISIBLE_DEVICES=0
  scorefield train-gan --config configs/gan/toybox32.yaml --out runs/gan-$name training.steps=1000000 training.minutes=${MINUTES:-5} images=${IMAGES:-40000} "$@" \
    >runs/gan-$name.log 2>&1 || return
  for setting in "adam 2e-4 1e-8" "descent 3e-2 100" "faster 3e-1 100"; do
    set -- $setting
    scorefield run gan_refine --out runs/refine-$name-$1 generator.path=$PWD/runs/gan-$name/gan/G_ema --config loss_alone training.device=cuda training.iterations=600 \
      training.batch=64 training.online_warmup=150 training.ema_half_life_images=4000 checkpoints.every=300 evaluation.samples=5000 evaluation.running=0 \
      training.generator.learning_rate=$2 training.generator.eps=$3 ${REFINE:-} >runs/refine-$name-$1.log 2>&1 &
  done
  wait
}
wide="network.channel_base=2048 network.channel_max=256 network.discriminator_base=2048 network.discriminator_max=256"
half="network.channel_base=1024 network.channel_max=256 network.discriminator_base=1024 network.discriminator_max=256"
gan narrow-64 training.batch=64 &
gan half-32 $half &
gan half-64 $half training.batch=64 &
gan wide-32 $wide &
gan wide-64 $wide training.batch=64 &
gan flat-64 $wide network.channel_max=128 network.discriminator_max=128 training.batch=64 &
wait_until ${DEADLINE:-560}
say "collecting"
for f in runs/gan-*/gan-figures.json; do python3 -c 'import json,sys; d=json.load(open(sys.argv[1])); print(sys.argv[1], d["kimg"], d["seconds"], d["figures"]["gan"])' "$f"; done
summaries runs/refine-*/summary.json runs/search/*/summary.json
tail -qn 1 runs/*.log | cut -c1-200
collect widths runs
tar -czf - runs/gan-*/gan/G_ema.* runs/gan-*/gan/D.* | split -b 15000000 - "$OUT/gans.tgz."
ls -la "$OUT"
