"""Converts the fp32 model for infinity: a Hugging Face folder with ONNX files. On a CPU infinity
takes the one that is called quantized: dynamic int8, with Optimum's settings for this processor.

    python prepare.py FINETUNED FP32.onnx FOLDER
"""

import shutil
import sys
from pathlib import Path

from optimum.onnxruntime import ORTQuantizer
from optimum.onnxruntime.configuration import AutoQuantizationConfig


def main(finetuned: Path, fp32: Path, folder: Path) -> None:
    shutil.copytree(finetuned, folder)
    shutil.copy(fp32, folder / "model.onnx")
    flags = Path("/proc/cpuinfo").read_text()
    kind = "avx512_vnni" if "avx512_vnni" in flags else "avx2"
    config = getattr(AutoQuantizationConfig, kind)(is_static=False, per_channel=True)
    quantizer = ORTQuantizer.from_pretrained(folder, file_name="model.onnx")
    quantizer.quantize(save_dir=folder, quantization_config=config)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
