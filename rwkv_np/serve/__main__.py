"""`python -m rwkv_np.serve MODEL.bin` is `rwkv-np serve MODEL.bin`."""

from rwkv_np.cli.serve import command

if __name__ == "__main__":
    command(prog_name="python -m rwkv_np.serve")
