#!/bin/sh
# join COMMAND...: make this container a node of the Ray cluster that offers nothing, then run COMMAND as its driver.
# A driver must live on a node; this one leaves the work to the others.
set -eu
ray start --address="$RAY_ADDRESS" --num-cpus=0 --num-gpus=0 --object-store-memory=200000000 --disable-usage-stats \
    >/dev/null
exec "$@"
