#!/usr/bin/env bash
# One GPU, two calls: CIFAR-10 (cifar10.sh), and beside it Toybox's teacher trained on and refinements under it.
#   CALL=1 bash scripts/gpu/cifar10_and_toybox.sh    # teacher and GANs of CIFAR-10; Toybox
#   CALL=2 bash scripts/gpu/cifar10_and_toybox.sh    # students and refined GANs of CIFAR-10
. scripts/gpu/common.sh
here=$OUT
start_mps
mkdir -p runs/parts; parts() { mkdir -p "runs/parts/$1"; echo "runs/parts/$1"; }
if [ "${CALL:-1}" = 1 ]; then
  OUT=$(parts cifar-1) PARTS="teacher gan" GANS="plain augment" TRAIN_LIMIT=${TRAIN_LIMIT:-425} TEACHER_END=${TEACHER_END:-390} GAN_END=${GAN_END:-330} \
    bash scripts/gpu/cifar10.sh >runs/parts/cifar-1.log 2>&1 &
  {
    OMP_NUM_THREADS=4 timeout 300 python3 -m scorefield train-edm --config configs/edm/toybox32.yaml --out runs/edm32b images=50000 \
      init=toybox32/teacher judge=assets/toybox32/judge training.p_mean=-0.3 training.p_std=1.6 training.learning_rate=1e-3 training.warmup_steps=200 \
      training.steps=1000000 training.minutes=${TEACHER_MINUTES:-2.5} training.compile=true >runs/parts/teacher.log 2>&1
    tail -n 2 runs/parts/teacher.log
    OUT=$(parts search) COMPARISON=${FIRST:-gan_retrained} JOBS=${JOBS:-8} DEADLINE=$((405 - (SECONDS - begun))) bash scripts/gpu/refine_search.sh \
      teacher.path=runs/edm32b/teacher
  } >runs/parts/search.log 2>&1 &
else
  OUT=$(parts cifar-2) PARTS="distil refine measure" ONE_END=${ONE_END:-175} MEASURE_LIMIT=${MEASURE_LIMIT:-265} bash scripts/gpu/cifar10.sh >runs/parts/cifar-2.log 2>&1
fi
wait $(jobs -p)
for log in search cifar-1 cifar-2; do
  [ -f "runs/parts/$log.log" ] && [ ! -f "runs/parts/$log.told" ] && { echo "== $log"; tail -c 6500 "runs/parts/$log.log"; touch "runs/parts/$log.told"; }
done
OUT=$here
cp runs/edm32b/teacher.* runs/edm32b/teacher-figures.json "$OUT"/ 2>/dev/null
tar -czf - runs/parts | split -b 15000000 - "$OUT/parts.tgz."
ls -la "$OUT"
