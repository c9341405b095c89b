# TAG=$(.venv/bin/python -m pipelines.images --tag) docker buildx bake -f docker/docker-bake.hcl
# The tag is what pipelines/images.lock.yaml names: the hash of the source.
variable "TAG" {}

group "default" { targets = ["pipeline", "train", "predictor"] }

target "image" {
  name       = role
  matrix     = { role = ["pipeline", "train", "predictor"] }
  dockerfile = "docker/Dockerfile"
  context    = "."
  target     = role
  tags       = ["mistere/${role}-python:${TAG}"]
}
