#!/usr/bin/env bash
# Install visage and the pinned packages of constraints/DEVICE.txt into an environment.
#
# The pinned set is complete, so nothing is resolved (--no-deps): a resolver would bring in packages that
# do not fit a CPU build of torch (see cpu-overrides.txt).
# With a third argument, `copy`, visage is installed as it is now, for good, and not as a working tree.
set -euo pipefail
python=$1
device=$2
how=${3:-editable}
here=$(cd "$(dirname "$0")" && pwd)
pins=$here/$device.txt

pip() { "$python" -m pip install --quiet --disable-pip-version-check --no-deps "$@"; }

if [ "$device" = cpu ]; then
    torch=$(grep -m 1 '^torch==.*+cpu' "$pins" | cut -d ' ' -f 1)
    # PyPI has torch for CUDA alone. Where pip's own sources have no CPU build, uv knows where one is.
    if ! pip "$torch" 2>/dev/null; then
        pip uv
        "$python" -m uv pip install --quiet --python "$python" --torch-backend cpu --no-deps "$torch"
    fi
fi
pip --requirement "$pins"
if [ "$how" = copy ]; then
    pip "$here/.."
else
    pip --editable "$here/.."
fi
