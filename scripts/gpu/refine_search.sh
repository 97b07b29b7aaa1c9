#!/usr/bin/env bash
# One GPU, eight minutes: what improves the embedded GAN (configs/compare/gan_search.yaml).
#   JOBS=14 SECONDS_EACH=… bash scripts/gpu/refine_search.sh [overrides…]
. scripts/gpu/common.sh
start_mps
scorefield compare ${COMPARISON:-gan_search} --jobs ${JOBS:-14} --out runs/search training.device=cuda "$@" >runs/search.log 2>&1 &
wait_until ${DEADLINE:-480}
summaries runs/search/*/summary.json
tail -n 3 runs/search.log
collect search runs/search runs/search.log
