#!/usr/bin/env bash
# Serves exported models with TensorFlow Serving, in its official Docker image. See docs/serving.md.
#
#   launch/serve.sh COMMAND [--name=dit] [--dry_run] [more flags]
#
#   start     --models=models/dit [--gpu] [--xla] [--version=2.20.0] [--port=8500] [--rest_port=8501]
#             [--address=127.0.0.1] [--foreground]                   the newest version there, under the name NAME
#   start     --models=models --config=FILE [...]                    the models that a model config file names
#   status                                                           starting, healthy or unhealthy
#   log                                                              follows the log
#   stop
#
# --dry_run prints the command and runs none. What all servers share is in launch/serving.
set -euo pipefail
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC1091
source "$repository/launch/command-line.sh"
# shellcheck disable=SC1091
source "$repository/launch/serve-flags.sh"

call() { if [[ $dry_run ]]; then quoted docker "$@"; else docker "$@"; fi; }
mounted() { echo "--mount=type=bind,source=$1,target=$2,readonly"; }

# The container is made of two lists: what Docker is told, and what the server is told.
start() {
    local image=tensorflow/serving:$version${gpu:+-gpu} container=() server=()
    if [[ $foreground ]]; then container+=(--rm); else container+=(--detach --restart=unless-stopped); fi
    if [[ $gpu ]]; then container+=(--gpus=all); fi
    container+=(
        --name="$name"
        --init # bash, which the image starts with, keeps signals from the server
        --publish="$address:$port:8500"
        --publish="$address:$rest_port:8501"
        --health-cmd="bash /config/health.sh $name"
        --health-interval=10s
        --health-timeout=5s
        --health-start-period=30m # loading ends with the warm-up
        "$(mounted "$repository/launch/serving" /config)"
    )
    # shellcheck disable=SC2054 # the commas are the server's
    server+=(
        --enable_batching=true
        --batching_parameters_file=/config/batching.config
        --monitoring_config_file=/config/monitoring.config
        --enable_model_warmup=true
        --rest_api_timeout_in_ms=3600000 # of 30 seconds otherwise, less than many samplers take
        # Either side may ask whether the other is still there while an image is drawn.
        --grpc_channel_arguments=grpc.keepalive_time_ms=120000,grpc.http2.min_ping_interval_without_data_ms=30000
    )
    if [[ $xla ]]; then server+=(--xla_cpu_compilation_enabled=true); fi
    if [[ $config ]]; then
        # The directory, because an editor puts a new file in the place of the old one.
        container+=("$(mounted "$models" /models)" "$(mounted "${config%/*}" /models.config.d)")
        server+=(
            --model_config_file="/models.config.d/${config##*/}"
            --model_config_file_poll_wait_seconds=60
            --allow_version_labels_for_unavailable_models=true
        )
    else
        container+=("$(mounted "$models" "/models/$name")" --env=MODEL_NAME="$name")
    fi
    call run "${container[@]}" "$image" "${server[@]}"
    if [[ ! $dry_run && ! $foreground ]]; then
        echo "$name loads and warms up, then it is healthy: launch/serve.sh status --name=$name" >&2
    fi
}

status() { call inspect --format='{{.State.Health.Status}}' "$name"; }
log() { call logs --follow --tail=50 "$name"; }
stop() { call rm --force "$name"; }

if [[ ! $dry_run ]] && ! command -v docker >/dev/null; then
    echo "serve.sh needs docker, which is not on PATH: install Docker Engine, or read along with --dry_run." >&2
    exit 1
fi
"$command"
