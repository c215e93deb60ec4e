#!/usr/bin/env bash
# Runs the tests in an environment of their own, made on the first call.
#
#   launch/test.sh [--tf=2.20.0|2.19.1|2.21.0] [pytest arguments...]
#
# Two tests run at a time, each file's in one process. Where Debian's packages can be installed it adds Chromium and its
# driver, for the test of the web page; that test is skipped where they are missing.
#
#   launch/test.sh                                  # everything but the tests marked slow, kills and tpu_compile
#   launch/test.sh --tf=2.19.1 tests/models -x      # one room, another TensorFlow
#   launch/test.sh -m tpu_compile                   # the train steps that the TPU compiler takes minutes for
set -euo pipefail
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC1091
source "$repository/launch/environment.sh"

tf=2.20.0
for argument in "$@"; do
    shift
    case $argument in
        --tf) require_tf_version "" ;;
        --tf=*) tf=${argument#--tf=} ;;
        *) set -- "$@" "$argument" ;;
    esac
done
require_tf_version "$tf"
python=$(make_environment test "$tf" cpu,test)

# What takes long is the download, which has a minute; unpacking is not interrupted.
install_browser() {
    export DEBIAN_FRONTEND=noninteractive
    local install=(apt-get install --quiet --yes --no-install-recommends chromium chromium-driver)
    timeout 60 bash -c 'apt-get update --quiet && "$@" --download-only' bash "${install[@]}" &&
        "${install[@]}" --no-download
}
if ! { command -v chromium && command -v chromedriver; } >/dev/null; then
    if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
        install_browser >/dev/null 2>&1 </dev/null || true
    fi
fi

export TF_CPP_MIN_LOG_LEVEL=2
export OPENBLAS_NUM_THREADS=1 # two tests run at a time: threads of both would wait for each other
cd "$repository"
exec "$python" -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder "$@"
