import assert from "node:assert/strict";
import { test } from "node:test";

import { Conversation } from "../../rwkv_np/serve/page/conversation.js";

/** user a, assistant b, user c. */
function talk() {
    const conversation = new Conversation();
    const a = conversation.add("", "user", "a");
    const b = conversation.add(a.id, "assistant", "b", { thought: "hm" });
    const c = conversation.add(b.id, "user", "c");
    return { conversation, a, b, c };
}

const texts = (conversation) => conversation.path().map((turn) => turn.text).join("");

test("an edit is a version beside the old text, with a path of its own", () => {
    const { conversation, a } = talk();
    const other = conversation.add("", "user", "A");
    assert.equal(texts(conversation), "A");
    assert.deepEqual(conversation.version(other), { index: 1, count: 2 });
    assert.equal(conversation.step(other, -1), a);
    assert.equal(texts(conversation), "abc");
    assert.equal(conversation.step(a, -1), a);
});

test("a turn that is dropped leaves what was shown before", () => {
    const { conversation, a, b } = talk();
    const made = conversation.add(a.id, "assistant", "");
    conversation.drop(made);
    assert.equal(conversation.path()[1], b);
    assert.equal(conversation.data.turns.length, 3);
    assert.equal(conversation.turn(made.id), undefined);
});

test("messages for the server", () => {
    const { conversation, b, c } = talk();
    conversation.data.system = "Be brief.";
    assert.deepEqual(conversation.messages(c), [
        { role: "system", content: "Be brief." }, { role: "user", content: "a" },
        { role: "assistant", content: "b" }, { role: "user", content: "c" }]);
    const begun = { role: "assistant", content: "b", reasoning_content: "hm" };
    assert.deepEqual(conversation.messages(b, true).at(-1), begun);
});

test("a title is the first message's beginning until there is a name", () => {
    const { conversation } = talk();
    assert.equal(conversation.title, "a");
    conversation.rename("  Fruit ");
    assert.equal(conversation.title, "Fruit");
    conversation.rename("");
    assert.equal(conversation.title, "a");
    const long = new Conversation();
    long.add("", "user", "🍎".repeat(100));
    assert.equal([...long.title].length, 60);
});

test("search finds words in any order, and full-width letters", () => {
    const conversation = new Conversation();
    conversation.add("", "user", "Ｐｙｔｈｏｎ 和排序");
    assert.ok(conversation.matches("排序 python"));
    assert.ok(!conversation.matches("python ruby"));
});

test("ten thousand turns are read in no time", () => {
    const conversation = new Conversation();
    let parent = "";
    for (let i = 0; i < 10_000; i += 1) parent = conversation.add(parent, i % 2 ? "assistant" : "user", "x").id;
    const begin = performance.now();
    assert.equal(conversation.path().length, 10_000);
    assert.equal(conversation.messages(conversation.turn(parent)).length, 10_000);
    assert.ok(performance.now() - begin < 5000);
});
