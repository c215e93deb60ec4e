# shellcheck shell=bash
# shellcheck disable=SC2034  # what is set here is read by tpu.sh
# Sourced by tpu.sh: its command line -> $command and a variable per flag.

# What each command takes besides --name, --zone, --project and --dry_run, and what it cannot do without.
taken_by() {
    case $1 in
        create) echo "type version spot queued" ;;
        run) echo "flagfile workdir" ;;
        tail) echo "worker" ;;
        status | delete) echo "queued" ;;
        install | stop) ;;
        recreate) echo "type version spot queued flagfile workdir" ;;
        *) return 1 ;;
    esac
}
needed_by() {
    case $1 in
        create) echo "name zone type" ;;
        run) echo "name zone flagfile workdir" ;;
        recreate) echo "name zone type flagfile workdir" ;;
        *) echo "name zone" ;;
    esac
}

# The slices that the server of TensorFlow 2.20's wheel knows (grpc_tpu_worker.py): no v6e of several hosts, and v2 and
# v3 of the listed numbers of cores only. One host has up to 8.
is_type() {
    case $1 in
        v2-8 | v2-32 | v2-128 | v2-256 | v2-512) ;;
        v3-8 | v3-32 | v3-64 | v3-128 | v3-256 | v3-512 | v3-1024 | v3-2048) ;;
        v5litepod-1 | v5litepod-4 | v5litepod-8 | v5litepod-16 | v5litepod-32 | v5litepod-64 | v5litepod-128) ;;
        v5litepod-256 | v6e-1 | v6e-4 | v6e-8) ;;
        v4-* | v5p-*) [[ ${1#*-} =~ ^[1-9][0-9]{0,4}$ ]] && ((${1#*-} % 8 == 0)) ;;
        *) return 1 ;;
    esac
}

# Images without a framework, as Cloud TPU's page on software versions lists them: install brings TensorFlow.
default_version() {
    case $1 in
        v6e-*) echo v2-alpha-tpuv6e ;;
        v5p-*) echo v2-alpha-tpuv5 ;;
        v5litepod-*) echo v2-alpha-tpuv5-lite ;;
        *) echo tpu-ubuntu2204-base ;;
    esac
}

check() { # FLAG VALUE
    case $1 in
        name) [[ $2 =~ ^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$ ]] ||
            refuse "--name must be lower-case letters, digits and hyphens, a letter first; received '$2'." ;;
        zone) [[ $2 =~ ^[a-z]+-[a-z]+[0-9]+-[a-z]$ ]] ||
            refuse "--zone must be a zone such as us-central2-b; received '$2'." ;;
        project) [[ $2 =~ ^([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]$ ]] ||
            refuse "--project must be a project's ID, 6 to 30 lower-case letters, digits and hyphens; received '$2'." ;;
        type) is_type "$2" ||
            refuse "--type must be v2-8 to v2-512, v3-8 to v3-2048, v4-N or v5p-N (N a multiple of 8), v5litepod-1 to" \
                "v5litepod-256, or v6e-1, v6e-4, v6e-8, of a size that exists; received '$2'." ;;
        version) [[ $2 =~ ^[a-z0-9][a-z0-9.-]*$ ]] ||
            refuse "--version must be a TPU software version such as tpu-ubuntu2204-base; received '$2'." ;;
        workdir) [[ $2 =~ ^gs://[a-z0-9][a-z0-9._-]+/[A-Za-z0-9._=/-]+$ ]] ||
            refuse "--workdir must be gs://BUCKET/PATH, because a TPU's disk goes when the TPU goes; received '$2'." ;;
        flagfile) [[ -f $2 && -r $2 ]] ||
            refuse "--flagfile must be a file on this machine, such as launch/flags/digits.flags; received '$2'." ;;
        worker) [[ $2 =~ ^(all|0|[1-9][0-9]{0,3})$ ]] ||
            refuse "--worker must be the number of a host, from 0 on, or all; received '$2'." ;;
    esac
}

commands="create, install, run, tail, status, stop, delete or recreate"
command=${1-}
taken=$(taken_by "$command") || refuse "tpu.sh takes a command first, $commands; received '$command'."
taken="name zone project dry_run${taken:+ $taken}"
shift

name='' zone='' project='' type='' version='' workdir='' flagfile='' spot='' queued='' dry_run='' worker=0
read_flags "$command" "$taken" "spot queued dry_run" "$@"
for flag in $(needed_by "$command"); do
    if [[ -z ${!flag} ]]; then refuse "$command needs --$flag=...; received none."; fi
done
version=${version:-$(default_version "$type")}
