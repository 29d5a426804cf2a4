#!/bin/sh
# Runs the tests of /vm/test that /vm/tests names, one at a time, and writes what they print to the port
# that the host reads.

# The only port of the only virtio-serial device.
port=/dev/$(cd /sys/class/virtio-ports && echo *)
export MCRUN_TEST_GUEST=1
{
    while read -r name; do
        # What is printed may end without a newline.
        printf '\n=== begin %s\n' "$name"
        timeout "$(cat /vm/limit)" /vm/test --exact "$name" --include-ignored --nocapture </dev/null 2>&1
        printf '\n=== end %s %d\n' "$name" $?
    done </vm/tests
    echo '=== all'
} >"$port"
