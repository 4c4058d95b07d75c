"""Programs that other people wrote, as clients of a server with the demo model.

    pip install openai langchain-openai litellm llm schemathesis lm-eval
    npm install --prefix FOLDER openai ai @ai-sdk/openai-compatible
    python tests/clients/run.py [openai langchain litellm llm schemathesis lm-eval npm-openai npm-ai] [--node FOLDER]

Too much to install for every run of the tests (lm-eval alone brings PyTorch): each is a job that runs if its package
is installed, here, in the environment whose Python --python names, or in the folder that --node names. The jobs check
answers and not only that something came: the demo model says one sentence to one question, and lm-eval's figure must be
that of `rwkv-np evaluate --lambada`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

KEY = "a-key-for-clients"
MODEL = "demo-FP16"
QUESTION, ANSWER = "What is the capital of France?", "The capital of France is Paris."
HERE = Path(__file__).resolve().parent


@contextmanager
def serving() -> Iterator[str]:
    """A server that wants a key; gives its address."""
    command = [sys.executable, "-m", "rwkv_np.serve", "--port", "0", "--name", MODEL]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"RWKV_NP_API_KEYS": KEY})
    assert child.stderr is not None
    try:
        yield next(found[0] for line in child.stderr if (found := re.search(r"http://[^/]+", line)))
    finally:
        child.terminate()
        child.communicate()


class Client:
    """Where the packages are, and which server they talk to."""

    def __init__(self, python: str, url: str, folder: Path, node: Path) -> None:
        self.python, self.url, self.folder, self.node = python, url, folder, node

    def run(self, *command: str, **environment: str) -> str:
        """What a command prints. Raises click.ClickException: it failed."""
        keys = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": f"{self.url}/v1", "LLM_USER_PATH": str(self.folder / "llm")}
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=self.folder, env=os.environ | keys | offline | environment
        )
        if done.returncode:
            raise click.ClickException(f"{command[0]}: {done.stdout[-2000:]}{done.stderr[-3000:]}")
        return done.stdout

    def code(self, source: str) -> str:
        """What a few lines of Python print."""
        names = f"URL, KEY, MODEL, QUESTION = {self.url + '/v1'!r}, {KEY!r}, {MODEL!r}, {QUESTION!r}\n"
        return self.run(self.python, "-c", names + source).strip()

    def javascript(self, source: str) -> str:
        """What an ES module prints."""
        # Node looks for packages beside the module, and not in NODE_PATH.
        path = self.node / f"rwkv_np_client_{os.getpid()}.mjs"
        names = {"URL": f"{self.url}/v1", "KEY": KEY, "MODEL": MODEL, "QUESTION": QUESTION}
        path.write_text("".join(f"const {name} = {json.dumps(value)};\n" for name, value in names.items()) + source)
        try:
            return self.run("node", str(path)).strip()
        finally:
            path.unlink()

    def has(self, package: str) -> bool:
        """Whether a package of Python, or "npm:" and one of Node, is installed."""
        if package.startswith("npm:"):
            return (self.node / "node_modules" / package[4:]).is_dir()
        return not subprocess.run([self.python, "-c", f"import {package}"], capture_output=True).returncode

    def script(self, name: str) -> str:
        """The path of a package's command."""
        return str(Path(self.python).parent / name)


def _expect(found: str, expected: str) -> None:
    if found.splitlines()[-1:] != [expected]:  # litellm prints advice of its own about an error that it raises
        raise click.ClickException(f"got {found!r}; expected {expected!r}")


def with_openai(client: Client) -> None:
    found = client.code(
        "import openai\n"
        "client = openai.OpenAI(base_url=URL, api_key=KEY)\n"
        "messages = [{'role': 'user', 'content': QUESTION}]\n"
        "stream = client.chat.completions.create(model=MODEL, messages=messages, temperature=0, stream=True)\n"
        "print(''.join(piece.choices[0].delta.content or '' for piece in stream))\n"
    )
    _expect(found, ANSWER)


def with_langchain(client: Client) -> None:
    found = client.code(
        "from langchain_openai import ChatOpenAI\n"
        "chat = ChatOpenAI(model=MODEL, base_url=URL, api_key=KEY, temperature=0, logprobs=True)\n"
        "whole = chat.invoke([('human', QUESTION)])\n"
        "assert whole.usage_metadata['output_tokens'] > 5 and whole.response_metadata['logprobs']['content']\n"
        "assert ''.join(piece.text for piece in chat.stream([('human', QUESTION)])) == whole.text\n"
        "batch = chat.batch([[('human', QUESTION)]] * 3)\n"
        "assert {each.text for each in batch} == {whole.text}\n"
        "print(whole.text)\n"
    )
    _expect(found, ANSWER)


def with_litellm(client: Client) -> None:
    found = client.code(
        "import litellm\n"
        "asked = dict(model='openai/' + MODEL, api_base=URL, api_key=KEY, temperature=0,\n"
        "             messages=[{'role': 'user', 'content': QUESTION}])\n"
        "whole = litellm.completion(**asked).choices[0].message.content\n"
        "parts = litellm.completion(**asked, stream=True)\n"
        "assert ''.join(part.choices[0].delta.content or '' for part in parts) == whole\n"
        "try:\n"
        "    litellm.completion(**asked | {'api_key': 'wrong'})\n"
        "except litellm.AuthenticationError:\n"
        "    print(whole)\n"
    )
    _expect(found, ANSWER)


def with_llm(client: Client) -> None:
    folder = client.folder / "llm"
    folder.mkdir(exist_ok=True)
    (folder / "extra-openai-models.yaml").write_text(
        f"- model_id: rwkv\n  model_name: {MODEL}\n  api_base: {client.url}/v1\n  api_key_name: rwkv\n"
    )
    (folder / "keys.json").write_text(json.dumps({"rwkv": KEY}))
    _expect(client.run(client.script("llm"), "-m", "rwkv", "-o", "temperature", "0", QUESTION).strip(), ANSWER)
    found = client.run(client.script("llm"), "-m", "rwkv", "-o", "temperature", "0", "--no-stream", QUESTION)
    _expect(found.strip(), ANSWER)


def with_schemathesis(client: Client) -> None:
    """No request gets a 500, and every reply is as the schema says."""
    found = client.run(
        client.script("schemathesis"), "run", f"{client.url}/openapi.json", "-H", f"Authorization: Bearer {KEY}",
        "--checks", "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
        "--max-examples", "100", "--seed", "1", "--request-timeout", "60",
    )  # fmt: skip
    click.echo("\n".join(line for line in found.splitlines() if "Test cases" in line or "generated" in line), err=True)


def with_lm_eval(client: Client) -> None:
    """The accuracy and the perplexity of last words, by lm-eval through the server and by our own evaluation."""
    lines = [
        "The capital of France is Paris", "The capital of Peru is Lima", "The capital of Japan is Tokyo",
        "The capital of Italy is Rome", "The capital of Spain is Paris", "Two and two is seven",
    ]  # fmt: skip
    (client.folder / "words.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    rows = [dict(zip(("passage", "word"), line.rsplit(" ", 1))) for line in lines]
    (client.folder / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (client.folder / "words.yaml").write_text(
        "task: words\ndataset_path: json\noutput_type: loglikelihood\ntest_split: test\n"
        f"dataset_kwargs:\n  data_files:\n    test: {client.folder / 'task.jsonl'}\n"
        'doc_to_text: "\\n{{passage}}"\ndoc_to_target: " {{word}}"\n'
        "metric_list:\n  - metric: perplexity\n    aggregation: perplexity\n    higher_is_better: false\n"
        "  - metric: acc\n    aggregation: mean\n    higher_is_better: true\n"
    )
    arguments = (
        f"model={MODEL},base_url={client.url}/v1/completions,num_concurrent=1,tokenizer_backend=remote,"
        f"tokenized_requests=True,auth_token={KEY}"
    )
    client.run(
        client.script("lm_eval"), "run", "--model", "local-completions", "--model_args", arguments, "--tasks", "words",
        "--include_path", str(client.folder), "--output_path", str(client.folder / "result"), "--batch_size", "4",
    )  # fmt: skip
    theirs = json.loads(next((client.folder / "result").rglob("results_*.json")).read_text())["results"]["words"]
    from rwkv_np import demo

    command = ("evaluate", str(demo.MODEL), "--lambada", str(client.folder / "words.jsonl"), "--json")
    text = client.folder / "text.txt"
    text.write_text("Bob: Hello!\n\nAlice: Hello! How can I help you?\n" * 20)
    found = subprocess.run(
        [sys.executable, "-m", "rwkv_np", *command, "--text", str(text)], capture_output=True, text=True, check=True
    )
    ours = json.loads(found.stdout)["rows"][0]["last_words"]
    pairs = [(theirs["perplexity,none"], ours["perplexity"]["value"]), (theirs["acc,none"], ours["accuracy"]["value"])]
    click.echo(f"lm-eval and evaluate: perplexity {pairs[0]}, accuracy {pairs[1]}", err=True)
    if any(abs(a - b) > 1e-3 * abs(b) for a, b in pairs):
        raise click.ClickException(f"lm-eval and `rwkv-np evaluate` differ: {pairs}")


def with_npm_openai(client: Client) -> None:
    """Whole and streamed answers, tokens and their probabilities, an error, and a request that is cancelled."""
    found = client.javascript("""
import assert from "node:assert";
import OpenAI from "openai";
const client = new OpenAI({ baseURL: URL, apiKey: KEY, maxRetries: 0 });
const asked = { model: MODEL, messages: [{ role: "user", content: QUESTION }], temperature: 0 };
const whole = await client.chat.completions.create({ ...asked, logprobs: true, top_logprobs: 2 });
const { message, finish_reason, logprobs } = whole.choices[0];
assert.equal(finish_reason, "stop");
assert.equal(logprobs.content.map((each) => each.token).join("").trim(), message.content);
assert.ok(logprobs.content.every((each) => each.top_logprobs.length === 2 && each.logprob <= 0));
const stream = await client.chat.completions.create({
  ...asked, stream: true, stream_options: { include_usage: true },
});
let text = "", usage = null;
for await (const part of stream) {
  text += part.choices[0]?.delta?.content ?? "";
  usage = part.usage ?? usage;
}
assert.equal(text, message.content);
assert.deepEqual(
  [usage.prompt_tokens, usage.completion_tokens], [whole.usage.prompt_tokens, whole.usage.completion_tokens]);
const helper = client.chat.completions.stream(asked);
assert.equal((await helper.finalChatCompletion()).choices[0].message.content, text);
const plain = await client.completions.create({ model: MODEL, prompt: "\\n", max_tokens: 3, n: 2, seed: 1 });
assert.equal(plain.choices.length, 2);
await assert.rejects(new OpenAI({ baseURL: URL, apiKey: "wrong" }).models.list(), OpenAI.AuthenticationError);
await assert.rejects(client.chat.completions.create({ ...asked, n: 0 }),
  (error) => error instanceof OpenAI.BadRequestError && error.param === "n");
const long = await client.completions.create({
  model: MODEL, prompt: "\\n", max_tokens: 2000, stream: true, logit_bias: { 0: -100 },
});
for await (const part of long) { long.controller.abort(); }
console.log(text);
""")
    _expect(found, ANSWER)


def with_npm_ai(client: Client) -> None:
    """Vercel's AI SDK: a whole answer, a streamed one, and an object by a JSON schema."""
    found = client.javascript("""
import assert from "node:assert";
import { generateText, streamText, generateObject, jsonSchema } from "ai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
const provider = createOpenAICompatible({
  name: "rwkv", baseURL: URL, apiKey: KEY, includeUsage: true, supportsStructuredOutputs: true,
});
const model = provider(MODEL);
const asked = { model, prompt: QUESTION, temperature: 0 };
const whole = await generateText(asked);
assert.ok(whole.usage.outputTokens > 5);
let text = "";
for await (const part of streamText(asked).textStream) text += part;
assert.equal(text, whole.text);
const schema = jsonSchema({
  type: "object", additionalProperties: false, required: ["ok"], properties: { ok: { type: "boolean" } },
});
const { object } = await generateObject({ ...asked, schema });
assert.equal(typeof object.ok, "boolean");
console.log(text);
""")
    _expect(found, ANSWER)


JOBS = {
    "openai": ("openai", with_openai),
    "langchain": ("langchain_openai", with_langchain),
    "litellm": ("litellm", with_litellm),
    "llm": ("llm", with_llm),
    "schemathesis": ("schemathesis", with_schemathesis),
    "lm-eval": ("lm_eval", with_lm_eval),
    "npm-openai": ("npm:openai", with_npm_openai),
    "npm-ai": ("npm:@ai-sdk/openai-compatible", with_npm_ai),
}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(JOBS)))
@click.option("--python", default=sys.executable, help="The Python that has the packages.  [default: this one]")
@click.option(
    "--node", default=".", type=click.Path(path_type=Path), help="The folder with node_modules.  [default: .]"
)
def main(names: tuple[str, ...], python: str, node: Path) -> None:
    """Run the clients NAMES, or all that are installed. The exit status is 1 if one of them fails."""
    failed = []
    with serving() as url, tempfile.TemporaryDirectory() as folder:
        client = Client(python, url, Path(folder), node.resolve())
        for name in names or JOBS:
            package, job = JOBS[name]
            if not client.has(package):
                click.echo(f"{name}: not installed")
                failed += [name] if names else []
                continue
            try:
                job(client)
                click.echo(f"{name}: passed")
            except (click.ClickException, OSError, KeyError, ValueError) as error:
                click.echo(f"{name}: FAILED: {error}")
                failed.append(name)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
