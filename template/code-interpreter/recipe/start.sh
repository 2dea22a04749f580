#!/bin/sh
# Keeps the code interpreter's server running. Started once, before the template's
# snapshot; every sandbox wakes up with it.
cd "$HOME" || exit
while :; do
    /usr/local/bin/hearth-code-interpreter "$@" >>/var/log/code-interpreter.log 2>&1
    sleep 1
done
