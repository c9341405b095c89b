# Sourced by the build: uses pip's and uv's settings and a private CA, if the build has them as secrets.
if [ -f /run/secrets/ca ]; then
    export SSL_CERT_FILE=/run/secrets/ca PIP_CERT=/run/secrets/ca
fi
if [ -f /run/secrets/uv_toml ]; then
    export UV_CONFIG_FILE=/run/secrets/uv_toml
fi
