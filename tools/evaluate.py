"""Measure what quantization costs: quality, memory and speed of model files.

python tools/evaluate.py model-FP16.bin model-Q5_1.bin model-Q4_1.bin --text wiki.txt --out report
"""

from rwkv_np.cli.evaluate import command

if __name__ == "__main__":
    command()
