# shellcheck shell=bash
# shellcheck disable=SC2034  # what is set here is read by serve.sh
# Sourced by serve.sh: its command line -> $command and a variable per flag.

# What each command takes besides --name and --dry_run.
taken_by() {
    case $1 in
        start) echo "models config version gpu xla address port rest_port foreground" ;;
        status | log | stop) ;;
        *) return 1 ;;
    esac
}

is_port() { [[ $1 =~ ^[1-9][0-9]{0,4}$ ]] && (($1 <= 65535)); }

check() { # FLAG VALUE
    case $1 in
        name) [[ $2 =~ ^[A-Za-z0-9][A-Za-z0-9_.-]*$ ]] ||
            refuse "--name must be letters, digits, hyphens, dots and underscores; received '$2'." ;;
        version) [[ $2 =~ ^2\.[0-9]+\.[0-9]+$ ]] ||
            refuse "--version must be a release of TensorFlow Serving such as 2.20.0; received '$2'." ;;
        address) [[ $2 =~ ^([0-9]{1,3}(\.[0-9]{1,3}){3}|\[[0-9a-fA-F:]+\])$ ]] ||
            refuse "--address must be an address of this machine such as 127.0.0.1 or 0.0.0.0; received '$2'." ;;
        port | rest_port) is_port "$2" || refuse "--$1 must be a number from 1 to 65535; received '$2'." ;;
        models) [[ -d $2 && -r $2 && $(realpath "$2") != *[,\"]* ]] ||
            refuse "--models must be a directory, without comma or quote in its path; received '$2'." ;;
        config) [[ -f $2 && -r $2 && $(realpath "$2") != *[,\"]* ]] ||
            refuse "--config must be a file such as launch/serving/models.config; received '$2'." ;;
    esac
}

command=${1-}
commands="start, status, log or stop"
taken=$(taken_by "$command") || refuse "serve.sh takes a command first, $commands; received '$command'."
taken="name dry_run${taken:+ $taken}"
shift

name=dit models='' config='' version=2.20.0 address=127.0.0.1 port=8500 rest_port=8501
gpu='' xla='' foreground='' dry_run=''
read_flags "$command" "$taken" "gpu xla foreground dry_run" "$@"

if [[ $command == start ]]; then
    [[ $models ]] || refuse "start needs --models=...; received none."
    [[ $port != "$rest_port" ]] || refuse "--rest_port must be another than --port; received '$port' for both."
    # A server that finds nothing waits for it without a word.
    if [[ $config ]]; then
        grep -Eq "^ *name: *[\"']${name//./\\.}[\"']" "$config" ||
            refuse "--name must be a model of --config=$config, which is asked for its health; received '$name'."
        compgen -G "$models/*/[0-9]*/saved_model.pb" >/dev/null ||
            refuse "--models must hold models with versions, such as dit/1, beside --config; received '$models'."
        config=$(realpath "$config")
    else
        compgen -G "$models/[0-9]*/saved_model.pb" >/dev/null ||
            refuse "--models must hold versions that dit_tf.export wrote, such as 1; received '$models'."
    fi
    models=$(realpath "$models")
fi
