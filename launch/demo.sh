#!/usr/bin/env bash
# Trains a small DiT on the digits, interrupts it, resumes it, draws samples with and without guidance and scores them.
# The last line of the output is one JSON object.
#
#   launch/demo.sh [--workdir=DIR] [--tf=2.20.0|2.19.1|2.21.0]
#
#   --workdir  where everything is written (default: runs/digits-demo-<time>, so that no demo resumes another)
set -euo pipefail
start_time=$(date +%s)
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC1091
source "$repository/launch/environment.sh"

workdir=$repository/runs/digits-demo-$(date +%Y%m%d-%H%M%S)
tf=2.20.0
for argument in "$@"; do
    case $argument in
        --workdir=?*) workdir=${argument#--workdir=} ;;
        --tf=*) tf=${argument#--tf=} ;;
        *)
            echo "demo.sh takes --workdir=DIR and --tf=VERSION; received '$argument'." >&2
            exit 2
            ;;
    esac
done
require_tf_version "$tf"
if [[ $workdir != /* ]]; then workdir=$PWD/$workdir; fi
python=$(make_environment demo "$tf" cpu,demo)

export TF_CPP_MIN_LOG_LEVEL=2
cd "$repository"
mkdir -p "$workdir"

say() { echo "== $*"; }
train() { exec "$python" -m dit_tf.train --flagfile=launch/flags/digits.flags --workdir="$workdir"; }

# Succeeds once a checkpoint is complete (it is renamed into its numbered place): then the kill loses a second of work.
is_worth_interrupting() { compgen -G "$workdir/checkpoints/[0-9]*/state.index" >/dev/null; }

say "training into $workdir"
training_started=$SECONDS
train &
training=$!
trap 'kill "$training" 2>/dev/null || true' EXIT
while kill -0 "$training" 2>/dev/null; do
    if is_worth_interrupting; then
        say "interrupting on purpose: the training is killed now, and the same command resumes it"
        kill -KILL "$training"
        interrupted=yes
        break
    fi
    sleep 0.5
done
if ! wait "$training" 2>/dev/null && [[ -z ${interrupted-} ]]; then
    echo "The training failed before it could be interrupted; its message is above." >&2
    exit 1
fi
trap - EXIT

say "the same command again"
(train)
train_seconds=$((SECONDS - training_started))

say "50 samples of each digit with guidance, 50 without, pictures and scores"
exec "$python" launch/draw_and_score.py --workdir="$workdir" --train_seconds="$train_seconds" --start_time="$start_time"
