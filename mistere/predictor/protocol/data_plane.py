"""kserve's data plane with this server's own idea of ready, and without loading models on a caller's word."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kserve import ModelRepository
from kserve.errors import ModelNotReady
from kserve.protocol.dataplane import DataPlane

from mistere.predictor.model import EmotionPredictor
from mistere.predictor.protocol.codec import model_version, response_parameters


class PredictorDataPlane(DataPlane):  # type: ignore[misc]  # kserve has no type information
    """What REST and gRPC share.

    Args:
        registry: the served models.
        is_ready: whether new callers should be routed here.
    """

    def __init__(self, registry: ModelRepository, is_ready: Callable[[], bool]) -> None:
        super().__init__(model_registry=registry)
        self._is_ready = is_ready

    async def ready(self) -> bool:
        """False while the model loads, and from the moment the server is told to stop."""
        return self._is_ready()

    async def get_model(self, name: str) -> EmotionPredictor:
        """A model that may be asked.

        Raises:
            ModelNotFound: no such model.
            ModelNotReady: still loading.
        """
        model = self.get_model_from_registry(name)
        assert isinstance(model, EmotionPredictor)
        if not model.ready:
            raise ModelNotReady(name)
        return model

    async def admit(self, name: str) -> None:
        """Refuse a request before its body is read: unknown model, not ready, or overloaded."""
        (await self.get_model(name)).batcher.check()

    def metadata(self) -> dict[str, Any]:
        """The server's metadata. Models cannot be loaded or unloaded from outside."""
        return {**super().metadata(), "extensions": ["binary_tensor_data"]}

    async def model_metadata(self, model_name: str) -> dict[str, Any]:
        """Tensors, version, and under ``properties`` what a caller needs to know of the model."""
        model = await self.get_model(model_name)
        return {
            "name": model_name,
            "versions": [model_version(model.loaded)],
            "platform": "",
            "inputs": model.get_input_types(),
            "outputs": model.get_output_types(),
            "properties": {
                **response_parameters(model.loaded),
                **{f"encoder_digest.{modality}": digest for modality, digest in model.loaded.encoder_digests.items()},
            },
        }
