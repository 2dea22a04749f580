#!/bin/sh
# Keeps the code interpreter's server running, as root: code may install packages.
# Started once, before the template's snapshot; every sandbox wakes up with it.
export HOME=/root LANG=C.UTF-8
cd /home/user || exit
while :; do
    /usr/local/bin/hearth-code-interpreter --home /home/user "$@" >>/var/log/code-interpreter.log 2>&1
    sleep 1
done
