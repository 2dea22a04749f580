#!/bin/sh
# Run in sandboxes that are made ahead of their use, so that the first execution is
# not the machine's first.
exec curl -s --max-time 15 -o /dev/null -X POST http://localhost:49999/rehearse
