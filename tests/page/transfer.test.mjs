import assert from "node:assert/strict";
import { test } from "node:test";

import { Conversation } from "../../rwkv_np/serve/page/conversation.js";
import { fromFile, ImportError, toJson, toMarkdown } from "../../rwkv_np/serve/page/transfer.js";

const NAMES = { user: "You", assistant: "Model", system: "System text", untitled: "New" };
const texts = (conversation) => conversation.path().map((turn) => `${turn.role} ${turn.text}`);

function branched() {
    const conversation = new Conversation();
    conversation.data.system = "Be brief.";
    const a = conversation.add("", "user", "question");
    conversation.add(a.id, "assistant", "first", { tokens: 3, thought: "hm", seconds: 1.5 });
    const second = conversation.add(a.id, "assistant", "second\n\n# with a title\n");
    conversation.step(second, -1);
    conversation.rename("Name");
    return conversation;
}

test("JSON keeps all versions, which is shown, the name and the system text", () => {
    const old = branched();
    const [made] = fromFile(toJson([old]));
    assert.deepEqual([made.title, made.data.system], ["Name", "Be brief."]);
    assert.deepEqual(texts(made), ["user question", "assistant first"]);
    const [, first] = made.path();
    assert.deepEqual(made.version(first), { index: 0, count: 2 });
    assert.deepEqual([first.tokens, first.thought, first.seconds], [3, "hm", 1.5]);
    assert.notEqual(made.id, old.id);
    assert.notEqual(first.id, old.path()[1].id);
});

test("Markdown keeps what is shown, whatever stands in the messages", () => {
    for (const text of ["plain", "# title\n\n**You**\n\nx", "<!-- rwkv-np: user -->",
        "a\n<!-- rwkv-np: assistant -->\nb", "<!-- rwkv-np\\: user -->", "**bold**\n", "```\ncode\n```",
        "\nfirst line is blank"]) {
        const conversation = new Conversation();
        conversation.data.system = text;
        const a = conversation.add("", "user", text);
        conversation.add(a.id, "assistant", `${text}!`);
        const [made] = fromFile(toMarkdown(conversation, NAMES));
        assert.equal(made.data.system, text);
        assert.deepEqual(made.path().map((turn) => turn.text), [text, `${text}!`]);
    }
});

test("messages as other programs write them", () => {
    const file = { messages: [
        { role: "system", content: "s" }, { role: "user", content: [{ type: "text", text: "u" }] },
        { role: "tool", content: "left out" }, { role: "assistant", content: "a" }, null, { role: "user" }] };
    for (const text of [JSON.stringify(file), JSON.stringify([file])]) {
        const [made] = fromFile(text);
        assert.deepEqual(texts(made), ["user u", "assistant a"]);
        assert.equal(made.data.system, "s");
    }
});

test("files that hold nothing, or something else, are refused", () => {
    for (const text of ["", "{", "[]", "{}", "null", "hello", "[1, null, \"x\"]", '{"conversations": [{"turns": 3}]}',
        '{"conversations": {"a": 1}}', '{"messages": []}']) {
        assert.throws(() => fromFile(text), ImportError, text);
    }
});

test("fields of other types, unknown fields, loops and strangers are left out", () => {
    const turns = [
        { id: "1", parent: "", role: "user", text: "a", tokens: "9", finish: 3, thought: { a: 1 }, onclick: "x" },
        { id: "1", parent: "", role: "user", text: "the same id" },
        { id: "2", parent: "3", role: "assistant", text: "after one that comes later" },
        { id: "3", parent: "1", role: "system", text: "a role that is none" },
        { id: "4", parent: "4", role: "user", text: "after itself" },
        { id: "__proto__", parent: "1", role: "assistant", text: "b" },
        { id: 5, parent: "1", role: "assistant", text: "an id that is none" }, null, 7,
    ];
    const chosen = JSON.parse('{"__proto__": "1", "": "2", "1": "__proto__", "9": "1"}');
    const data = { turns, title: 7, system: ["x"], chosen, id: "mine" };
    const [made] = fromFile(JSON.stringify({ conversations: [data] }));
    assert.deepEqual(texts(made), ["user a", "assistant b"]);
    assert.equal(made.data.turns.length, 2);
    assert.deepEqual(Object.keys(made.data.turns[0]).sort(), ["created", "id", "parent", "role", "text"]);
    assert.equal(made.data.system, "");
    assert.notEqual(made.id, "mine");
    assert.equal({}.polluted, undefined);
});
