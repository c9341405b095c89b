# docker buildx bake -f docker/docker-bake.hcl
variable "TAG" { default = "dev" }

group "default" { targets = ["pipeline", "train", "predictor"] }

target "image" {
  name       = role
  matrix     = { role = ["pipeline", "train", "predictor"] }
  dockerfile = "docker/Dockerfile"
  context    = "."
  target     = role
  tags       = ["mistere/${role}-python:${TAG}"]
}
