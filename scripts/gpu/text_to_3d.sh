#!/usr/bin/env bash
# Text to 3D on GPUs, prepared and not run yet. PARTS=... chooses, each part under its own deadline:
#   bench    step time and memory of SIM, VSD and SDS at 512 px, for a random Stable Diffusion 2.1, with where the time
#            goes; of the hash grid alone; and of the default and the splats at 64 and 128 px
#   tests    what needs CUDA
#   small    the default run at 64 and 128 px, one prompt
#   table    twelve prompts under four losses, the second seed (docs/text-to-3d.md has the first)
#   PARTS="bench tests" bash scripts/gpu/text_to_3d.sh
. scripts/gpu/common.sh
parts=${PARTS:-bench tests small table}
nvidia-smi --query-gpu=name,memory.total --format=csv,noheader
mkdir -p runs/bench
wanted() { case " $parts " in *" $1 "*) return 0 ;; *) return 1 ;; esac; }
time_preset() { # name seconds overrides…: a row of the table, and one line of it here
  local name=$1 most=$2; shift 2
  OMP_NUM_THREADS=8 timeout "$most" python3 -m scorefield bench --task text_to_3d --json --rounds 3 training.device=cuda "$@" \
    >"runs/bench/3d-$name.json" 2>"runs/bench/3d-$name.err" || { echo "bench $name: $? $(tail -n 1 "runs/bench/3d-$name.err" | cut -c1-300)"; return; }
  python3 - "$name" "runs/bench/3d-$name.json" <<'P'
import json, sys
(row,) = json.load(open(sys.argv[2]))["rows"]
memory = {name: round(size / 1e9, 2) for name, size in row["memory_bytes"].items()}
print(sys.argv[1], f"{row['step_seconds']:.3f} s", f"ratio {row['overhead_ratio']:.2f}", memory,
      {name: f"{each['seconds']:.3f} s, {each['share']:.0%}" for name, each in row["passes"].items()})
P
}
if wanted bench; then
  sd="teacher.path=stabilityai/stable-diffusion-2-1-base"
  # 512 px, SIM, VSD and SDS with their published settings; SDS's recipe renders 64 px, so it is taken on VSD's as well
  time_preset sim-512 100 --config dive3d $sd
  time_preset vsd-512 100 --config prolificdreamer-object $sd
  time_preset sds-512 100 --config prolificdreamer-object $sd "loss={name: sds, weighting: sigma_squared}" training.guidance_scale=100
  time_preset sim-512-bf16 100 --config dive3d $sd training.precision=bf16 teacher.dtype=bfloat16
  time_preset sim-512-checkpointed 100 --config dive3d $sd "training.activation_checkpointing=[teacher,online]"
  for side in 64 128; do # the same recipes at low resolution, where threestudio starts
    time_preset sim-$side 60 --config dive3d $sd "render.size={0: $side}"
    time_preset vsd-$side 60 --config prolificdreamer-object $sd "render.size={0: $side}"
    time_preset sds-$side 60 --config sds $sd "render.size={0: $side}"
  done
  time_preset scene-512 100 --config prolificdreamer-scene $sd
  for side in 64 128; do # the embedded teacher
    time_preset default-$side 40 "render.size={0: $side}"
    time_preset splats-$side 40 --config splats "render.size={0: $side}"
  done
  say "benches: $(ls -s runs/bench/3d-*.json | tr '\n' ' ')"
  timeout 120 python3 scripts/hash_grid_speed.py --device cuda --out runs/bench/hash-grid.json
  say "hash grid"
fi
if wanted tests; then
  timeout 300 python3 -m pytest -q -p no:cacheprovider -m gpu tests >runs/cuda-tests.log 2>&1
  say "tests: $(tail -n 1 runs/cuda-tests.log)"
fi
if wanted small; then
  for side in 64 128; do
    timeout 300 python3 -m scorefield run text_to_3d prompt="a red chair" training.device=cuda "render.size={0: $side}" \
      evaluation.size=$side --out runs/chair-$side >runs/chair-$side.log 2>&1 &
  done
  wait
  say "small: $(tail -qn 1 runs/chair-*.log | tr '\n' ' ')"
fi
if wanted table; then
  start_mps
  jobs=16; [ "$mps" = 0 ] && jobs=6
  timeout "${table_seconds:-3000}" python3 scripts/text_to_3d_table.py --out runs/3d-table --seeds 1 --jobs "${JOBS:-$jobs}" training.device=cuda \
    >runs/3d-table.log 2>&1
  cp runs/3d-table/table.* runs/3d-table/pictures-*.png "$OUT"/ 2>/dev/null
  say "table"; head -8 runs/3d-table/table.md
fi
cp runs/bench/3d-*.json runs/bench/hash-grid.json "$OUT"/ 2>/dev/null
collect results runs
ls -la "$OUT"
