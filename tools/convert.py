"""Convert an RWKV checkpoint to a model file of rwkv.cpp's format.

python tools/convert.py RWKV-4-Raven-7B.pth model-FP16.bin FP16
"""

from rwkv_np.cli.convert import command

if __name__ == "__main__":
    command()
