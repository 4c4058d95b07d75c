import assert from "node:assert/strict";
import { test } from "node:test";

import { Events } from "../../rwkv_np/serve/page/events.js";

const STREAM = ": ping\n\ndata: {\"a\":1}\n\ndata:two\r\n\r\nevent: x\ndata: first\ndata: second\nid: 3\n\n"
    + ": ping\n\ndata: [DONE]\n\n";

test("events from pieces that end anywhere", () => {
    for (let size = 1; size <= STREAM.length; size += 1) {
        const events = new Events();
        const found = [];
        for (let at = 0; at < STREAM.length; at += size) found.push(...events.push(STREAM.slice(at, at + size)));
        assert.deepEqual(found, ['{"a":1}', "two", "first\nsecond", "[DONE]"], `pieces of ${size}`);
    }
});
