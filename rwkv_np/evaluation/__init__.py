"""What quantization costs: quality, memory and speed of model files, compared with a baseline.

    from rwkv_np.evaluation import Conditions, evaluate, markdown
    report = evaluate(["model-FP16.bin", "model-Q4_1.bin"], Conditions(text="wiki.txt"))
    print(markdown(report))

`divergence` defines the scores of a prediction, `quality` the metrics computed from them; `walk` runs all
models through a text in step, `lambada` asks them for last words, `cost` measures each alone; `plan`
decides what is measured together, `session` and `evaluation` do it; `report` contains the results, and
`tables`, `plots` and `folder` show them.
"""

from rwkv_np.evaluation.plan import Encoding, Variants, make_plan
from rwkv_np.evaluation.report import Report
from rwkv_np.evaluation.session import Conditions, Session, evaluate
from rwkv_np.evaluation.tables import markdown, terminal

__all__ = ["Conditions", "Encoding", "Report", "Session", "Variants", "evaluate", "make_plan", "markdown", "terminal"]
