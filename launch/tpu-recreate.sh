# shellcheck shell=bash
# shellcheck disable=SC2154  # the flags are tpu.sh's
# Sourced by tpu.sh: keeps a training going over preemptions. Its steps are functions of tpu.sh.

poll_seconds=60
first_delay=30
longest_delay=900
max_failures=24 # in a row; about five hours
failures=0 delay=$first_delay

# Prints what a query answers; MISSING where the thing is not there, UNKNOWN where no answer came (network, rights).
answer() {
    local errors
    errors=$(mktemp)
    if ! "$@" 2>"$errors"; then
        if grep -q -e NOT_FOUND -e 'was not found' "$errors"; then
            echo MISSING
        else
            cat "$errors" >&2
            echo UNKNOWN
        fi
    fi
    rm -f "$errors"
}

state() {
    local waiting
    if [[ $queued ]]; then
        waiting=$(answer queue_state)
        if [[ $waiting != ACTIVE ]]; then
            echo "$waiting"
            return
        fi
    fi
    answer machine_state
}

back_off() {
    failures=$((failures + 1))
    if ((failures >= max_failures)); then
        echo "recreate gives up after $max_failures failures in a row, the last: $1; $name may still cost money: look" \
            "with launch/tpu.sh status, and delete it." >&2
        exit 1
    fi
    say "$1; again in $delay s"
    sleep "$delay"
    delay=$((2 * delay < longest_delay ? 2 * delay : longest_delay))
}

went_well() { failures=0 delay=$first_delay; }

renew() { # whether there is one to be deleted first
    if [[ $1 == MISSING ]] || delete; then
        if create; then went_well; else back_off "$name could not be created"; fi
    else
        back_off "$name could not be deleted"
    fi
}

last_rites() {
    say "$1; deleting $name"
    delete || say "It could not be deleted, and costs money until it is."
}

# What is to be done about a TPU that is ready, by what the training there says of itself.
tend() {
    local report
    report=$(training) || report=''
    report=$(sed -n 's/^training: //p' <<<"$report")
    case $report in
        running)
            went_well
            sleep "$poll_seconds"
            ;;
        none)
            say "installing and starting on $name"
            if install && run; then sleep "$poll_seconds"; else back_off "the training could not be started"; fi
            ;;
        finished)
            last_rites "The training has finished"
            exit 0
            ;;
        stopped)
            say "The training was stopped, so recreate ends; $name stays, and costs money until it is deleted."
            exit 0
            ;;
        failed*)
            on_hosts 0 "tail -n 50 dit_tf-run/train.log" || true
            last_rites "The training $report, which another start would not mend"
            exit 1
            ;;
        *) back_off "host 0 of $name does not answer" ;;
    esac
}

recreate() {
    local now
    while true; do
        now=$(state)
        case $now in
            READY) tend ;;
            MISSING | PREEMPTED | TERMINATED | SUSPENDED | FAILED)
                say "$name is $now"
                renew "$now"
                ;;
            ACCEPTED | WAITING_FOR_RESOURCES | PROVISIONING | CREATING | STARTING | RESTARTING | REPAIRING) sleep 60 ;;
            DELETING | SUSPENDING | STOPPING | HIDING | UNHIDING) sleep 60 ;;
            *) back_off "the state of $name is $now" ;;
        esac
    done
}

# The commands of one round: found preempted, made anew, installed, started, finished, deleted.
one_round() {
    if [[ $queued ]]; then queue_state; else machine_state; fi
    delete
    create
    status
    install
    run
    status
    delete
}
