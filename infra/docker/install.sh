#!/bin/sh
# Installs faceid and its pinned packages into a new virtual environment: sh infra/docker/install.sh cpu|gpu FOLDER
# The Dockerfile runs it, and a test does in a clean environment. Which index has the build of torch is pip's own setting.
set -eu
build=$1
venv=$2
root=$(cd "$(dirname "$0")/../.." && pwd)
pins=$root/infra/docker/constraints-$build.txt

python3 -m venv "$venv"
pip() {
  "$venv/bin/python" -m pip --disable-pip-version-check --no-cache-dir "$@"
}
# The build's own packages are pinned, too, so it runs with them rather than with the newest ones.
pip install --quiet --constraint "$root/constraints.txt" pip setuptools
pip install --quiet --progress-bar off --no-build-isolation \
  --constraint "$root/constraints.txt" --constraint "$pins" "$root[heic,tracing]"

# Trained on pictures for non-commercial use; faceid never opens it, and an image that is passed on should not hold it.
find "$venv" -name shape_predictor_68_face_landmarks.dat -delete

"$venv/bin/python" "$root/infra/docker/check.py" "$build" "$venv"
