"""A row that is checked and encoded: what the engine will read, and the object that its answers become."""

from __future__ import annotations

from collections.abc import Sequence

from rwkv_np.batch.answered import success
from rwkv_np.batch.row import Row, name_of
from rwkv_np.serve.asked import Asked, Label
from rwkv_np.serve.bodies import ChatRequest
from rwkv_np.serve.chat_answer import WholeChat
from rwkv_np.serve.chat_plan import ChatPlan
from rwkv_np.serve.keys import Owner
from rwkv_np.serve.objects import usage_of
from rwkv_np.serve.served import ServedModel
from rwkv_np.serve.stream import encode
from rwkv_np.serve.text_answer import WholeText
from rwkv_np.serve.text_plan import TextPlan

CREATED = 0  # in every answer: with the time, no two runs of a job would have the same bytes
_OWNER = Owner()


class Planned:
    """A valid request. Raises ApiError."""

    def __init__(self, model: ServedModel, row: Row, seed: int) -> None:
        self.row = row
        body = row.request(seed)
        model.check_model(body.model)
        self._plan = ChatPlan(model, body) if isinstance(body, ChatRequest) else TextPlan(model, body)

    def asked(self) -> Sequence[Asked]:
        """The work for the engine. Raises ApiError."""
        return [self._plan.asked(_OWNER)] if isinstance(self._plan, ChatPlan) else self._plan.asked(_OWNER)

    def whole(self) -> WholeChat | WholeText:
        """The object that collects the events of the answers."""
        label = Label(name_of(self.row.custom_id), CREATED)
        return WholeChat(self._plan, label) if isinstance(self._plan, ChatPlan) else WholeText(self._plan, label)

    def line(self, whole: WholeChat | WholeText, n_prompt: int, n_written: int) -> bytes:
        """The line of output."""
        return success(self.row.custom_id, encode(whole.made(usage_of(n_prompt, n_written))))
