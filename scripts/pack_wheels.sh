#!/usr/bin/env bash
# Packs what the project needs on an offline machine that has PyTorch, torchvision, NumPy, SciPy, Matplotlib,
# TensorBoard, OpenCV, Pillow and Jinja2 already, and the drawn images of scripts/gpu_check.py.
#   scripts/pack_wheels.sh FOLDER [PYTHON_VERSION]     the other machine's Python; 3.12 by default
# There, in the checkout:
#   python3 -m pip install -q --no-index --no-deps --target SITE FOLDER/*.whl
#   python3 -m zipfile -e FOLDER/detectron2/*.whl SITE
#   PYTHONPATH=SITE PANOPTIC_DL_CACHE=FOLDER/scenes python3 scripts/gpu_check.py --minutes 9 --out DIR
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
out=${1:?usage: pack_wheels.sh FOLDER [PYTHON_VERSION]} version=${2:-3.12}
python=${PYTHON:-$root/.venv/bin/python} pip=${PIP:-python3 -m pip}
mkdir -p "$out/detectron2"
platforms=()
for tag in manylinux_2_28 manylinux_2_27 manylinux_2_24 manylinux_2_17 manylinux2014 manylinux1; do
  platforms+=(--platform "${tag}_x86_64")
done
get=($pip download -q --disable-pip-version-check --no-deps --only-binary=:all:)
# The versions of requirements.lock; NumPy stays the other machine's, which its other packages are built for.
pinned=$(grep -oE '^(hydra-core|omegaconf|pyyaml|yacs|termcolor|tabulate|cloudpickle|tqdm|rich|markdown-it-py|mdurl|pygments|portalocker|packaging|pycocotools|panopticapi-lite|cityscapesscripts|isal|pyspng|safetensors|pyquaternion|appdirs)==[^ ;]+' "$root/requirements.lock" | sort -u)
"${get[@]}" --python-version "$version" --implementation cp "${platforms[@]}" --platform any -d "$out" $pinned
# Published as source only, pure Python.
sources=$(grep -oE '^(fvcore|iopath|antlr4-python3-runtime)==[^ ;]+' "$root/requirements.lock" | sort -u)
$pip wheel -q --disable-pip-version-check --no-deps -w "$out" $sources
# The Python part of this wheel fits every Python; its compiled part is not needed.
"${get[@]}" --python-version 3.10 --implementation cp --abi none --platform any -d "$out/detectron2" \
  "$(grep -oE '^sal-detectron2==[^ ;]+' "$root/requirements-detectron2.lock")"
PANOPTIC_DL_CACHE=$out/scenes "$python" "$root/scripts/gpu_check.py" --stage scenes --out "$out"
rm -f "$out"/results.jsonl "$out"/*.log
du -sh "$out"
