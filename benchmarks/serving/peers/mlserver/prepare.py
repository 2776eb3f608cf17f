"""Converts the fp32 model for MLServer: a Hugging Face folder whose only ONNX file is dynamic int8,
and the server's settings for Optimum's pipeline and adaptive batching.

    python prepare.py FINETUNED FP32.onnx FOLDER
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

from optimum.onnxruntime import ORTQuantizer
from optimum.onnxruntime.configuration import AutoQuantizationConfig


def main(finetuned: Path, fp32: Path, folder: Path) -> None:
    model = folder / "model"
    shutil.copytree(finetuned, model, ignore=shutil.ignore_patterns("*.safetensors"))
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copytree(model, scratch, dirs_exist_ok=True)
        shutil.copy(fp32, Path(scratch) / "model.onnx")
        flags = Path("/proc/cpuinfo").read_text()
        kind = "avx512_vnni" if "avx512_vnni" in flags else "avx2"
        config = getattr(AutoQuantizationConfig, kind)(is_static=False, per_channel=True)
        quantizer = ORTQuantizer.from_pretrained(scratch, file_name="model.onnx")
        quantizer.quantize(save_dir=scratch, quantization_config=config)
        shutil.copy(Path(scratch) / "model_quantized.onnx", model / "model.onnx")
    settings = {
        "name": "tagger",
        "implementation": "mlserver_huggingface.HuggingFaceRuntime",
        "max_batch_size": 32,
        "max_batch_time": 0.002,
        "parameters": {
            "extra": {
                "task": "text-classification",
                "pretrained_model": str(model),
                "optimum_model": True,
            }
        },
    }
    (folder / "model-settings.json").write_text(json.dumps(settings))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
