#!/bin/sh
# install.sh cpu|gpu LOCK: install the locked packages into the active virtual environment.
# gpu: exactly the lock, every file checked by digest. cpu: the same, but torch and torchvision come, in the same
# versions, from PyTorch's CPU builds, and the CUDA libraries (several GB) stay out; the lock has no digests of those.
set -eu
variant=$1 lock=$2
case $variant in
gpu)
    uv pip install --no-deps --require-hashes -r "$lock"
    ;;
cpu)
    rest=$(mktemp)
    awk '/^[A-Za-z0-9]/ { keep = $0 !~ /^(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==/ } keep' \
        "$lock" >"$rest"
    uv pip install --no-deps --require-hashes -r "$rest"
    rm "$rest"
    # shellcheck disable=SC2046  # two words on purpose: torch==… torchvision==…
    uv pip install --no-deps --torch-backend cpu $(grep -Eo '^(torch|torchvision)==[^ ]+' "$lock")
    ;;
*)
    echo "VARIANT must be cpu or gpu, not '$variant'" >&2
    exit 2
    ;;
esac
