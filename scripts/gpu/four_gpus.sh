#!/usr/bin/env bash
# Four GPUs, two calls: CIFAR-10 on the first two (cifar10.sh), beside it Toybox's GAN and what PixArt-XL takes.
#   CALL=1 bash scripts/gpu/four_gpus.sh    # teacher and GANs of CIFAR-10; PixArt-XL's table on GPU 2; a comparison on GPU 3
#   CALL=2 bash scripts/gpu/four_gpus.sh    # students and refined GANs; two processes on GPUs 2 and 3, then more of GPU 3
. scripts/gpu/common.sh
here=$OUT
start_mps
alone="env -u CUDA_MPS_PIPE_DIRECTORY -u CUDA_MPS_LOG_DIRECTORY"
mkdir -p runs/parts; parts() { mkdir -p "runs/parts/$1"; echo "runs/parts/$1"; }
if [ "${CALL:-1}" = 1 ]; then
  OUT=$(parts cifar-1) PARTS="teacher gan" TRAIN_LIMIT=${TRAIN_LIMIT:-470} TEACHER_END=${TEACHER_END:-432} GAN_END=${GAN_END:-370} \
    bash scripts/gpu/cifar10.sh >runs/parts/cifar-1.log 2>&1 &
  OUT=$(parts bench) PARTS="${BENCHES:-table profile compile sd tests}" deadline=455 $alone CUDA_VISIBLE_DEVICES=2 bash scripts/gpu/real_teachers.sh >runs/parts/bench.log 2>&1 &
  {
    CUDA_VISIBLE_DEVICES=3 OMP_NUM_THREADS=8 timeout 300 python3 -m scorefield train-edm --config configs/edm/toybox32.yaml --out runs/edm32b images=100000 \
      init=toybox32/teacher judge=assets/toybox32/judge training.p_mean=-0.3 training.p_std=1.6 training.learning_rate=1e-3 training.warmup_steps=200 \
      training.steps=1000000 training.minutes=${TEACHER_MINUTES:-2.8} training.compile=true >runs/parts/teacher.log 2>&1
    tail -n 2 runs/parts/teacher.log
    OUT=$(parts search) CUDA_VISIBLE_DEVICES=3 COMPARISON=${FIRST:-gan_retrained} JOBS=16 DEADLINE=$((455 - (SECONDS - begun))) \
      bash scripts/gpu/refine_search.sh
  } >runs/parts/search.log 2>&1 &
else
  OUT=$(parts cifar-2) PARTS="distil refine measure" ONE_END=${ONE_END:-280} MEASURE_LIMIT=${MEASURE_LIMIT:-370} \
    bash scripts/gpu/cifar10.sh >runs/parts/cifar-2.log 2>&1 &
  {
    OUT=$(parts two) ONE=2 $alone CUDA_VISIBLE_DEVICES=2,3 bash scripts/gpu/two_gpus.sh >runs/parts/two.log 2>&1
    rm -rf runs/search
    OUT=$(parts search-2) CUDA_VISIBLE_DEVICES=2,3 COMPARISON=${SECOND:-gan_retrained} JOBS=${JOBS:-16} DEADLINE=270 \
      bash scripts/gpu/refine_search.sh ${SECOND_MORE:-} >runs/parts/search-2.log 2>&1
  } &
fi
wait
for log in bench two search search-2 cifar-1 cifar-2; do
  [ -f "runs/parts/$log.log" ] && [ ! -f "runs/parts/$log.told" ] && { echo "== $log"; tail -c 5500 "runs/parts/$log.log"; touch "runs/parts/$log.told"; }
done
OUT=$here
cp runs/edm32b/teacher.* runs/edm32b/teacher-figures.json "$OUT"/ 2>/dev/null
tar -czf - --exclude "trace.json*" runs/parts | split -b 15000000 - "$OUT/parts.tgz."
ls -la "$OUT"
