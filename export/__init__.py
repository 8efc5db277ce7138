"""From a trained run to what drives a robot: a verified folder of ONNX models, and the code that runs it.

`bundle`, `manifest`, `weights` and `runtime` need numpy and onnxruntime alone; `to_onnx` and `graphs`
need torch and onnx.
"""
