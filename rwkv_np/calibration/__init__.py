"""Better quantized files of the same layout: encoders that look at what the model does with a text.

    from rwkv_np.calibration import calibrate
    found = calibrate("model-FP16.bin", "model-Q4_1.bin", "Q4_1", "chats.txt")
    print(found.verdict)

`text` cuts the text into windows; `fisher` says how much each token counts; `hessian` collects what the errors of a
matrix cost; `gptq` encodes one matrix, and `body` all of them, layer by layer (`layers`); `mixture` chooses types;
`verdict` compares the result with plain rounding; `unfinished` keeps what an interrupted run has finished;
`calibrate` puts it together. Array loops are in `kernels/search.py` and `kernels/feedback.py`.
"""

from rwkv_np.calibration.calibrate import Calibrated, calibrate

__all__ = ["Calibrated", "calibrate"]
