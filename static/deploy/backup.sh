#!/bin/sh
# Copies the logs of a server, which may run meanwhile: sh backup.sh DIR COPY
#
# A channel has up to two files. From time to time NAME.sse becomes NAME.old.sse, and a new NAME.sse begins. If that
# happens during the copy, one of them would be missing, or be there twice. The names and first lines of the two files
# are then others than before. So the channel is copied again.
set -eu
[ $# -eq 2 ] || { echo "usage: sh backup.sh DIR COPY" >&2; exit 2; }
from=$1
to=$2
files=$(ls "$from")
mkdir "$to" # A new directory: no file of an earlier backup is among these.
chmod 700 "$to"

first_lines() {
    head -n 1 "$from/$name.old.sse" "$from/$name.sse" 2>/dev/null || :
}

copy() { # A file can have another name by now; then the copy fails, and is repeated.
    for file in "$name.old.sse" "$name.sse"; do
        rm -f "$to/$file"
        [ ! -f "$from/$file" ] || why=$(cp -pP "$from/$file" "$to/$file" 2>&1) || return
    done
}

names='s/^\([A-Za-z0-9_-]*\)\.sse$/\1/p; s/^\([A-Za-z0-9_-]*\)\.old\.sse$/\1/p'
for name in $(printf '%s\n' "$files" | sed -n "$names" | sort -u); do
    tries=0 why="its files change too fast"
    until
        before=$(first_lines)
        copy && [ "$before" = "$(first_lines)" ]
    do
        tries=$((tries + 1))
        [ "$tries" -lt 20 ] || { echo "backup.sh: $name could not be copied: $why" >&2; exit 1; }
    done
done
