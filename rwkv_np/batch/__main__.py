"""`python -m rwkv_np.batch MODEL.bin REQUESTS.jsonl ANSWERS.jsonl` is `rwkv-np batch ...`."""

from rwkv_np.cli.batch import command

if __name__ == "__main__":
    command(prog_name="python -m rwkv_np.batch")
