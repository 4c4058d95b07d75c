"""What quantization costs: quality, memory and speed of model files, held against one of them.

    from rwkv_np.evaluation import Conditions, evaluate, markdown
    report = evaluate(["model-FP16.bin", "model-Q4_1.bin"], Conditions(text="wiki.txt"))
    print(markdown(report))

`divergence` defines what a prediction is worth, `quality` the figures made of it; `walk` takes all
models through a text in step, `lambada` asks them for last words, `cost` times each alone; `plan` says
who is measured with whom, `session` and `evaluation` do it; `report` holds what comes of it, and
`tables`, `plots` and `folder` show it.
"""

from rwkv_np.evaluation.plan import Variants, make_plan
from rwkv_np.evaluation.report import Report
from rwkv_np.evaluation.session import Conditions, Session, evaluate
from rwkv_np.evaluation.tables import markdown, terminal

__all__ = ["Conditions", "Report", "Session", "Variants", "evaluate", "make_plan", "markdown", "terminal"]
