"""The routes that do not need the engine: models, tokens, health, metrics, the page."""

from __future__ import annotations

import msgspec

from rwkv_np.errors import InputError
from rwkv_np.serve.bodies import DetokenizeRequest, TokenizeRequest
from rwkv_np.serve.decoding import decode
from rwkv_np.serve.endpoint import Handle
from rwkv_np.serve.errors import again, wrong
from rwkv_np.serve.exchange import Exchange
from rwkv_np.serve.objects import Detokenized, Health, ModelCard, ModelList, TokenizerInfo, Tokens
from rwkv_np.serve.page_files import HEADERS, PageFile
from rwkv_np.serve.service import Service
from rwkv_np.serve.settings import END
from rwkv_np.serve.stream import encode
from rwkv_np.serve.token_names import END_NAME

_TOKENIZE = msgspec.json.Decoder(TokenizeRequest)
_DETOKENIZE = msgspec.json.Decoder(DetokenizeRequest)


def _card(service: Service) -> ModelCard:
    template = service.prompts.template
    return ModelCard(id=service.name, created=service.created, template=template.name, thinks=template.lead is not None)


async def models(service: Service, exchange: Exchange) -> None:
    """GET /v1/models."""
    await exchange.reply(encode(ModelList(data=[_card(service)])))


async def model(service: Service, exchange: Exchange) -> None:
    """GET /v1/models/NAME."""
    service.check_model(exchange.scope["path_params"]["name"])
    await exchange.reply(encode(_card(service)))


async def tokenize(service: Service, exchange: Exchange) -> None:
    """POST /tokenize. In most vocabularies the end of text has no text: its name is used."""
    body = decode(_TOKENIZE, await exchange.body(service.bounds.body_bytes, service.bounds.body_seconds))
    service.check_model(body.model)
    if (body.prompt is None) == (body.content is None):
        raise wrong("prompt", "expected one of prompt and content", "missing_field")
    text = body.prompt if body.prompt is not None else body.content or ""
    try:
        tokens = [END] if text == END_NAME else service.tokenizer.encode(text)
    except InputError as error:
        raise wrong("prompt", str(error)) from error
    await exchange.reply(encode(Tokens(tokens, len(tokens))))


async def detokenize(service: Service, exchange: Exchange) -> None:
    """POST /detokenize."""
    body = decode(_DETOKENIZE, await exchange.body(service.bounds.body_bytes, service.bounds.body_seconds))
    service.check_model(body.model)
    if outside := [token for token in body.tokens if token >= service.vocab_size]:
        raise wrong("tokens", f"token id {outside[0]}; this model's ids are 0 to {service.vocab_size - 1}")
    text = service.tokenizer.decode(body.tokens)
    await exchange.reply(encode(Detokenized(text, text)))


async def tokenizer_info(service: Service, exchange: Exchange) -> None:
    """GET /tokenizer_info, which lm-eval uses."""
    name = service.tokenizer.name if service.tokenizer.name in ("20B", "World", "bytes") else "tokenizer.json"
    info = TokenizerInfo(name, service.vocab_size, END_NAME, END, END_NAME, END_NAME, None)
    await exchange.reply(encode(info))


async def health(service: Service, exchange: Exchange) -> None:
    """GET /health: whether new requests are accepted."""
    if service.is_draining():
        raise again(503, "the server is shutting down", 10, "shutting_down")
    if not service.is_alive():
        raise again(503, "the engine has failed; restart the server", 60, "engine_failed")
    await exchange.reply(encode(Health()))


async def metrics(service: Service, exchange: Exchange) -> None:
    """GET /metrics, for Prometheus."""
    await exchange.reply(service.metrics.text(), content_type=b"text/plain; version=0.0.4; charset=utf-8")


def page_file(file: PageFile) -> Handle:
    """GET of one file of the page."""

    async def send(service: Service, exchange: Exchange) -> None:
        headers = (*HEADERS, (b"etag", file.tag))
        if (exchange.header(b"if-none-match") or "").encode("latin-1") == file.tag:
            await exchange.begin(304, file.content_type, headers)
            await exchange.write(b"", is_last=True)
            return
        await exchange.reply(file.data, content_type=file.content_type, headers=headers)

    return send
