#!/usr/bin/env bash
# CIFAR-10 on one or two GPUs, in calls of less than ten minutes each that go on in the first one's folder.
#   PARTS="teacher gan" bash scripts/gpu/cifar10.sh               # 9.5 minutes: both trainings at once, a GPU each
#   PARTS="distil refine measure" bash scripts/gpu/cifar10.sh     # 7 minutes: students by loss, refined GANs, all figures
#   PARTS="measure polish" bash scripts/gpu/cifar10.sh            # 7 minutes: figures, then each loss from the best student at 1e-6
# LENT (lent/) holds data/ and tools/ as scripts/cifar10.py takes them. All else that is read from the environment stands
# below; TEACHER, GAN, ONE, POLISH and REFINE are overrides for each training of the kind, JUDGE for the judge's.
. scripts/gpu/common.sh
parts=${PARTS:-teacher gan distil refine measure}
LENT=${LENT:-lent} DATA=${DATA:-runs/data} SAMPLES=${SAMPLES:-10000} REAL=${REAL:-50000} NEIGHBOURS=${NEIGHBOURS:-5000}
# seconds from the start of the call: teacher and GANs done, first call over; students done, second call over
TEACHER_END=${TEACHER_END:-525} GAN_END=${GAN_END:-455} TRAIN_LIMIT=${TRAIN_LIMIT:-560}
ONE_END=${ONE_END:-310} POLISH_END=${POLISH_END:-300} MEASURE_LIMIT=${MEASURE_LIMIT:-408}
EVERY=${EVERY:-200} RUNNING=${RUNNING:-10000} STEPS=${STEPS:-18}
COMPILE=${COMPILE:-$([ "$TEACHER_END" -ge 300 ] && echo true || echo false)} # compiling took 110 s beside a judge's training
TEACHER=${TEACHER:-} GAN=${GAN:-} ONE=${ONE:-} POLISH=${POLISH:-} REFINE=${REFINE:-} JUDGE=${JUDGE:-} # the judge's: steps and the like
DEVICE=${DEVICE:-$(python3 -c 'import torch; print("cuda" if torch.cuda.is_available() else "cpu")')}
STARTING=${STARTING:-30} # seconds that a training takes to import and read before its clock starts
base=0 scorefield=${SCOREFIELD:-python3 -m scorefield}
GPUS=${GPUS:-$(nvidia-smi -L 2>/dev/null | wc -l)}; [ "$GPUS" -gt 0 ] || GPUS=1 # alone, the first GPU gets the second one's work
mkdir -p runs/logs
nvidia-smi --query-gpu=name,memory.total --format=csv,noheader 2>/dev/null || say "no GPU: everything on $DEVICE"
wanted() { case " $parts " in *" $1 "*) return 0 ;; *) return 1 ;; esac; }
now() { echo $((SECONDS - begun - base)); }
figures() { python3 scripts/cifar10_figures.py "$@"; }
judge=runs/cifar-edm/judge teacher=runs/cifar-edm/teacher mobilenet=$LENT/data/mobilenet_v2_imagenet_fp16.safetensors

# job NAME GPU END command…: in the background on one GPU, its log in runs/logs; SIGTERM at second END. An argument
# KEY=@N becomes the minutes from its start to second N. A failure is told at once; with RETRY set it is tried again,
# once, with RETRY's overrides, unless it ran out of time.
job() {
  local name=$1 gpu=$2 end=$3 retry=${RETRY:-}; shift 3
  {
    [ "$DEVICE" = cuda ] && export CUDA_VISIBLE_DEVICES=$((gpu % GPUS))
    log=runs/logs/$name.log more=""
    for try in 1 2; do
      given=()
      for word in "$@" $more; do
        case $word in
          *=@*) given+=("${word%@*}$(awk "BEGIN {t = (${word#*@} - $STARTING - $(now)) / 60; print (t < 0.05 ? 0.05 : t)}")") ;;
          *) given+=("$word") ;;
        esac
      done
      left=$((end - $(now)))
      [ "$left" -gt 5 ] || { say "FAILED $name: no time left for it"; break; }
      timeout -k 20 "$left" "${given[@]}" >>"$log" 2>&1; status=$?
      case $status in
        0) say "done: $name"; break ;;
        124) say "stopped at its deadline: $name"; break ;;
        *) say "FAILED $name (status $status): $(grep -v '^ *$' "$log" | tail -n 2 | tr '\n' ' ' | cut -c1-500)" ;;
      esac
      [ -n "$retry" ] && [ "$try" = 1 ] || break
      more=$retry; say "again: $name with $retry"
    done
  } &
}

pictures() { # the data, once
  [ -e "$DATA/cifar10-test.npz" ] && return
  python3 scripts/cifar10.py --lent "$LENT" --out "$DATA" || { say "FAILED: no pictures without $LENT"; return 1; }
  say "pictures decoded"
}
pictures & reading=$!
mps=0; [ "$DEVICE" = cuda ] && start_mps
trap stop_mps EXIT
wait $reading || exit 1
pixels="data=$DATA/cifar10.npz held_out_data=$DATA/cifar10-test.npz device=$DEVICE"
train_judge='
import sys
from pathlib import Path
from scorefield import config
from scorefield.pretrain import edm, labelled_run
settings = config.load(edm.EDMTrainConfig, Path("configs/edm/cifar10_small.yaml"), sys.argv[1:])
labelled_run.prepare(settings, Path("runs/cifar-edm"), lambda text: print(text, flush=True))
'
feature_networks() { for each in "$judge" "$mobilenet"; do [ -e "$each/judge.json" ] || [ -f "$each" ] && echo "$each"; done; }
measured() { # table draws player…: on one GPU
  local table=$1 draws=$2; shift 2
  python3 scripts/cifar10_figures.py measure --data "$DATA/cifar10.npz" --features $(feature_networks) --out "runs/figures/$table.csv" --samples "$SAMPLES" \
    --real "$REAL" --neighbours "$NEIGHBOURS" --draws "$draws" --steps "$STEPS" --device "$DEVICE" $measure_more "$@"
}
measure_more=""

# ---------------------------------------------------------------------- first call: teacher, judge and GANs
if wanted teacher; then
  RETRY="training.compile=false"; [ "$COMPILE" = true ] || RETRY=""
  job teacher 0 $((TRAIN_LIMIT - 4)) $scorefield train-edm --config configs/edm/cifar10_small.yaml --out runs/cifar-edm $pixels judge=none \
    training.steps=1000000 training.minutes=@$TEACHER_END training.compile=$COMPILE training.save_minutes=30 $TEACHER
  RETRY=""
  job judge 1 $((GAN_END - 20)) python3 -c "$train_judge" $pixels judge_stage.minutes=1.5 $JUDGE # beside the GANs, which wait for the host
fi
gans=${GANS:-plain augment wide}
if wanted gan; then
  gan() { # name overrides…
    local name=$1; shift
    job gan-$name 1 $((GAN_END + 60)) $scorefield train-gan --config configs/gan/cifar10_small.yaml --out runs/cifar-gan-$name $pixels judge=none \
      training.steps=1000000 training.minutes=@$GAN_END training.save_minutes=30 "$@" $GAN
  }
  wanted_gan() { case " $gans " in *" $1 "*) return 0 ;; *) return 1 ;; esac; }
  wanted_gan plain && gan plain
  wanted_gan augment && gan augment training.augment=diffaugment training.r1_gamma=0.01
  wanted_gan compiled && gan compiled training.compile=true
  wanted_gan wide && gan wide network.channel_base=4096 network.discriminator_base=4096 network.channel_max=512 network.discriminator_max=512
fi
if wanted gan; then # the GANs are measured while the teacher goes on
  gan_pids=$(jobs -rp); wanted teacher && gan_pids=$(echo "$gan_pids" | tail -n +2)
  while kill -0 $gan_pids 2>/dev/null && [ "$(now)" -lt $((GAN_END + 62)) ]; do sleep 1; done
  players=""; for name in $gans; do [ -e runs/cifar-gan-$name/gan/G_ema.json ] && players="$players $name=runs/cifar-gan-$name/gan/G_ema"; done
  if [ -n "$players" ] && [ -n "$(feature_networks)" ]; then
    measure_more="--references runs/references"
    [ "$DEVICE" = cuda ] && export CUDA_VISIBLE_DEVICES=$((1 % GPUS))
    measured gans 1 $players real=$DATA/cifar10-test.npz | tee runs/logs/figures-gans.log
    unset CUDA_VISIBLE_DEVICES; measure_more=""
  else
    say "FAILED: no GAN is stored, or nothing to measure it with"
  fi
fi
if wanted teacher || wanted gan; then
  wait_until $((TRAIN_LIMIT + base))
  for name in $gans; do say "gan-$name: $(grep -h '^gan: ' runs/logs/gan-$name.log 2>/dev/null | tail -n 1)"; done
  say "teacher: $(grep -h '^edm: ' runs/logs/teacher.log 2>/dev/null | tail -n 1); judge: $(tail -qn 1 runs/logs/judge.log 2>/dev/null)"
  base=$((SECONDS - begun))
fi

# ---------------------------------------------------------------------- second call: students and refined GANs
if [ ! -e $teacher.json ] && { wanted distil || wanted refine; }; then
  say "FAILED: there is no $teacher: PARTS=\"teacher gan\" comes first, in this folder"
  parts=${parts//distil/} parts=${parts//refine/}
fi
best_gan=""
if wanted refine || wanted measure; then
  best_gan=$(figures best runs/figures/gans.csv 2>/dev/null || for name in $gans; do [ -e runs/cifar-gan-$name/gan/G_ema.json ] && { echo $name; break; }; done)
fi
# over time: in MobileNetV2's features against all training pictures, or in whatever is there
if [ -e "$mobilenet" ] && [ -e runs/references/1.npz ]; then
  over_time="evaluation.features=$mobilenet evaluation.reference=runs/references/1.npz evaluation.data=none"
else
  over_time="evaluation.data=$DATA/cifar10-test.npz"; [ -e $judge/judge.json ] || over_time="evaluation.data=none evaluation.judge=none"
fi
student() { # folder gpu end overrides…: of the teacher
  local name=$1 gpu=$2 end=$3; shift 3
  job $name $gpu $end $scorefield run class_to_image --config cifar10_small --resume --out runs/$name training.iterations=100000 \
    training.device=$DEVICE checkpoints.every=$EVERY checkpoints.asynchronous=true evaluation.running=$RUNNING $over_time "$@"
}
students() { # prefix end overrides…: one for each loss. A GPU's share: three of the ten passes that a loss with gradients through both scores costs
  local prefix=$1 end=$2; shift 2
  student $prefix-sim 0 $end "$@"
  student $prefix-sim-squared 0 $end loss.distance=squared_l2 "$@"
  student $prefix-dmd 0 $end "loss={name: dmd}" "$@"
  student $prefix-sid 1 $end "loss={name: sid, alpha: 1.2, weighting: sid}" "$@"
  student $prefix-diff-instruct 1 $end "loss={name: diff_instruct}" "$@"
}
refine() { # name gpu overrides…: the best GAN
  local name=$1 gpu=$2; shift 2
  job refine-$name $gpu $ONE_END $scorefield run gan_refine --config cifar10_small --resume --out runs/refine-$name training.iterations=100000 \
    generator.path=runs/cifar-gan-$best_gan/gan/G_ema training.device=$DEVICE checkpoints.every=$EVERY checkpoints.asynchronous=true \
    $over_time "$@" $REFINE
}
wanted distil && students one $ONE_END $ONE
if wanted refine; then
  if [ -n "$best_gan" ]; then
    say "refining gan-$best_gan"
    refine diff-instruct 1
    refine sim 1 "loss={name: sim, distance: pseudo_huber, weighting: sid}"
    [ -n "${SLOW:-}" ] && refine diff-instruct-slow 0 training.generator.learning_rate=1.5e-4
  else
    say "FAILED refine: there is no GAN in runs/cifar-gan-*: PARTS=gan comes first"
  fi
fi
if wanted distil || wanted refine; then
  wait_until $((ONE_END + 25 + base))
  for log in runs/logs/one-*.log runs/logs/polish-*.log runs/logs/refine-*.log; do [ -e "$log" ] && say "$(basename "$log"): $(grep -v '^ *$' "$log" | grep -h ' img/s' | tail -n 1 | cut -c1-170)"; done
fi

# ---------------------------------------------------------------------- figures, and a start that is near its end
own() { for run in runs/$1-*; do [ -d "$run/checkpoints" ] && echo "$(basename "$run")=$run"; done; }
alone() { # gpu table draws player…
  local gpu=$1; shift
  [ "$DEVICE" = cuda ] && export CUDA_VISIBLE_DEVICES=$((gpu % GPUS))
  measured "$@" 2>"runs/logs/figures-$1.err" | tee "runs/logs/figures-$1.log"
  [ "${PIPESTATUS[0]}" = 2 ] && say "FAILED $1: $(tail -n 1 "runs/logs/figures-$1.err")"
}
mkdir -p runs/figures
if wanted measure; then
  [ -e $teacher.json ] && alone 0 teacher 1 real=$DATA/cifar10-test.npz teacher=$teacher &
  [ -n "$(own one)" ] && alone 1 students 1 $(own one) & measuring=$!
  [ -n "$best_gan" ] && alone 0 refined 3 before=runs/cifar-gan-$best_gan/gan/G_ema $(own refine) &
  if wanted polish; then # the other tables go on beside it
    while kill -0 $measuring 2>/dev/null && [ "$(now)" -lt $((POLISH_END / 2)) ]; do sleep 1; done
  else
    wait_until $((MEASURE_LIMIT + base))
  fi
fi
if wanted polish; then # as in SIM's source: every loss from one near-converged student, at rates of 1e-6
  best_student=$(figures best runs/figures/students.csv)
  if [ -n "$best_student" ]; then
    say "each loss from $best_student"
    students polish $POLISH_END generator.init=runs/$best_student training.generator.learning_rate=1.0e-6 training.online.learning_rate=1.0e-6 $POLISH
    wait_until $((POLISH_END + 25 + base))
    alone 0 polished 1 $(own polish) &
    wait_until $((MEASURE_LIMIT + base))
  else
    say "FAILED polish: no student is measured: PARTS=\"distil measure\" comes first"
  fi
fi
mkdir -p runs/figures
tables=$(ls runs/figures/{gans,teacher,students,refined,polished}.csv 2>/dev/null)
[ -n "$tables" ] && { head -qn 1 $tables | head -n 1; tail -qn +2 $tables; } >"$OUT/figures.csv"
[ -n "$(ls -d runs/one-* 2>/dev/null)" ] && figures curves $(ls -d runs/one-* runs/polish-* 2>/dev/null) >"$OUT/curves.csv"
say "collecting"
echo "RESULTS"; cut -d, -f1-15 "$OUT/figures.csv" 2>/dev/null
[ -e "$OUT/curves.csv" ] && { echo "CURVES"; cat "$OUT/curves.csv"; }
cp runs/logs/*.log "$OUT"/ 2>/dev/null; tar -C "$OUT" --remove-files -czf "$OUT/logs.tgz" $(cd "$OUT" && ls *.log 2>/dev/null) 2>/dev/null
tar -czf "$OUT/grids.tgz" runs/figures 2>/dev/null
collect results runs/cifar-* runs/one-* runs/polish-* runs/refine-* 2>/dev/null
if [ -n "${KEEP:-}" ]; then # the networks, for a session on another machine
  tar -czf - $teacher.* $judge runs/cifar-gan-*/gan/G_ema.* runs/figures runs/references 2>/dev/null | split -b 15000000 - "$OUT/networks.tgz."
fi
ls -la "$OUT"; say "end"
