"""Models as ONNX graphs: exported from a bundle by PyTorch, and computed by ONNX Runtime without it."""
