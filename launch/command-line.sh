# shellcheck shell=bash
# Sourced by scripts that take a command and flags and can print what they would run.

# Bad input is one sentence and exit code 2.
refuse() {
    echo "$*" >&2
    exit 2
}

# Words as a shell reads them back.
quoted() {
    local word line="" apostrophe="'" escaped="'\\''"
    for word in "$@"; do
        if [[ ! $word =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]]; then word="'${word//$apostrophe/$escaped}'"; fi
        line+="${line:+ }$word"
    done
    echo "$line"
}

# read_flags COMMAND TAKEN SWITCHES [--FLAG=VALUE | --SWITCH]...: a variable per flag. TAKEN: names of all flags; those
# among SWITCHES take no value and become "yes". The script's own `check FLAG VALUE` refuses bad values.
read_flags() {
    local command=$1 taken=$2 switches=$3 argument flag value
    for argument in "${@:4}"; do
        flag=${argument%%=*} flag=${flag#--}
        if [[ $argument != --* || $flag == *" "* || " $taken " != *" $flag "* ]]; then
            refuse "$command takes the flags --${taken// /, --}; received '$argument'."
        fi
        if [[ " $switches " == *" $flag "* ]]; then
            if [[ $argument == *=* ]]; then refuse "--$flag takes no value; received '$argument'."; fi
            printf -v "$flag" yes
        else
            value=''
            if [[ $argument == *=* ]]; then value=${argument#*=}; fi
            check "$flag" "$value"
            printf -v "$flag" %s "$value"
        fi
    done
}
