#!/bin/sh
# Ends as soon as the server is ready, or after LIMIT seconds with its log.
limit=${1:-100}
end=$(($(date +%s) + limit))
while [ "$(date +%s)" -lt "$end" ]; do
    [ "$(curl -s --max-time 10 http://localhost:49999/health)" = OK ] && exit 0
    sleep 0.2
done
tail -n 20 /var/log/code-interpreter.log >&2
exit 1
