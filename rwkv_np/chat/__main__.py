"""`python -m rwkv_np.chat MODEL.bin` is `rwkv-np chat MODEL.bin`."""

from rwkv_np.cli.chat import command

if __name__ == "__main__":
    command(prog_name="python -m rwkv_np.chat")
