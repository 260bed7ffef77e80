#!/bin/sh
# Stands in for OpenWrt: sh openwrt.sh SCRIPT FUNCTION...
#
# It has the functions of rc.common, UCI and procd that the init script uses. A call that would change something of the
# system is written to standard output instead: a line with the name of the function, and a line for each argument,
# after a tab.
#
# $CONFIG is the folder of the UCI files. $ACCOUNTS is a file with a line for each user and each group.
#
# shellcheck shell=dash # each shell of a board has `local`
set -eu

report() {
    printf '%s\n' "$1"
    shift
    [ $# -eq 0 ] || printf '\t%s\n' "$@"
}

# UCI. A file in single quotes is read by a shell as UCI reads it.

sections=''
section=''

config() { # type, name
    section=${2:-cfg$(echo "$sections" | wc -w)}
    sections="$sections $section"
    config_set TYPE "$1"
}

option() { # name, value
    config_set "$1" "$2"
}

list() { # name, value
    config_get length "$section" "$1_LENGTH" 0
    length=$((length + 1))
    config_set "$1_LENGTH" "$length"
    config_set "$1_ITEM$length" "$2"
}

config_set() { # option, value
    eval "CONFIG_${section}_$1=\$2"
}

config_load() { # package
    # shellcheck source=/dev/null # a test writes the file
    . "$CONFIG/$1"
}

config_get() { # variable, section, option, default
    eval "$1=\${CONFIG_$2_$3:-\${4:-}}"
}

config_get_bool() { # variable, section, option, default
    config_get "$@"
    eval "set -- \"\$1\" \"\${$1}\" \"\$4\""
    case $2 in
        1 | on | true | yes | enabled) eval "$1=1" ;;
        0 | off | false | no | disabled) eval "$1=0" ;;
        *) eval "$1=\$3" ;;
    esac
}

config_foreach() { # function, type
    local each type
    for each in $sections; do
        config_get type "$each" TYPE
        [ "$type" != "$2" ] || "$1" "$each"
    done
}

config_list_foreach() { # section, option, function, further arguments
    local from="$1" of="$2" call="$3" length item number=1
    shift 3
    config_get length "$from" "${of}_LENGTH" 0
    while [ "$number" -le "$length" ]; do
        config_get item "$from" "${of}_ITEM$number"
        "$call" "$item" "$@"
        number=$((number + 1))
    done
}

# Users and groups.

user_exists() {
    grep -qs "^user $1\$" "$ACCOUNTS"
}

group_add_next() {
    echo "group $1" 2>/dev/null >>"$ACCOUNTS" || return
    echo 4321
}

user_add() { # name, uid, gid
    echo "user $1" 2>/dev/null >>"$ACCOUNTS" || return
    report user_add "$@"
}

chown() {
    report chown "$@"
}

logger() {
    report logger "$@"
}

# procd.

procd_open_instance() {
    report procd_open_instance "$@"
}

procd_set_param() {
    report procd_set_param "$@"
}

procd_append_param() {
    report procd_append_param "$@"
}

procd_close_instance() {
    report procd_close_instance
}

procd_add_reload_trigger() {
    report procd_add_reload_trigger "$@"
}

# shellcheck source=/dev/null # an argument names the file
. "$1"
shift
report order "$START" "$STOP" "$USE_PROCD"
set +e # as in rc.common
for function in "$@"; do
    "$function"
done
