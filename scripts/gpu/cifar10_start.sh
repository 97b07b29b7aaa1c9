#!/usr/bin/env bash
# CIFAR-10 on one or two GPUs, nine minutes: GANs of two seeds trained part of the way; then each refined from its teacher's
# pictures (gan_refine's start) and, beside it, trained on with the real ones for as long.
#   bash scripts/gpu/cifar10_start.sh      # after cifar10.sh, or with runs/cifar-edm (teacher, judge) of another session
. scripts/gpu/common.sh
LENT=${LENT:-lent} DATA=${DATA:-runs/data} SEEDS=${SEEDS:-0 1} DEVICE=${DEVICE:-cuda} GAN_END=${GAN_END:-235} REFINE_END=${REFINE_END:-470} DEADLINE=${DEADLINE:-560}
GAN_MINUTES=${GAN_MINUTES:-3} MORE_MINUTES=${MORE_MINUTES:-3} ADVERSARY_MINUTES=${ADVERSARY_MINUTES:-2} PICTURES=${PICTURES:-20000} SAMPLES=${SAMPLES:-10000} GAN=${GAN:-} REFINE=${REFINE:-}
GPUS=$(nvidia-smi -L 2>/dev/null | wc -l); [ "$GPUS" -gt 0 ] || GPUS=1
mkdir -p runs/logs runs/figures
[ -e "$DATA/cifar10-test.npz" ] || python3 scripts/cifar10.py --lent "$LENT" --out "$DATA" || exit 1
say "pictures decoded"
[ "$DEVICE" = cuda ] && start_mps
trap stop_mps EXIT
on() { local seed=$1; shift; [ "$DEVICE" = cuda ] && export CUDA_VISIBLE_DEVICES=$((seed % GPUS)); "$@"; }
train() { # folder seed minutes
  scorefield train-gan --config configs/gan/cifar10_small.yaml --out "$1" data="$DATA/cifar10.npz" held_out_data="$DATA/cifar10-test.npz" judge=none \
    seed="$2" device=$DEVICE training.steps=1000000 training.minutes="$3" training.save_minutes=30 $GAN
}
for seed in $SEEDS; do on "$seed" train runs/gan-$seed "$seed" "$GAN_MINUTES" >runs/logs/gan-$seed.log 2>&1 & done
wait_until "$GAN_END"
for seed in $SEEDS; do say "gan-$seed: $(grep -h '^gan: ' runs/logs/gan-$seed.log)"; cp -r runs/gan-$seed runs/more-$seed; done
refine() { # seed
  scorefield run gan_refine --config cifar10_small --out runs/refined-$1 training.seed="$1" training.device=$DEVICE generator.path=runs/gan-$1/gan/G_ema \
    start.pictures="$PICTURES" start.teacher_steps=6 start.adversary.networks=runs/gan-$1/gan start.adversary.steps=1000000 start.adversary.minutes="$ADVERSARY_MINUTES" \
    start.adversary.batch=64 start.adversary.r1_gamma=0.05 start.adversary.ema_half_life_images=30000 start.adversary.flip=true \
    training.iterations=60 training.online_warmup=40 training.generator.learning_rate=5e-5 training.generator.decay=cosine evaluation.samples=2000 \
    evaluation.data="$DATA/cifar10-test.npz" evaluation.real=2000 $REFINE
}
total=$(awk "BEGIN {print $GAN_MINUTES + $MORE_MINUTES}")
for seed in $SEEDS; do
  on "$seed" refine "$seed" >runs/logs/refined-$seed.log 2>&1 &
  on "$seed" train runs/more-$seed "$seed" "$total" >runs/logs/more-$seed.log 2>&1 &
done
wait_until "$REFINE_END"
for seed in $SEEDS; do say "more-$seed: $(grep -h '^gan: ' runs/logs/more-$seed.log | tail -n 1); refined-$seed: $(tr -d '\n' <runs/refined-$seed/start/start.json)"; done
features=""; for each in runs/cifar-edm/judge $LENT/data/mobilenet_v2_imagenet_fp16.safetensors; do [ -e "$each" ] && features="$features $each"; done
for seed in $SEEDS; do
  on "$seed" python3 scripts/cifar10_figures.py measure --data "$DATA/cifar10.npz" --features $features --out runs/figures/start-$seed.csv --samples "$SAMPLES" --draws 3 \
    --device $DEVICE before=runs/gan-$seed/gan/G_ema start=runs/refined-$seed/start/G_ema refined=runs/refined-$seed more=runs/more-$seed/gan/G_ema >runs/logs/figures-$seed.log 2>&1 &
done
wait_until "$DEADLINE"
for seed in $SEEDS; do cut -d, -f1-14 runs/figures/start-$seed.csv; tail -n 1 runs/logs/*-$seed.log; done
collect start runs/figures runs/refined-* runs/logs
cp runs/figures/*.png "$OUT" 2>/dev/null; ls "$OUT" | head -20; say "end"
