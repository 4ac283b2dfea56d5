"""Export to ONNX; needs the extra `export`."""
