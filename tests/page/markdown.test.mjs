// Run by tests/test_serve_page.py with `node --test`.

import assert from "node:assert/strict";
import { test } from "node:test";

import { inlines, safeUrl } from "../../rwkv_np/serve/page/inlines.js";
import { blocks, withoutUndecided } from "../../rwkv_np/serve/page/markdown.js";

const kinds = (text) => blocks(text).map((block) => block.kind);
const lines = (block) => block.lines.map((line) => line.text ?? line);

test("blocks of each kind", () => {
    const text = ["# One", "two\nthree", "---", "> four", "- five", "```js\nsix\n```",
        "| a | b |\n|---|:-:|\n| 7 | 8 |", "$$\nx\n$$"].join("\n\n");
    assert.deepEqual(kinds(text), ["heading", "paragraph", "rule", "quote", "list", "code", "table", "math"]);
    const [heading, paragraph, , quote, list, code, table, math] = blocks(text);
    assert.equal(heading.level, 1);
    assert.deepEqual(lines(heading), ["One"]);
    assert.deepEqual(lines(paragraph), ["two", "three"]);
    assert.deepEqual(lines(quote.blocks[0]), ["four"]);
    assert.deepEqual(lines(list.items[0].blocks[0]), ["five"]);
    assert.deepEqual([code.language, code.text], ["js", "six"]);
    assert.deepEqual([table.head, table.rows, table.aligns], [["a", "b"], [["7", "8"]], ["start", "center"]]);
    assert.equal(math.text, "$$\nx\n$$");
});

test("nested lists, numbers, and code in an item", () => {
    const [list] = blocks("3. a\n   - b\n     - c\n4. d\n\n   ```\n   - no item\n   ```\n5. e");
    assert.deepEqual([list.isOrdered, list.first, list.items.length], [true, 3, 3]);
    const inner = list.items[0].blocks[1];
    assert.equal(inner.kind, "list");
    assert.equal(inner.items[0].blocks[1].kind, "list");
    assert.deepEqual(list.items[1].blocks.map((block) => block.kind), ["paragraph", "code"]);
    assert.equal(list.items[1].blocks[1].text, "- no item");
});

test("a list after a paragraph, without a blank line between, and items with blank lines between", () => {
    assert.deepEqual(kinds("These:\n- a\n- b"), ["paragraph", "list"]);
    const [list, rest] = blocks("- a\n\n- b\n\nafter");
    assert.equal(list.items.length, 2);
    assert.equal(rest.kind, "paragraph");
});

test("code without an end goes to the end, and its marks may be longer", () => {
    assert.equal(blocks("```py\nx = 1\n\ny")[0].text, "x = 1\n\ny");
    const [code, rest] = blocks("````\n```\n````\nz");
    assert.deepEqual([code.text, rest.kind], ["```", "paragraph"]);
});

test("parts of a line", () => {
    assert.deepEqual(inlines("a **b** `c*d*` *e*"), ["a ", { kind: "strong", parts: ["b"] }, " ",
        { kind: "code", text: "c*d*" }, " ", { kind: "em", parts: ["e"] }]);
    assert.deepEqual(inlines("**a *b***"), [{ kind: "strong", parts: ["a ", { kind: "em", parts: ["b"] }] }]);
    assert.deepEqual(inlines("``a`b``"), [{ kind: "code", text: "a`b" }]);
    assert.deepEqual(inlines("~~x~~"), [{ kind: "del", parts: ["x"] }]);
});

test("Chinese punctuation beside marks", () => {
    assert.deepEqual(inlines("他说**“你好。”**然后"), ["他说", { kind: "strong", parts: ["“你好。”"] }, "然后"]);
});

test("stars and lines that are none", () => {
    for (const text of ["2 * 3 * 4", "a_name_here", "snake_case and more_case", "**", "* *", "5*"]) {
        assert.deepEqual(inlines(text), [text], text);
    }
    assert.deepEqual(inlines("\\*no\\*"), ["*no*"]);
});

test("mathematics stays as it was written", () => {
    for (const text of ["$a*b*c$", "\\(x_1 * y_1 * z\\)", "costs $5 and $6"]) assert.deepEqual(inlines(text), [text]);
});

test("links lead to http and https alone", () => {
    const href = "https://example.org/x";
    assert.deepEqual(inlines(`[a](${href})`), [{ kind: "link", href, parts: ["a"] }]);
    for (const url of ["javascript:alert(1)", "JAVASCRIPT:alert(1)", "data:text/html,x", "vbscript:x", "//example.org",
        "java\tscript:alert(1)", "https:", "http://", "file:///etc/passwd", "/settings"]) {
        assert.equal(safeUrl(url), null, url);
        assert.ok(inlines(`[a](${url})`).every((part) => part.kind !== "link"), url);
    }
    const [before, link, after] = inlines("see https://example.org/a_(b)。好");
    assert.deepEqual([before, link.href, after], ["see ", "https://example.org/a_(b)", "。好"]);
    assert.equal(inlines("![picture](https://example.org/p.png)")[0].kind, "link");
});

test("HTML is text", () => {
    assert.deepEqual(inlines("<img src=x onerror=alert(1)>"), ["<img src=x onerror=alert(1)>"]);
    assert.deepEqual(kinds("<script>alert(1)</script>"), ["paragraph"]);
});

test("what has begun in a growing line is shown as if it had ended", () => {
    assert.deepEqual(inlines("a **b", true), ["a ", { kind: "strong", parts: ["b"] }]);
    assert.deepEqual(inlines("a `b", true), ["a ", { kind: "code", text: "b" }]);
    assert.deepEqual(inlines("a **", true), ["a "]);
    assert.deepEqual(inlines("[label](https://exam", true), ["label"]);
    assert.deepEqual(inlines("a **b", false), ["a **b"]);
});

test("a last line that says too little waits", () => {
    for (const mark of ["-", "##", "```", "1.", "> ", "|"].filter((mark) => mark !== "|")) {
        assert.equal(withoutUndecided(`text\n${mark}`), "text\n", mark);
    }
    assert.equal(withoutUndecided("text\n- a"), "text\n- a");
});

/** A generator of whole numbers below n that always gives the same ones. */
function numbers(seed) {
    let state = seed;
    return (n) => {
        state = (state * 1103515245 + 12345) % 2147483648;
        return Math.floor((state / 2147483648) * n);
    };
}

const BITS = ["- a", "1. b", "  - c", "    d", "# e", "```", "```py", "> f", "| x | y |", "|---|---|", "| 1 | 2 |",
    "g **h**", "$$", "---", "", "", "", "text", "   ", "\\[", "\\]", "* i", "中文。", "- ```"];

test("blocks found from the last one on are those of the whole text, at every length", () => {
    for (let seed = 1; seed <= 300; seed += 1) {
        const next = numbers(seed);
        const text = Array.from({ length: 12 }, () => BITS[next(BITS.length)]).join("\n");
        let start = 0;
        let settled = [];
        for (let end = 1; end <= text.length; end += 1) {
            const shown = end === text.length ? text : withoutUndecided(text.slice(0, end));
            const found = blocks(shown.slice(start));
            if (!found.length) continue;
            const all = [...settled, ...found.map((block) => [block.kind, block.source])];
            settled = all.slice(0, -1);
            start += found.at(-1).start;
            if (end === text.length) {
                assert.deepEqual(all, blocks(text).map((block) => [block.kind, block.source]), JSON.stringify(text));
            }
        }
    }
});

test("hostile texts take no time", () => {
    const texts = ["*a ".repeat(700), "[".repeat(2000), "**".repeat(1000), "`a``b".repeat(400), "> ".repeat(3000) + "x",
        "[a](".repeat(500), "$".repeat(2000), "_a*b~~".repeat(300), "![".repeat(1000) + "](".repeat(1000)];
    const begin = performance.now();
    for (const text of texts) {
        inlines(text, true);
        inlines(text, false);
        blocks(text);
    }
    const more = ["- ".repeat(5000), "  - a\n".repeat(5000), "|a".repeat(5000), "\n".repeat(100_000)];
    for (const text of more) blocks(text);
    assert.ok(performance.now() - begin < 20_000, "seconds, not minutes");
});
