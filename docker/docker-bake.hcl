# For Docker: TAG=$(.venv/bin/python -m pipelines.images --tag) docker buildx bake -f docker/docker-bake.hcl
# REGISTRY, TAG and TORCH (of train: cpu, or cu130 and the like) are what pipelines/images.lock.yaml says; COMMIT and VERSION
# become labels. With `--push`, an image's digest goes into that file by
# `python -m pipelines.images --digest ROLE=sha256:...`. BuildKit adds an SBOM of its own with `--sbom=true`.
variable "REGISTRY" { default = "localhost/mistere" }
variable "TAG" {}
variable "BASE" { default = "docker.io/library/python:3.11-slim-bookworm" }
variable "TORCH" { default = "cpu" }
variable "COMMIT" { default = "" }
variable "VERSION" { default = "" }

group "default" { targets = ["pipeline", "train", "predictor"] }

target "image" {
  name       = role
  matrix     = { role = ["pipeline", "train", "predictor"] }
  dockerfile = "docker/Dockerfile"
  context    = "."
  target     = role
  tags       = ["${REGISTRY}/${role}-python:${TAG}${role == "train" && TORCH != "cpu" ? "-${TORCH}" : ""}"]
  args = {
    BASE          = BASE
    TORCH_BACKEND = role == "train" ? TORCH : "cpu"
    COMMIT        = COMMIT
    VERSION       = VERSION
  }
}
