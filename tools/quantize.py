"""Quantize an FP16 or FP32 model file.

python tools/quantize.py model-FP16.bin model-Q4_1.bin Q4_1
"""

from rwkv_np.cli.quantize import command

if __name__ == "__main__":
    command()
