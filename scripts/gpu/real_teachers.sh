#!/usr/bin/env bash
# One GPU, nine minutes a call at most: what an iteration of PixArt-XL 512 and Stable Diffusion takes, random weights. Compiling
# and SDXL's weights take a minute and more; what finds no time says so. PARTS=... chooses:
#   table    SIM, SiD and DMD, full and LoRA on shared weights, 8 samples kept and 32 computed twice
#   lora     rows of the table again, for a call of their own: LoRA at 8, DMD and LoRA at 32
#   compile  SIM with training.compile, full and LoRA, to be held against the table's rows of 8
#   profile  where an iteration of SIM goes: kernels, what lies outside the networks, gaps, waits
#   sd       Stable Diffusion 1.5 and SDXL (LoRA)
#   tests    what needs CUDA
#   PARTS="table profile" bash scripts/gpu/real_teachers.sh
# SMALL=1 rehearses it on a CPU with small networks: SMALL=1 PARTS="table compile profile sd" bash scripts/gpu/real_teachers.sh
. scripts/gpu/common.sh
export OMP_NUM_THREADS=8 PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True
parts=${PARTS:-table compile profile sd tests} deadline=${deadline:-540}
place="training.device=cuda" small=""
if [ -n "${SMALL:-}" ]; then
  export OMP_NUM_THREADS=1; place="training.device=cpu training.precision=fp32" small=--reduced
else
  nvidia-smi --query-gpu=name,memory.total --format=csv,noheader
fi
bench=runs/bench; mkdir -p $bench
first=${FIRST_BATCH:-8} second=${SECOND_BATCH:-32} rounds=${ROUNDS:-3}
twice="training.activation_checkpointing=[teacher,online,generator]"
wanted() { case " $parts " in *" $1 "*) return 0 ;; *) return 1 ;; esac; }
# within SECONDS command…: under a timeout that ends before the deadline of all
within() {
  local most=$1 left=$((deadline - (SECONDS - begun))); shift
  if [ "$left" -lt 15 ]; then say "no time left for: $*"; return 1; fi
  timeout -k 5 $((most < left ? most : left)) "$@"
}
# rows NAME SECONDS flags…: several rows in one process, a line here for each, runs/bench/NAME.json after each
rows() {
  local name=$1 most=$2 status; shift 2
  within "$most" python3 -m scorefield bench --json --out $bench/$name.json $small "$@" $place training.accumulation=1 \
    2>&1 >/dev/null | tee $bench/$name.log | grep --line-buffered -v -i warning
  status=${PIPESTATUS[0]}
  [ "$status" = 0 ] || { say "$name: status $status"; tail -n 3 $bench/$name.log | cut -c1-300; }
  say "$name"
}
both="--config pixart_512 --config pixart_512_lora" losses="--vary loss.name=sim,sid,dmd"
if wanted table; then
  rows table-$first 100 --rounds $rounds $both $losses training.batch=$first
  rows table-$second 190 --rounds 2 $both $losses training.batch=$second "$twice"
  # the plan's count of the same rows takes no GPU: it runs beside what comes next
  (OMP_NUM_THREADS=2 nice timeout 170 python3 scripts/bench_table.py --estimate $bench/table-*.json >$bench/table.md 2>$bench/table.err) &
  estimates=$!
fi
if wanted lora; then
  rows lora-$first 75 --rounds $rounds --config pixart_512_lora $losses training.batch=$first
  rows dmd-$second 60 --rounds 2 --config pixart_512 loss.name=dmd training.batch=$second "$twice"
  rows lora-$second 150 --rounds 2 --config pixart_512_lora $losses training.batch=$second "$twice"
fi
if wanted compile; then
  for roles in pixart_512 pixart_512_lora; do
    rows compile-$roles ${COMPILE_SECONDS:-230} --rounds $rounds --config $roles loss.name=sim training.batch=$first training.compile=true
  done
fi
if wanted profile; then
  within 90 python3 scripts/profile_step.py $small --config pixart_512 --out runs/profile $place training.accumulation=1 \
    training.batch=$second "$twice" >runs/profile.log 2>&1 || tail -n 3 runs/profile.log | cut -c1-300
  head -n 25 runs/profile/profile.md | cut -c1-400; say "profile"
fi
if wanted sd; then
  rows sd15 90 --rounds $rounds --config sd15 training.batch=$first
  rows sdxl 150 --rounds $rounds --config sdxl_lora training.batch=${SDXL_BATCH:-4} "$twice"
fi
if wanted tests; then
  within 150 python3 -m pytest -q -p no:cacheprovider -m gpu tests >runs/cuda-tests.log 2>&1
  grep -E "^(FAILED|ERROR)" runs/cuda-tests.log | cut -c1-200; say "tests: $(tail -n 1 runs/cuda-tests.log)"
fi
# the plans may still be under way: what they have is kept, and scripts/bench_table.py makes the table anew anywhere
while [ -n "${estimates:-}" ] && kill -0 $estimates 2>/dev/null && [ $((SECONDS - begun)) -lt "$deadline" ]; do sleep 1; done
cat $bench/table.md $bench/table.err 2>/dev/null | cut -c1-400
cp $bench/*.json $bench/*.md "$OUT"/ 2>/dev/null
cp runs/profile/profile.md "$OUT"/ 2>/dev/null
[ -f runs/profile/trace.json.gz ] && split -b 15000000 runs/profile/trace.json.gz "$OUT/trace.json.gz."
collect logs $bench runs/profile* runs/*.log
ls -la "$OUT"
