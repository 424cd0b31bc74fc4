"""Models that travel: ONNX files and bioimage.io packages, written from our models and read into them."""
