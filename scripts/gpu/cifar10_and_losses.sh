#!/usr/bin/env bash
# Two GPUs, two calls in one folder: CIFAR-10 (cifar10.sh), and beside its first call the losses on the embedded GAN.
#   CALL=1 bash scripts/gpu/cifar10_and_losses.sh    # teacher and GANs of CIFAR-10; configs/compare/gan_losses.yaml
#   CALL=2 bash scripts/gpu/cifar10_and_losses.sh    # students and refined GANs of CIFAR-10
. scripts/gpu/common.sh
here=$OUT
start_mps
if [ "${CALL:-1}" = 1 ]; then
  CUDA_VISIBLE_DEVICES=1 scorefield compare gan_losses --jobs ${JOBS:-9} --out runs/losses training.device=cuda ${LOSSES:-} >runs/losses.log 2>&1 &
  losses=$!
  PARTS="teacher gan" GANS="${GANS:-plain augment compiled}" bash scripts/gpu/cifar10.sh
  kill $(tree $losses) 2>/dev/null
  OUT=$here; collect losses runs/losses runs/losses.log
  cat runs/losses/*.md 2>/dev/null | head -n 30; tail -n 2 runs/losses.log
else
  PARTS="distil refine measure" bash scripts/gpu/cifar10.sh
fi
