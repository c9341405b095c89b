# For Docker: docs/guides/images.md has the command.
# REGISTRY, TAG and TORCH (the torch build of train: cpu, or cu130) must agree with pipelines/images.lock.yaml. COMMIT and
# VERSION become labels, and the code's state for runs of other clients than `mistere`; without them, the gate holds such a run's
# model. After `--push`, write the digest of an image into that file with
# `python -m pipelines.images --digest ROLE=sha256:...`. `--sbom=true` adds BuildKit's own SBOM.
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
