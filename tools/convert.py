"""Convert an RWKV checkpoint to a model file in rwkv.cpp's format.

python tools/convert.py rwkv7-g1i-1.5b-20260805-ctx16384.pth g1-1.5b-FP16.bin FP16
"""

from rwkv_np.cli.convert import command

if __name__ == "__main__":
    command()
