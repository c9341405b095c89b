"""kserve's data plane with this server's readiness, and without loading or unloading models on request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kserve import ModelRepository
from kserve.errors import ModelNotReady
from kserve.protocol.dataplane import DataPlane

from mistere.data.recordings import formats
from mistere.predictor.errors import unknown_version
from mistere.predictor.model import EmotionPredictor
from mistere.predictor.protocol.codec import model_version, response_parameters
from mistere.predictor.protocol.metadata import stated_limits


class PredictorDataPlane(DataPlane):  # type: ignore[misc]  # kserve has no type information
    """The operations that REST and gRPC share.

    Args:
        registry: the served models.
        is_ready: whether the server accepts new requests.
    """

    def __init__(self, registry: ModelRepository, is_ready: Callable[[], bool]) -> None:
        super().__init__(model_registry=registry)
        self._is_ready = is_ready

    async def ready(self) -> bool:
        """False while the model loads, and as soon as the server begins to stop."""
        return self._is_ready()

    async def get_model(self, name: str) -> EmotionPredictor:
        """Return a ready model.

        Raises:
            ModelNotFound: the model is unknown.
            ModelNotReady: the model is still loading.
        """
        model = self.get_model_from_registry(name)
        assert isinstance(model, EmotionPredictor)
        if not model.ready:
            raise ModelNotReady(name)
        return model

    async def check_version(self, name: str, version: str) -> None:
        """Reject a version other than the served one.

        Args:
            name: the model's name.
            version: the requested version; empty for any.

        Raises:
            RequestError: the version is not served.
            ModelNotFound, ModelNotReady: as :meth:`get_model`, if a version is given.
        """
        if not version:
            return
        served = model_version((await self.get_model(name)).loaded)
        if version != served:
            raise unknown_version(served)

    async def admit(self, name: str, version: str) -> None:
        """Reject a request before its body is read if the model or version is unknown, or the model not ready or overloaded."""
        model = await self.get_model(name)
        await self.check_version(name, version)
        model.batcher.check()

    def metadata(self) -> dict[str, Any]:
        """The server's metadata, without kserve's extension for loading and unloading models."""
        return {**super().metadata(), "extensions": ["binary_tensor_data"]}

    async def model_metadata(self, model_name: str) -> dict[str, Any]:
        """A model's tensors and version; ``properties`` holds labels, experts, digests, limits and accepted audio."""
        model = await self.get_model(model_name)
        return {
            "name": model_name,
            "versions": [model_version(model.loaded)],
            "platform": "",
            "inputs": model.get_input_types(),
            "outputs": model.get_output_types(),
            "properties": {
                **response_parameters(model.loaded),
                **{f"encoder_digest.{name}": digest for name, digest in model.loaded.vector_digests.items() if digest},
                **model.settings.stated(),
                **stated_limits(model.loaded),
                **formats.stated(),
            },
        }
