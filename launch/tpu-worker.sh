#!/usr/bin/env bash
# What launch/tpu.sh has each host of a TPU do; it comes there with the checkout.
#
#   tpu-worker.sh install          # Python and the environment of the extra tpu, with the pins of TensorFlow 2.20
#   tpu-worker.sh start WORKDIR    # host 0 trains, with the flags in ~/dit_tf.flags; returns at once
#   tpu-worker.sh status           # "training: running", finished, stopped, failed with exit code N, or none
#   tpu-worker.sh stop             # the training saves and ends
#   tpu-worker.sh stop_server
#
# TPUStrategy has one program for all hosts. Where there is one host, it is the program's own (--tpu=local). On a slice
# every host, the first too, serves its chips by the server of TensorFlow's wheel, and the program on host 0 reaches
# them all by address; --tpu=local on each would be as many trainings as hosts, and a slice initialised by none.
set -euo pipefail
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC1091
source "$repository/launch/environment.sh"

readonly EX_TEMPFAIL=75 # of sysexits.h: train's exit code after it has saved because it was told to stop
readonly PORT=8470      # where TensorFlow's server listens
tf=2.20.0               # the newest with a TPU wheel
python=$repository/.venv-tpu-$tf/bin/python
here=$HOME/dit_tf-run # log, lock, outcome
mkdir -p "$here"
log=$here/train.log

say() { echo "== $(date '+%F %T') $*"; }

install() {
    if ! find_python "$tf" >/dev/null 2>&1; then # Ubuntu 22.04 brings 3.10; a new machine may hold apt's lock
        sudo apt-get -o DPkg::Lock::Timeout=300 update -qq
        sudo apt-get -o DPkg::Lock::Timeout=300 install -qq -y python3.11 python3.11-venv
    fi
    make_environment tpu "$tf" tpu
}

# metadata KEY: what the machine knows of its TPU.
metadata() {
    curl --fail --silent --show-error --header "Metadata-Flavor: Google" \
        "http://metadata.google.internal/computeMetadata/v1/instance/attributes/$1"
}

# Where the servers of all hosts listen, host 0's first: grpc://ADDRESS:PORT,... The metadata has a list of a:b:ADDRESS.
servers() {
    local listed entry address joined=""
    listed=$(metadata worker-network-endpoints) || return
    for entry in ${listed//,/ }; do
        IFS=: read -r _ _ address _ <<<"$entry"
        joined+="${joined:+,}grpc://$address:$PORT"
    done
    echo "$joined"
}

start() {
    local number tpu
    if [[ ! -x $python ]]; then
        echo "There is no environment on this host yet: launch/tpu.sh install makes it." >&2
        return 1
    fi
    number=$(metadata agent-worker-number)
    tpu=$(servers)
    if [[ $tpu != *,* ]]; then
        tpu=local
    else
        exec 8>"$here/server.lock"
        # The lock goes with the processes that inherit it.
        if flock --nonblock 8; then setsid nohup bash "$0" serve </dev/null >>"$here/server.log" 2>&1 & fi
        exec 8>&-
    fi
    if [[ $number != 0 ]]; then return; fi
    exec 9>"$here/train.lock"
    if ! flock --nonblock 9; then
        echo "A training runs here already: launch/tpu.sh stop ends it." >&2
        return 1
    fi
    rm -f "$here/outcome" "$here/stopping"
    setsid nohup bash "$0" train "$1" "$tpu" </dev/null >>"$log" 2>&1 &
}

# The pinned library, rather than one that the image may hold.
use_libtpu() {
    TPU_LIBRARY_PATH=$("$python" -c 'import libtpu; print(libtpu.get_library_path())')
    export TPU_LIBRARY_PATH
}

# Deaf to SIGTERM: when the machine is told to go, the training still needs the server, to save what is on its chips.
serve() {
    trap '' TERM
    echo "$$" >"$here/server.pid"
    use_libtpu
    while true; do
        "$(dirname "$python")/start_grpc_tpu_worker" || true
        sleep 5
    done
}

# is_served GRPC_ADDRESSES: waits, some minutes at most, for the servers of all hosts.
is_served() {
    local host attempt
    for host in ${1//,/ }; do
        host=${host#grpc://}
        for attempt in {1..60} none; do
            # shellcheck disable=SC2016  # $0 and $1 are the inner shell's
            if timeout 3 bash -c 'exec 3<>"/dev/tcp/$0/$1"' "${host%:*}" "${host#*:}" 2>/dev/null; then break; fi
            sleep 5
        done
        if [[ $attempt == none ]]; then
            say "No answer from $host; its ~/dit_tf-run/server.log says why."
            return 1
        fi
    done
}

run_once() { # WORKDIR TPU
    local code=0
    if [[ $2 != local ]]; then is_served "$2" || return; fi
    say "python -m dit_tf.train --workdir=$1 --tpu=$2"
    "$python" -m dit_tf.train --flagfile="$HOME/dit_tf.flags" --workdir="$1" --tpu="$2" &
    echo "$!" >"$here/train.pid"
    wait "$!" || code=$?
    rm -f "$here/train.pid"
    return "$code"
}

# train WORKDIR TPU: until it has finished, has failed, or is to stop.
train() {
    local code outcome=stopped
    cd "$repository"
    if [[ $2 == local ]]; then
        use_libtpu
    else
        export TPU_LOAD_LIBRARY=0 # this host's chips are its server's
    fi
    while [[ ! -e $here/stopping ]]; do
        code=0
        run_once "$@" || code=$?
        if ((code == EX_TEMPFAIL)); then
            say "exit code $EX_TEMPFAIL: saved, to be started again"
            sleep 10
        elif ((code == 0)); then
            outcome=finished
            break
        elif [[ ! -e $here/stopping ]]; then
            outcome="failed with exit code $code"
            break
        fi
    done
    say "$outcome"
    echo "$outcome" >"$here/outcome"
}

is_held() { [[ -e $1 ]] && ! (flock --nonblock 7) 7<"$1"; }

status() {
    local outcome=none
    if is_held "$here/train.lock"; then
        outcome=running
    elif [[ -s $here/outcome ]]; then
        outcome=$(<"$here/outcome")
    fi
    echo "training: $outcome"
    if [[ -e $log ]]; then tail -c 2000 "$log" | tr '\r' '\n' | tail -n 3; fi
}

stop() {
    if is_held "$here/train.lock"; then
        touch "$here/stopping"
        if [[ -s $here/train.pid ]]; then kill -TERM "$(<"$here/train.pid")"; fi
        if ! (flock --timeout 600 7) 7<"$here/train.lock"; then
            echo "The training still saves after 10 minutes; launch/tpu.sh tail shows how far it is." >&2
            return 1
        fi
    fi
    status
}

stop_server() {
    if is_held "$here/server.lock"; then kill -KILL -- "-$(<"$here/server.pid")"; fi
}

"$@"
