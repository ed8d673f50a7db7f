"""One file for each way from a model to an ONNX graph; ``edgebuild.export.chain`` says in which order they are tried."""
