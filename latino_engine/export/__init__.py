"""Networks, and the whole sampler, as ONNX graphs."""
