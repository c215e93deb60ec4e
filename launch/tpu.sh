#!/usr/bin/env bash
# Trains on a Cloud TPU, one host or a slice of many, from your own machine, through gcloud. See docs/tpu.md.
#
#   launch/tpu.sh COMMAND --name=NAME --zone=ZONE [--project=PROJECT] [--dry_run] [more flags]
#
#   create    --type=v4-8 [--version=IMAGE] [--spot] [--queued]   rents the TPU; --queued waits in line for it
#   install                                                       this checkout and its environment, on every host
#   run       --flagfile=FILE --workdir=gs://BUCKET/PATH          trains, and again after each exit with code 75
#   tail      [--worker=0|1|...|all]                              follows the log
#   status    [--queued]
#   stop                                                          saves, then stops; the TPU stays and costs
#   delete    [--queued]                                          ends the costs
#   recreate  the flags of create and run                         all of it, and again after each preemption, to the end
#
# --dry_run prints the commands, one a line, and runs none; of recreate, one round: preempted, made anew, finished.
set -euo pipefail
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC1091
source "$repository/launch/command-line.sh"
# shellcheck disable=SC1091
source "$repository/launch/tpu-flags.sh"

worker_script="bash dit_tf/launch/tpu-worker.sh"
place=(--zone="$zone")
if [[ $project ]]; then place+=(--project="$project"); fi

call() { if [[ $dry_run ]]; then quoted "$@"; else "$@"; fi; }
machine() { call gcloud compute tpus tpu-vm "$1" "$name" "${place[@]}" "${@:2}"; }
queue() { call gcloud compute tpus queued-resources "$1" "$name" "${place[@]}" "${@:2}"; }
on_hosts() { machine ssh --worker="$1" --command="$2"; }
copy_to_hosts() { call gcloud compute tpus tpu-vm scp "$1" "$name:$2" "${place[@]}" --worker=all; }
say() { if [[ ! $dry_run ]]; then echo "$(date '+%F %T') $*" >&2; fi; }

create() {
    set -- --accelerator-type="$type"
    if [[ $spot ]]; then set -- "$@" --spot; fi
    if [[ $queued ]]; then
        queue create --node-id="$name" --runtime-version="$version" "$@" || return
    else
        machine create --version="$version" "$@" || return
    fi
    say "$name costs money from when it is ready until: launch/tpu.sh delete --name=$name --zone=$zone" \
        "${project:+--project=$project }${queued:+--queued}"
}

install() {
    local archive=${TMPDIR:-/tmp}/dit_tf-$name.tar.gz
    call tar --create --gzip --file="$archive" --directory="$repository" --exclude=./.git --exclude='./.venv*' \
        --exclude=./runs --exclude=./models --exclude=__pycache__ --exclude='*.egg-info' . &&
        copy_to_hosts "$archive" dit_tf.tar.gz &&
        on_hosts all "mkdir -p dit_tf && tar -xzf dit_tf.tar.gz -C dit_tf && $worker_script install"
}

run() { copy_to_hosts "$flagfile" dit_tf.flags && on_hosts all "$worker_script start $(quoted "$workdir")"; }
follow() { on_hosts "$worker" "tail -n 50 -F dit_tf-run/train.log"; }

# The other hosts serve their chips until host 0 has saved what is on them.
stop() { on_hosts 0 "$worker_script stop" && on_hosts all "$worker_script stop_server"; }

delete() { if [[ $queued ]]; then queue delete --force --quiet; else machine delete --quiet; fi; }

queue_state() { queue describe --format='value(state.state)'; }
machine_state() { machine describe --format='value(state)'; }
training() {
    on_hosts 0 "if [ -e dit_tf/launch/tpu-worker.sh ]; then $worker_script status; else echo training: none; fi"
}

# Prints a state; succeeds where it is the one that lets the next question be asked.
is_now() {
    local now
    if [[ $dry_run ]]; then
        "$2"
        return
    fi
    now=$("$2") || exit
    echo "$now"
    [[ $now == "$1" ]]
}

status() {
    if [[ $queued ]]; then is_now ACTIVE queue_state || return 0; fi
    is_now READY machine_state || return 0
    training
}

if [[ ! $dry_run ]] && ! command -v gcloud >/dev/null; then
    echo "tpu.sh needs gcloud, which is not on PATH: install the Google Cloud CLI, or read along with --dry_run." >&2
    exit 1
fi
case $command in
    tail) follow ;;
    recreate)
        # shellcheck disable=SC1091
        source "$repository/launch/tpu-recreate.sh"
        if [[ $dry_run ]]; then one_round; else recreate; fi
        ;;
    *) "$command" ;;
esac
