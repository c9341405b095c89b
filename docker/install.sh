#!/bin/sh
# Installs the Python packages of one image's lock into /opt/venv, without pip, and writes the SBOM to /opt/sbom.
# usage: install.sh pipeline|train|predictor
set -eu
image=$1
export PATH=/opt/tools/bin:$PATH
. ./index.sh

python3 -m venv --without-pip /opt/venv
python=/opt/venv/bin/python
install="uv pip install --quiet --python $python --link-mode copy"
$install ${TORCH_BACKEND:+--torch-backend "$TORCH_BACKEND"} --requirements "$image.lock"
uv pip check --quiet --python $python
if [ "$image" = train ]; then
    $install --no-deps --requirements requirements-encoders.lock
fi
mkdir -p /opt/sbom
cyclonedx-py environment $python --output-reproducible --output-format JSON --output-file /opt/sbom/mistere.cdx.json
python3 debian_packages.py /opt/sbom/mistere.cdx.json

# Remove what no step uses: tests of packages, Arrow's RPC server, AWS services other than S3 and its sign-in; and sources,
# headers and setuptools in images that compile no kernels.
cd /opt/venv/lib/python3*/site-packages
find . -type d -name tests -prune -exec rm -rf {} +
rm -rf pyarrow/include pyarrow/src pyarrow/*flight*
find botocore/data -mindepth 1 -maxdepth 1 -type d ! -name s3 ! -name sts ! -name 'sso*' -exec rm -rf {} +
if [ "$image" != train ]; then
    rm -rf setuptools setuptools-* _distutils_hack distutils-precedence.pth torch/include
    if [ -d torch/bin ]; then
        find torch/bin -type f ! -name torch_shm_manager -delete
    fi
    find . -type f \( -name '*.pyx' -o -name '*.pxd' -o -name '*.pxi' -o -name '*.[ch]' -o -name '*.cpp' \) -delete
fi

# Compile bytecode now: the root file system is read-only, so Python could not cache it and would compile at every start. The
# pipeline image compiles only the modules that its steps import, to stay small.
if [ "$image" = pipeline ]; then
    $python -c "import boto3, dvc.api, dvc_s3, great_expectations.expectations, httpx, jinja2, kfp.compiler, kubernetes.client
import kfp.dsl.executor_main, kserve.protocol.grpc.grpc_predict_v2_pb2_grpc, kserve.protocol.infer_type
import matplotlib.backends.backend_svg, mlflow.models, mlflow.tracking, model_signing.signing, model_signing.verifying, pandas, pyarrow.compute, pyarrow.parquet
import rich.console, s3fs, scipy.optimize, scipy.signal, soundfile, sqlalchemy.exc, typer"
else
    $python -m compileall -q -j 0 . >/dev/null || true  # some packages contain templates with the suffix .py
fi
