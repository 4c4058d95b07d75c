import assert from "node:assert/strict";
import { test } from "node:test";

import { Settings } from "../../rwkv_np/serve/page/settings.js";

test("fields of a request", () => {
    const settings = new Settings();
    settings.template = "g1";
    assert.deepEqual(settings.fields(), { temperature: 1, top_p: 0.5, top_k: 100, presence_penalty: 0,
        frequency_penalty: 0, penalty_decay: 0.997, max_completion_tokens: 4000 });
    settings.thinks = true;
    assert.ok(settings.set("think", "short"));
    assert.ok(settings.set("seed", "7"));
    assert.ok(settings.set("temperature", "0.3"));
    const { think, seed, temperature } = settings.fields();
    assert.deepEqual([think, seed, temperature], ["short", 7, 0.3]);
    settings.reset();
    assert.equal(settings.fields().temperature, 1);
});

test("values that make no sense are not taken, and others are brought within bounds", () => {
    const settings = new Settings();
    for (const [name, value] of [["temperature", "hot"], ["seed", "1.5"], ["seed", "x"], ["think", "maybe"],
        ["top_k", ""], ["language", "fr"], ["__proto__", "1"], ["nothing", 1]]) {
        assert.equal(settings.set(name, value), false, name);
    }
    settings.set("top_p", "7");
    settings.set("max_tokens", "-3");
    settings.set("top_k", "3.6");
    assert.deepEqual([settings.get("top_p"), settings.get("max_tokens"), settings.get("top_k")], [1, 1, 4]);
    settings.set("max_tokens", "20000"); // further than the slider goes
    settings.set("penalty_decay", "0.5");
    assert.deepEqual([settings.get("max_tokens"), settings.get("penalty_decay")], [20_000, 0.5]);
});
