#!/usr/bin/env bash
# Builds the images of pipelines/images.lock.yaml with podman or Docker, and writes their SBOMs to output/sbom/.
# usage: build.sh [IMAGE...]; skips images that exist under their tag, which is the hash of the source.
#        build.sh --probe; only checks that a base image exists and that a container of it runs.
# Environment: BASE (the base image, by digest), PYTHON (an environment with the project).
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
base=${BASE:-docker.io/library/python:3.11-slim-bookworm}

if ! command -v podman >/dev/null && ! docker info >/dev/null 2>&1; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "building needs podman or Docker: install one." >&2
        exit 1
    fi
    echo "installing podman"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends podman buildah runc fuse-overlayfs \
        containernetworking-plugins aardvark-dns netavark iptables uidmap slirp4netns >/dev/null
fi
if command -v podman >/dev/null; then
    export ENGINE=podman
    build=(podman build --quiet --force-rm --format docker --network host)
    if command -v runc >/dev/null; then
        export CONTAINERS_CONF=${CONTAINERS_CONF:-$PWD/docker/containers.conf}
    fi
else
    export ENGINE=docker DOCKER_BUILDKIT=1
    build=(docker build --quiet --network host)
fi

ensure_base() {
    if ! "$ENGINE" image inspect "$base" >/dev/null 2>&1 && ! "$ENGINE" pull --quiet "$base" >/dev/null 2>&1; then
        echo "cannot pull $base: making a base image from Debian packages"
        bash docker/base.sh "$base"
    fi
}

if [ "${1:-}" = --probe ]; then
    ensure_base
    exec "$ENGINE" run --rm --network host --entrypoint true "$base"
fi

images=("$@")
[ ${#images[@]} -gt 0 ] || images=(pipeline train predictor)
declare -A name torch
missing=()
for image in "${images[@]}"; do
    read -r name[$image] torch[$image] < <("$python" -m pipelines.images --build "$image")
    "$ENGINE" image inspect "${name[$image]}" >/dev/null 2>&1 || missing+=("$image")
done
if [ ${#missing[@]} -gt 0 ]; then
    ensure_base
    settings=$(mktemp -d)
    trap 'rm -rf "$settings"' EXIT
    mapfile -t options < <("$python" docker/index_settings.py "$settings" "$ENGINE")
    if [ "$ENGINE" = podman ] && compgen -G "${PIP_FIND_LINKS:-/nowhere}/torch-*.whl" >/dev/null; then
        default_torch=""  # use the torch wheel of the folder
    else
        default_torch=cpu
    fi
    commit=$(git rev-parse HEAD 2>/dev/null || true)
    version=$("$python" -m pipelines.images --version)  # without -dirty if only .gitignore or documentation has changes
    for image in "${missing[@]}"; do
        started=$SECONDS
        "${build[@]}" --file docker/Dockerfile --target "$image" --build-arg "BASE=$base" --build-arg "COMMIT=$commit" \
            --build-arg "VERSION=$version" --build-arg "TORCH_BACKEND=${torch[$image]:-$default_torch}" "${options[@]}" \
            --tag "${name[$image]}" . >/dev/null
        echo "built $image in $((SECONDS - started)) s"
    done
fi

mkdir -p output/sbom
for image in "${images[@]}"; do
    "$ENGINE" run --rm --no-healthcheck --network none --entrypoint cat "${name[$image]}" /opt/sbom/mistere.cdx.json \
        > "output/sbom/$image.cdx.json"
    size=$("$ENGINE" image inspect --format '{{.Size}}' "${name[$image]}")
    echo "$image: ${name[$image]}, $((size / 1000000)) MB, SBOM in output/sbom/$image.cdx.json"
done
