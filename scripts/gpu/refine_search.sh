#!/usr/bin/env bash
# One GPU, eight minutes: what improves the embedded GAN (configs/compare/gan_search.yaml).
#   JOBS=14 SECONDS_EACH=… bash scripts/gpu/refine_search.sh [overrides…]
. scripts/gpu/common.sh
start_mps
scorefield compare ${COMPARISON:-gan_search} --jobs ${JOBS:-14} --out runs/search training.device=cuda "$@" >runs/search.log 2>&1 &
wait_until ${DEADLINE:-480}
for f in runs/search/*/summary.json runs/search/*/*/summary.json; do [ -f "$f" ] && python3 - "$f" <<'E'
import json, sys
s = json.load(open(sys.argv[1]))
print(sys.argv[1].split("search/")[1], s.get("wall_seconds"), *(f"{k}: " + " ".join(f"{m}={s[k][m]:.3f}" for m in ("frechet", "kid", "precision", "recall") if s[k].get(m) is not None) for k in ("before", "after") if k in s))
E
done
tail -n 3 runs/search.log
collect search runs/search runs/search.log
