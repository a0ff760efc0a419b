#!/bin/sh
# Makes .venv with everything Telic needs, from pyproject.toml and constraints.txt.
# Where Debian's libraries for off-screen rendering or the tools that build robomimic's egl_probe
# are missing, it installs them when it runs as root with apt, and else says which they are.
# Of two at once the second waits. .venv/installed keeps the requirements that were installed, so
# that the next run can say which have changed.
set -eu
cd "$(dirname "$0")/.."

say() { printf 'install: %s\n' "$*" >&2; }

apt_install() {  # apt_install "what for" package...: installs as root, else explains
  purpose=$1; shift
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    say "installing $* ($purpose)"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "$@" >/dev/null; } && return 0
  fi
  say "$purpose needs: $*"
  say "  as root: apt-get install --no-install-recommends $*"
  return 1
}

python=
for candidate in ${PYTHON:-python3.12 python3.11 python3}; do
  if command -v "$candidate" >/dev/null 2>&1 && "$candidate" -c \
      'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
    python=$candidate; break
  fi
done
if [ -z "$python" ]; then
  say "no Python 3.11 or 3.12 found (tried ${PYTHON:-python3.12 python3.11 python3}); set PYTHON=/path/to/python"
  exit 2
fi
lock=${INSTALL_LOCK:-}
if [ "${lock%% *}" != "$$" ]; then
  exec "$python" tools/install_lock.py sh tools/install.sh
fi
trap 'say "stopped; make install goes on where it was"; exit 130' INT
trap 'say "stopped; make install goes on where it was"; exit 143' TERM

up_to_date() {
  for source in pyproject.toml constraints.txt tools/install.sh; do
    [ .venv/installed -nt "$source" ] || return 1
  done
}
if [ "${lock#* }" = waited ] && up_to_date; then
  say "the other installation has done it"
  exit 0
fi
"$python" tools/requirement_changes.py show .venv/installed >&2

if [ ! -x .venv/bin/python ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
  rm -rf .venv
  if ! "$python" -m venv .venv; then
    rm -rf .venv
    apt_install "making a virtual environment" python3-venv || exit 2
    "$python" -m venv .venv
  fi
fi

# robomimic 0.3.0 needs egl_probe, which is compiled on installation.
extras=dev,lerobot,mcap,umi,robomimic
if ! { command -v cmake && command -v c++ && command -v make; } >/dev/null 2>&1; then
  if ! apt_install "robomimic's baselines (egl_probe is compiled)" cmake make g++; then
    say "  going on without robomimic; run 'make install' again once they are there"
    extras=dev,lerobot,mcap,umi
  fi
fi
# CMake 4 refuses egl_probe's old minimum without this.
CMAKE_POLICY_VERSION_MINIMUM=3.5 .venv/bin/python -m pip install --quiet \
  --disable-pip-version-check -c constraints.txt -e ".[$extras]"

# The package's root is the repository's: this link is where type checkers find it as `telic`.
mkdir -p .venv/typing
ln -sfn ../.. .venv/typing/telic

can_render() { .venv/bin/python -m telic.envs.rendering >/dev/null 2>&1; }
if ! can_render; then
  apt_install "off-screen rendering (camera images, videos)" libegl1 libgl1 libgl1-mesa-dri \
    && can_render || say "  everything that needs no picture works without"
fi
"$python" tools/requirement_changes.py record .venv/installed
