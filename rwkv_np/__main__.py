"""`python -m rwkv_np` is `rwkv-np`."""

from rwkv_np.cli import main

if __name__ == "__main__":
    main(prog_name="python -m rwkv_np")
