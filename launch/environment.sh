# shellcheck shell=bash
# Sourced by the scripts beside it: one virtual environment per purpose and TensorFlow version, with pinned packages.
#
#   require_tf_version "$tf"                       # exits 2 with one sentence where launch/ has no pins for $tf
#   python=$(make_environment test "$tf" cpu,test) # the interpreter of .venv-test-$tf, made where it is missing
#
# PYTHON=/path/to/python names the interpreter to build on. An environment whose making was interrupted is made afresh.

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
tf_versions="2.19.1 2.20.0 2.21.0" # each has launch/constraints-tfMAJOR.MINOR.txt

require_tf_version() {
    local version
    for version in $tf_versions; do
        if [[ ${1-} == "$version" ]]; then return; fi
    done
    echo "--tf must be one of ${tf_versions// /, }; received '${1-}'." >&2
    exit 2
}

# find_python TF_VERSION: prints "VERSION EXECUTABLE" of the first usable Python, or says which is needed and fails.
# A candidate has to run, because a version manager's shim may stand for nothing, and to hold what makes an environment.
find_python() {
    local oldest=11 newest=13 needed="3.11, 3.12 or 3.13" candidate found minor
    if [[ $1 == 2.19.* ]]; then # no wheel for 3.13
        newest=12 needed="3.11 or 3.12"
    fi
    for candidate in ${PYTHON:+"$PYTHON"} python3.12 python3.11 python3.13 python3 python; do
        command -v "$candidate" >/dev/null || continue
        found=$("$candidate" -c '
import ensurepip, sys, venv
print("%d.%d.%d" % tuple(sys.version_info[:3]), sys.executable)' 2>/dev/null) || continue
        minor=${found#3.} minor=${minor%%.*}
        if [[ $found == 3.* && $minor -ge $oldest && $minor -le $newest ]]; then
            if [[ -n ${PYTHON-} && $candidate != "$PYTHON" ]]; then
                echo "PYTHON=$PYTHON is no Python $needed with venv and ensurepip; using ${found#* }." >&2
            fi
            echo "$found"
            return
        fi
    done
    echo "TensorFlow $1 needs Python $needed with venv and ensurepip, and none is on PATH: install one" \
        "(on Ubuntu the packages python3.12 and python3.12-venv), or name it: PYTHON=/path/to/python3.12." >&2
    return 1
}

# make_environment PURPOSE TF_VERSION EXTRAS: prints the environment's interpreter. Installs only where something has
# changed: setup.cfg, the pins, the extras, the Python version or the repository's place.
make_environment() {
    local directory=$repository/.venv-$1-$2 constraints=launch/constraints-tf${2%.*}.txt found version stamp
    found=$(find_python "$2") || exit 1
    version=${found%% *}
    stamp="$version $3 $(cd "$repository" && cat setup.cfg "$constraints" <(pwd) | cksum)"
    ( # the lock is for two scripts started at once
        if command -v flock >/dev/null && ! flock --nonblock 9; then
            echo "Waiting for another script that is installing into ${directory##*/}." >&2
            flock 9
        fi
        if ! is_made "$directory" "$stamp"; then
            fill_environment "$directory" "${found#* }" "$stamp" "$constraints" "$3"
        fi
    ) 9>"$directory.lock" || exit 1
    echo "$directory/bin/python"
}

# is_made DIRECTORY STAMP: the stamp is written last, so one that matches means that everything is installed.
is_made() {
    [[ -f $1/stamp && $(<"$1/stamp") == "$2" ]] && "$1/bin/python" -c '' 2>/dev/null
}

# fill_environment DIRECTORY BASE_PYTHON STAMP CONSTRAINTS EXTRAS
fill_environment() {
    local pip=("$1/bin/python" -m pip install --quiet --disable-pip-version-check --constraint "$4") log=$1.log
    pip+=(--no-compile) # Python compiles what is imported, when it is: a tenth of all, and not this minute
    echo "Installing .[$5] with $4 on Python ${3%% *} into ${1##*/} (some minutes the first time)." >&2
    # Only an environment that was complete, and on the same Python, is worth building upon.
    if [[ ! -f $1/stamp || $(<"$1/stamp") != "${3%% *} "* ]] || ! "$1/bin/python" -c '' 2>/dev/null; then
        "$2" -m venv --clear "$1" >"$log" 2>&1 || report_failure "$log"
    fi
    rm -f "$1/stamp"
    cd "$repository" || exit 1
    # The build tools come first, from the pins too: without isolation nothing unpinned is fetched.
    "${pip[@]}" setuptools wheel >"$log" 2>&1 || report_failure "$log"
    "${pip[@]}" --use-pep517 --no-build-isolation --editable ".[$5]" >>"$log" 2>&1 || report_failure "$log"
    if [[ ,$5, == *,test,* ]]; then # it asks for the package tensorflow, which tensorflow-cpu is not to pip
        "${pip[@]}" --no-deps tensorflow-serving-api >>"$log" 2>&1 || report_failure "$log"
    fi
    echo "$3" >"$1/stamp"
}

report_failure() {
    echo "The environment could not be made; the last lines of ${1#"$repository"/} are:" >&2
    tail -n 15 "$1" >&2
    exit 1
}
